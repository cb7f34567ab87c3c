"""Any architecture as a network of a study: recognised by role, drawn tensor by tensor, swapped like the project's own Llama."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from nca_interp.base import UserError
from nca_interp.config import MODULES, ModelConfig
from nca_interp.graft import Graft
from nca_interp.model.llama import build, kind_of
from nca_interp.model.own_forward import own_forward, training_forward
from nca_interp.model.parent import check_causal, check_trains, open_parent, parent_of
from nca_interp.model.roles import kinds_of, layers_of, unembedding_of
from nca_interp.model.swap import swap
from nca_interp.swap_policy import SwapPolicy
from tests.model.families import FAMILIES, saved

VOCAB = 40


@pytest.fixture(scope="module", params=FAMILIES)
def parent(request, tmp_path_factory):
    """(family, what its checkpoint is, the opened model)."""
    folder = saved(request.param, tmp_path_factory.mktemp("parents") / request.param)
    return request.param, parent_of(str(folder)), open_parent(str(folder))


def same(a, b):
    pairs = list(zip(a.named_parameters(), b.named_parameters(), strict=True))
    return all(n == m and torch.equal(p, q) for (n, p), (m, q) in pairs)


def test_re_initialising_nothing_is_full_transfer_and_everything_is_scratch_bit_for_bit(parent):
    _, found, model = parent
    scratch = build(found.model, VOCAB, 3, "pt")
    assert same(swap(model, found.model, VOCAB, 3, keep=())[0], scratch)
    full, log = swap(model, found.model, VOCAB, 3)
    old, new, drawn = (dict(m.named_parameters()) for m in (model, full, scratch))
    kinds = kinds_of(full)
    for name in new:
        assert torch.equal(new[name], drawn[name] if kinds[name] == "embed" else old[name]), name
    assert {row["tensor"]: row["kind"] for row in log} == kinds


@pytest.mark.parametrize("module", MODULES)
def test_one_part_re_initialised_is_that_part_of_scratch(parent, module):
    _, found, model = parent
    arm, _ = swap(model, found.model, VOCAB, 3, keep=tuple(m for m in MODULES if m != module))
    scratch = dict(build(found.model, VOCAB, 3, "pt").named_parameters())
    old, kinds = dict(model.named_parameters()), kinds_of(arm)
    changed = {
        kinds[n]
        for n, p in arm.named_parameters()
        if n in old and p.shape == old[n].shape and not torch.equal(p, old[n])
    }
    assert changed - {"embed"} == {module}
    assert all(torch.equal(p, scratch[n]) for n, p in arm.named_parameters() if kinds[n] in (module, "embed"))


def test_each_tensor_is_a_function_of_seed_name_and_stream(parent):
    _, found, _ = parent
    one, again, other, stage = (
        build(found.model, VOCAB, s, t) for s, t in ((0, "pt"), (0, "pt"), (1, "pt"), (0, "ppt"))
    )
    assert same(one, again)
    kinds = kinds_of(one)
    for (name, p), (_, q), (_, r) in zip(
        one.named_parameters(), other.named_parameters(), stage.named_parameters(), strict=True
    ):
        if bool((p == p.flatten()[0]).all()):
            assert torch.equal(p, q)
            continue
        assert not torch.equal(p, q), name
        assert torch.equal(p, r) is (kinds[name] != "embed"), name


def test_scratch_has_the_spread_of_its_family(parent):
    """Against transformers' own draw: the same constants, root mean squares alike up to chance."""
    from transformers import AutoModelForCausalLM

    _, found, model = parent
    ours = build(found.model, 61, 0, "pt")
    torch.manual_seed(5)
    theirs = dict(AutoModelForCausalLM.from_config(ours.config).named_parameters())
    for name, p in ours.named_parameters():
        q = theirs[name].detach()
        if p.numel() < 500:
            assert torch.equal(p, q), name
        else:
            assert p.square().mean().sqrt().item() == pytest.approx(q.square().mean().sqrt().item(), rel=0.12), name


