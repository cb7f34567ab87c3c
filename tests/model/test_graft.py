"""Grafts: identities bit for bit, complements, and what each thing that stands in place of a part keeps of it."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nca_interp.base import UserError
from nca_interp.config import MODULES, ModelConfig
from nca_interp.graft import COVERS, Graft, matched_heads
from nca_interp.model.graft import Geometry, replaced, role_of, slices
from nca_interp.model.llama import build
from nca_interp.model.swap import swap
from nca_interp.swap_policy import TODAY, SwapPolicy
from tests.model.test_swap import parent_of

CONFIG = ModelConfig(n_layers=3, d_model=32, n_heads=4, d_mlp=48, n_ctx=64)
KEPT = SwapPolicy(embed="keep")
PARENT = parent_of(config=CONFIG).requires_grad_(False)
WHOLE = ("attn", "mlp", "norm")
EVERY_HEAD = tuple(itertools.product(range(3), range(4)))


def after(graft, *, policy=TODAY, parent=PARENT, heads=None, seed=0, donor=None):
    heads = graft.heads if heads is None else heads
    model, log = swap(parent, CONFIG, 300, seed, policy=policy, graft=graft, heads=heads, donor=donor)
    return dict(model.requires_grad_(False).named_parameters()), {row["tensor"]: row["action"] for row in log}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def full(policy=TODAY):
    return dict(swap(PARENT, CONFIG, 300, 0, policy=policy)[0].named_parameters())


def scratch():
    return dict(build(CONFIG, 300, 0, "pt").requires_grad_(False).named_parameters())


def test_re_initialising_nothing_is_full_transfer_and_everything_is_scratch():
    assert same(after(Graft())[0], full())
    assert same(after(Graft(parts=WHOLE))[0], scratch())
    assert same(after(Graft(parts=("qk", "v", "o", "mlp", "norm"), layers=(0, 1, 2)))[0], scratch())
    assert same(after(Graft(parts=("mlp", "norm"), heads=EVERY_HEAD))[0], scratch())
    assert same(after(Graft(parts=("embed", *WHOLE)), policy=KEPT)[0], scratch())


def test_keeping_everything_is_full_transfer_and_keeping_nothing_is_scratch():
    assert same(after(Graft(mode="keep", parts=WHOLE))[0], full())
    assert same(after(Graft(mode="keep", parts=("mlp", "norm"), heads=EVERY_HEAD))[0], full())
    assert same(after(Graft(mode="keep", parts=("embed", *WHOLE)), policy=KEPT)[0], full(KEPT))
    assert same(after(Graft(mode="keep"))[0], scratch())
    assert same(after(Graft(mode="keep"), policy=KEPT)[0], scratch())


@pytest.mark.parametrize("to", ["initial", "fresh"])
def test_the_fields_keep_and_reinit_to_are_grafts(to):
    for n in range(4):
        for kept in itertools.combinations(MODULES, n):
            old = swap(PARENT, CONFIG, 300, 0, kept, to)
            graft = Graft(mode="keep", parts=kept, instead=to)
            new = swap(PARENT, CONFIG, 300, 0, graft=graft)
            assert same(dict(old[0].named_parameters()), dict(new[0].named_parameters()))
            assert [row["action"] for row in old[1]] == [row["action"] for row in new[1]]


COMPLEMENTS = [
    ({"parts": ("attn",)}, {"parts": ("mlp", "norm")}),
    ({"parts": ("qk", "norm")}, {"parts": ("vo", "mlp")}),
    ({"parts": WHOLE, "layers": "lower"}, {"parts": WHOLE, "layers": "upper"}),
    ({"parts": WHOLE, "layers": (1,)}, {"parts": WHOLE, "layers": (0, 2)}),
    ({"heads": EVERY_HEAD[:5]}, {"heads": EVERY_HEAD[5:], "parts": ("mlp", "norm")}),
]


@pytest.mark.parametrize(("one", "other"), COMPLEMENTS)
@pytest.mark.parametrize("instead", ["initial", "fresh", "scaled", "directions", "permuted", "spectrum"])
def test_re_initialising_a_set_is_keeping_its_complement(one, other, instead):
    assert same(after(Graft(**one, instead=instead))[0], after(Graft(**other, mode="keep", instead=instead))[0])
    assert same(after(Graft(**other, instead=instead))[0], after(Graft(**one, mode="keep", instead=instead))[0])


def test_a_part_is_its_tensors_and_no_others():
    initial, whole = scratch(), full()
    for part, covered in COVERS.items():
        for layers in ("all", "lower", "upper", (1,), (0, 2)):
            graft = Graft(parts=(part,), layers=layers)
            found, numbers = after(graft, policy=KEPT if part == "embed" else TODAY)[0], graft.layer_numbers(3)
            start = full(KEPT) if part == "embed" else whole
            for name, tensor in found.items():
                role = role_of(name)
                at = 2 if role.kind == "norm" and role.layer is None else role.layer
                hit = role.kind in covered and (at is None or at in numbers)
                assert torch.equal(tensor, (initial if hit else start)[name]), (part, layers, name)


def test_a_head_is_rows_of_q_k_v_and_columns_of_o():
    found, actions = after(Graft(heads=((1, 2),)))
    initial, whole = scratch(), full()
    for name, tensor in found.items():
        role, expected = role_of(name), whole[name].clone()
        if role.layer == 1 and role.kind in "qkv":
            expected[16:24] = initial[name][16:24]
        if role.layer == 1 and role.kind == "o":
            expected[:, 16:24] = initial[name][:, 16:24]
        assert torch.equal(tensor, expected), name
    assert actions["model.layers.1.self_attn.q_proj.weight"] == "re-initialised (initial): heads 2; else carried over"


def test_the_output_of_a_head_that_was_grafted_is_the_only_one_that_changes():
    """What each head adds to the stream, W_O[:, h] W_V[h], by hand."""
    found, whole = after(Graft(heads=((0, 3),)))[0], full()
    for head in range(4):
        at = slice(8 * head, 8 * head + 8)
        ov, before = (
            w["model.layers.0.self_attn.o_proj.weight"][:, at] @ w["model.layers.0.self_attn.v_proj.weight"][at]
            for w in (found, whole)
        )
        assert torch.equal(ov, before) is (head != 3)


def blocks_of(name, tensor, heads):
    """The slices that a graft of these heads of layer 1 replaces, else the whole tensor."""
    role = role_of(name)
    if heads is None:
        return [tensor]
    return [tensor[at] for _, at in slices(role, heads, tensor.shape, Geometry(3, 4, 4))]


@pytest.mark.parametrize("heads", [None, (0, 2)])
def test_what_each_stand_in_keeps(heads):
    named = {"parts": WHOLE} if heads is None else {"heads": tuple((1, h) for h in heads)}
    initial, parent = scratch(), dict(PARENT.named_parameters())
    found = {
        how: after(Graft(**named, instead=how))[0] for how in ("permuted", "scaled", "directions", "spectrum", "fresh")
    }
    for name, before in parent.items():
        role = role_of(name)
        if role.kind == "embed" or (heads is not None and (role.layer != 1 or role.kind not in "qkvo")):
            continue
        whole = [blocks_of(name, w, heads) for w in (before, initial[name], *(found[how][name] for how in found))]
        for p, theta, permuted, scaled, directions, spectrum, fresh in zip(*whole, strict=True):
            assert torch.equal(permuted.flatten().sort().values, p.flatten().sort().values)
            assert not torch.equal(permuted, p)
            assert torch.allclose(scaled / theta, (p.norm() / theta.norm()).expand_as(theta), rtol=1e-4)
            assert scaled.norm().item() == pytest.approx(p.norm().item(), rel=1e-5)
            assert directions.norm().item() == pytest.approx(theta.norm().item(), rel=1e-5)
            assert torch.cosine_similarity(directions.flatten(), p.flatten(), 0).item() == pytest.approx(1, abs=1e-5)
            if p.ndim == 2:
                s, own = (torch.linalg.svdvals(w.double()) for w in (p, spectrum))
                assert torch.allclose(s, own, rtol=1e-4)
                assert torch.cosine_similarity(spectrum.flatten(), p.flatten(), 0).abs() < 0.3
                assert not torch.equal(fresh, theta)
                assert fresh.std().item() == pytest.approx(0.02, rel=0.15)


def test_stand_ins_differ_by_seed_and_by_tensor_and_not_by_call():
    for how in ("permuted", "spectrum"):
        graft = Graft(parts=("attn",), instead=how)
        first, again, other = (after(graft, seed=seed)[0] for seed in (0, 0, 1))
        assert same(first, again)
        q, k = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight")
        assert not torch.equal(first[q], other[q])
    ranks = {n: after(Graft(parts=("attn",), instead="permuted"), parent=ramp())[0][n].flatten() for n in (q, k)}
    assert not torch.equal(ranks[q], ranks[k])


def ramp():
    model = build(CONFIG, 300, 0, "ppt")
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.arange(p.numel(), dtype=torch.float32).view_as(p))
    return model


def test_a_donor_gives_what_is_not_carried_over():
    donor = build(CONFIG, 50, 7, "ppt")
    given = dict(donor.named_parameters())
    graft = Graft(parts=("attn",), instead="donor", donor="dyck")
    found, actions = after(graft, donor=donor)
    for name, tensor in found.items():
        if role_of(name).kind != "embed":
            source = given if role_of(name).kind in ("q", "k", "v", "o") else dict(PARENT.named_parameters())
            assert torch.equal(tensor, source[name])
    assert actions["model.layers.0.self_attn.q_proj.weight"] == "weights of dyck"
    kept = Graft(mode="keep", parts=WHOLE, instead="donor", donor="dyck")
    assert same(after(kept, policy=KEPT, donor=donor)[0], full())  # of another vocabulary: drawn anew


def test_kept_embeddings_may_be_permuted_and_drawn_ones_are_left():
    found = after(Graft(parts=("embed",), instead="permuted"), policy=KEPT)[0]["model.embed_tokens.weight"]
    own = PARENT.get_input_embeddings().weight
    assert torch.equal(found.flatten().sort().values, own.flatten().sort().values)
    assert not torch.equal(found, own)
    assert same(after(Graft(mode="keep", parts=WHOLE, instead="permuted"))[0], full())


def test_heads_that_share_keys_and_values_go_together_or_not_at_all():
    at = Geometry.of(LlamaConfig(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=32))
    k, q = (role_of(f"model.layers.0.self_attn.{p}_proj.weight") for p in "kq")
    graft = Graft(heads=((0, 2), (0, 3)))
    assert replaced(k, graft, graft.heads, at) == (1,)
    assert replaced(q, graft, graft.heads, at) == (2, 3)
    assert [index for _, index in slices(k, (1,), torch.Size([16, 32]), at)] == [(slice(8, 16),)]
    with pytest.raises(UserError, match=r"heads 0 to 1 of layer 0 share one head of K and V.*legal: whole groups"):
        replaced(k, Graft(heads=((0, 0),)), ((0, 0),), at)
    assert replaced(k, Graft(parts=("attn",)), (), at) is True
    assert replaced(q, Graft(), (), at) is False


def test_roles_are_those_of_every_parameter():
    tiny = LlamaForCausalLM(
        LlamaConfig(num_hidden_layers=2, num_attention_heads=2, hidden_size=16, intermediate_size=16, vocab_size=8)
    )
    found = [role_of(name) for name, _ in tiny.named_parameters()]
    assert {r.kind for r in found} == {"embed", "q", "k", "v", "o", "mlp", "norm"}
    assert sum(r.kind == "norm" and r.layer is None for r in found) == 1
    assert all((r.layer is None) == (r.kind == "embed" or (r.kind == "norm" and r.layer is None)) for r in found)


def test_matched_sets_have_as_many_heads_a_layer_and_none_of_the_named():
    named = ((0, 1), (0, 2), (2, 3))
    sets = [matched_heads(named, 6, number) for number in range(30)]  # 6 pairs x 5
    assert len({s.heads for s in sets}) == 30
    for found in sets:
        assert found.disjoint
        assert sorted(layer for layer, _ in found.heads) == [0, 0, 2]
        assert not set(found.heads) & set(named)
    with pytest.raises(ValueError, match="matched: 30; these layers have 30 such set"):
        matched_heads(named, 6, 30)


def test_a_layer_with_too_few_others_shares_some_and_says_so():
    found = [matched_heads(((0, 0), (0, 1), (0, 2)), 4, number) for number in range(3)]
    for one in found:
        assert not one.disjoint
        assert len(set(one.heads)) == 3
        assert (0, 3) in one.heads
    assert len({one.heads for one in found}) == 3
    with pytest.raises(ValueError, match="no other set"):
        matched_heads(tuple((0, h) for h in range(4)), 4, 0)


def test_many_sets_are_drawn_one_by_one():
    named = tuple((layer, head) for layer in range(6) for head in range(3))
    sets = [matched_heads(named, 16, number) for number in range(20)]
    assert len({s.heads for s in sets}) == 20
    assert all(s.disjoint and len(s.heads) == len(named) for s in sets)
    assert matched_heads(named[::-1], 16, 7) == sets[7]