def test_the_fast_pass_is_taken_where_it_computes_the_same_and_only_there(parent):
    family, found, model = parent
    child, _ = swap(model, found.model, VOCAB, 0)
    check_trains(child, VOCAB)
    rows = torch.randint(VOCAB, (2, 17), generator=torch.Generator().manual_seed(0))
    values = []
    for forward in (training_forward, own_forward):
        with forward(child, "fp32"):
            values.append(child(rows[:, :-1], rows[:, 1:]).item())
    expected = torch.nn.functional.cross_entropy(
        child(rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum"
    )
    assert values[0] == pytest.approx(expected.item(), rel=1e-5)
    assert values[1] == pytest.approx(expected.item(), rel=1e-6)
    fast = training_forward(child, "fp32").gen.__qualname__ == "fast_forward"
    assert fast is (family == "llama")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_changes_no_gradient_and_precision_little(tmp_path, precision, checkpointing):
    found = parent_of(str(saved("gpt2", tmp_path)))
    rows = torch.randint(VOCAB, (2, 17), generator=torch.Generator().manual_seed(0))
    gradients = []
    for how, again in ((precision, checkpointing), ("fp32", False)):
        model = build(found.model, VOCAB, 0, "pt").train()
        with own_forward(model, how, checkpointing=again):
            model(rows[:, :-1], rows[:, 1:]).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    near = torch.nn.functional.cosine_similarity(*gradients, dim=0).item()
    assert near > (0.99 if precision == "bf16" else 1 - 1e-6)
    assert torch.equal(*gradients) is (precision == "fp32")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["neox", "gpt2"])
def test_tied_follows_the_checkpoint_and_the_policy_may_change_it(tmp_path, family, tied):
    found, model = parent_of(str(saved(family, tmp_path, tied=tied))), open_parent(str(tmp_path))
    assert found.model.tied is tied
    assert (unembedding_of(model) is None) is tied
    policy = SwapPolicy(tied=not tied)
    child, _ = swap(model, policy.applied(found.model), VOCAB, 0, policy=policy)
    assert (unembedding_of(child) is None) is not tied
    scratch = build(policy.applied(found.model), VOCAB, 0, "pt")
    assert torch.equal(child.get_output_embeddings().weight, scratch.get_output_embeddings().weight)


def test_norms_reset_are_those_of_scratch_and_scales_those_asked(tmp_path):
    found, model = parent_of(str(saved("gpt2", tmp_path))), open_parent(str(tmp_path))
    policy = SwapPolicy(embed_std=1.0, body_scale="reset_norms")
    child, _ = swap(model, policy.applied(found.model), 2000, 0, policy=policy)
    scratch, kinds = dict(build(found.model, 2000, 0, "pt").named_parameters()), kinds_of(child)
    assert all(torch.equal(p, scratch[n]) for n, p in child.named_parameters() if kinds[n] == "norm")
    assert child.get_input_embeddings().weight.std().item() == pytest.approx(1.0, rel=0.02)


def test_of_gpt2_positions_go_with_attention_and_its_residual_products_are_drawn_smaller(tmp_path):
    found = parent_of(str(saved("gpt2", tmp_path)))
    model = build(found.model, VOCAB, 0, "pt")
    kinds, parts = kinds_of(model), dict(model.named_parameters())
    assert kinds["transformer.wpe.weight"] == kinds["transformer.h.0.attn.c_attn.weight"] == "attn"
    assert Counter(kinds.values())["embed"] == 1
    assert parts["transformer.h.1.mlp.c_proj.weight"].std().item() == pytest.approx(0.02 / 2, rel=0.1)
    assert parts["transformer.wpe.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert len(layers_of(model)) == 2


def test_of_our_own_llama_kinds_are_those_of_its_names():
    model = build(ModelConfig(n_layers=2, d_model=32, n_heads=4, d_mlp=48, n_ctx=64), 50, 0, "pt")
    assert kinds_of(model) == {name: kind_of(name) for name, _ in model.named_parameters()}
    assert unembedding_of(model) == "lm_head.weight"


@pytest.mark.parametrize(
    ("family", "told"),
    [
        ("mamba", r"no attention heads|tensor .* of Mamba.*: it mixes positions without attention"),
        ("rwkv", "no attention heads|mixes positions"),
    ],
)
def test_what_has_no_attention_is_refused_by_name(tmp_path, family, told):
    import transformers as t

    config = {
        "mamba": lambda: t.MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, state_size=4),
        "rwkv": lambda: t.RwkvConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16),
    }[family]()
    t.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=told):
        parent_of(str(tmp_path))


def test_an_encoder_and_a_quantised_checkpoint_are_refused(tmp_path):
    import json

    import transformers as t

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    bert = t.BertLMHeadModel(t.BertConfig(vocab_size=40, max_position_embeddings=64, **sizes))
    with pytest.raises(UserError, match="not a causal language model"):
        check_causal(bert.eval())
    bert.save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match=r"bert: BertLMHeadModel: .*(token_type|not a causal)"):
        parent_of(str(tmp_path / "bert"))
    t.T5ForConditionalGeneration(t.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(tmp_path / "t5")  # fmt: skip
    with pytest.raises(UserError, match="'t5' is not a causal language model"):
        parent_of(str(tmp_path / "t5"))
    saved("qwen2", tmp_path / "packed")
    file = tmp_path / "packed" / "config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    )
    with pytest.raises(UserError, match=r"packed: quantised weights \(gptq\), which cannot be trained"):
        parent_of(str(tmp_path / "packed"))


@pytest.mark.parametrize("family", ["llama", "neox", "gpt2"])
def test_a_head_that_is_re_initialised_computes_what_it_does_in_scratch_and_the_others_what_they_did(tmp_path, family):
    """By what reaches the output projection for the same tokens of layer 0, fused Q, K and V included."""
    found = parent_of(str(saved(family, tmp_path)))
    model, policy = open_parent(str(tmp_path)), SwapPolicy()
    scratch, full = build(found.model, VOCAB, 0, "pt"), swap(model, found.model, VOCAB, 0)[0]
    arm = swap(model, found.model, VOCAB, 0, policy=policy, graft=Graft(heads=("0.1", "0.3")), heads=((0, 1), (0, 3)))[
        0
    ]
    x = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(0))
    z = [reaching(m, x) for m in (arm, scratch, full)]
    for head in range(4):
        assert torch.allclose(z[0][head], z[1 if head in (1, 3) else 2][head], atol=1e-6), head
        assert not torch.allclose(z[0][head], z[2 if head in (1, 3) else 1][head], atol=1e-4), head


def reaching(model, x):
    """What the heads of layer 0 hand to the output projection for the normed stream x [1, position, d_model]: [head, position, d_head]."""
    block, got = layers_of(model)[0], []
    attention = next(m for m in block.modules() if type(m).__name__.endswith("Attention"))
    out = next(getattr(attention, n) for n in ("o_proj", "dense", "c_proj") if hasattr(attention, n))
    handles = [
        attention.register_forward_pre_hook(lambda m, a, k: (((x, *a[1:]) if a else a), {**k, "hidden_states": x} if "hidden_states" in k else k), with_kwargs=True),
        out.register_forward_pre_hook(lambda m, a: got.append(a[0].detach())),
    ]  # fmt: skip
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, x.shape[1], dtype=torch.long))
    finally:
        for handle in handles:
            handle.remove()
    return got[0][0].unflatten(-1, (4, 8)).transpose(0, 1)


@pytest.mark.parametrize("parts", [("q",), ("qk",), ("vo",), ("attn",)])
def test_grafts_of_parts_are_the_same_in_fused_matrices(tmp_path, parts):
    """Re-initialising a part and keeping all but it are the same network, in families with and without fused matrices."""
    others = {"q": ("k", "v", "o"), "qk": ("vo",), "vo": ("qk",), "attn": ()}[parts[0]]
    for family in ("llama", "neox", "gpt2"):
        found, model = parent_of(str(saved(family, tmp_path / family))), open_parent(str(tmp_path / family))
        arms = [
            swap(model, found.model, VOCAB, 0, graft=graft)[0]
            for graft in (Graft(parts=parts), Graft(mode="keep", parts=(*others, "mlp", "norm", "embed")))
        ]
        (one, other), kinds = (dict(arm.named_parameters()) for arm in arms), kinds_of(arms[0])
        wrong = [n for n in one if not torch.equal(one[n], other[n])]
        # learned positions go with the whole of attention, so both leave them as they are or both do not
        assert wrong in ([], ["transformer.wpe.weight"] if parts != ("attn",) else []), (family, wrong, kinds)


def test_heads_of_a_family_whose_matrices_are_not_told_apart_are_refused(tmp_path):
    import transformers as t

    from nca_interp.model.graft import Geometry, pieces_of, replaced

    config = t.FalconConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64
    )
    model = t.FalconForCausalLM(config)
    roles = [piece.role for pieces in pieces_of(model).values() for piece in pieces]
    for graft, heads in ((Graft(heads=("0.1",)), ((0, 1),)), (Graft(parts=("qk",)), ())):
        with pytest.raises(UserError, match=r"not told apart into Q, K, V and O by head; legal: part attn"):
            [replaced(role, graft, heads, Geometry.of(config)) for role in roles]
    assert any(replaced(role, Graft(parts=("attn",)), (), Geometry.of(config)) is True for role in roles)
