"""What lies after attention: gates, norms before and after the output projection, factors; measured as the model applies them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as t

from nca_interp.analysis.attention.anatomy import anatomy
from nca_interp.analysis.attention.kernel import register
from nca_interp.analysis.causes.ablation import Site, ablate, mean_outputs
from nca_interp.analysis.causes.effects import Scored, repeated_task
from nca_interp.analysis.causes.patching import METRIC, edge
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.probing.measure import Measurer
from nca_interp.analysis.stimuli.base import NotApplicable, Subject
from nca_interp.discover import load

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "head_dim": 8,
}  # fmt: skip
LOSS = "repeated_token_loss"
SUBJECT = Subject("tiny", 97, 96, prefix=(1,))
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_dense_layers": 2}
FAMILIES = {
    "qwen3_5": (t.Qwen3_5ForCausalLM, t.Qwen3_5TextConfig, {"layer_types": ["full_attention"] * 2}, None),
    "qwen3_next": (t.Qwen3NextForCausalLM, t.Qwen3NextConfig, {"layer_types": ["full_attention"] * 2, "mlp_only_layers": [0, 1]}, None),
    "afmoe": (t.AfmoeForCausalLM, t.AfmoeConfig, {**EXPERTS, "layer_types": ["full_attention"] * 2}, "post_attention_layernorm"),
    "bitnet": (t.BitNetForCausalLM, t.BitNetConfig, {}, None),
    "glm4": (t.Glm4ForCausalLM, t.Glm4Config, {}, "post_self_attn_layernorm"),
    "gemma2": (t.Gemma2ForCausalLM, t.Gemma2Config, {"layer_types": ["full_attention"] * 2}, "post_attention_layernorm"),
    "exaone4": (t.Exaone4ForCausalLM, t.Exaone4Config, {"layer_types": ["full_attention"] * 2}, "post_attention_layernorm"),
    "granite": (t.GraniteForCausalLM, t.GraniteConfig, {"residual_multiplier": 0.3, "logits_scaling": 2.0}, None),
}  # fmt: skip
"""Model, configuration, what it needs beside SMALL, and the norm of what attention writes."""


def built(family: str):
    """A random model whose gains differ much from entry to entry, whose gates are far from one half."""
    model_class, config_class, more, _ = FAMILIES[family]
    torch.manual_seed(0)
    model = model_class(config_class(**SMALL | more)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.copy_(p + torch.randn_like(p))
            elif any(part in name for part in ("q_proj", "k_proj", "gate_proj")):
                p.mul_(20.0)
    return model


def opened(family: str):
    model = built(family)
    model.set_attn_implementation(register())
    return model


def score(model, written, layer, norm, batch, attended):
    """Copying as its definition says, of what each head wrote [batch, head, position, d_model]."""
    base, tokens = model.base_model, torch.from_numpy(batch.inputs)
    norms = [getattr(base.layers[layer], norm)] * (norm is not None) if norm else []
    for module in (*norms, base.norm):
        written = module(written)
    context = tokens[:, : batch.start + batch.period]
    late = slice(batch.start + batch.period, batch.start + 2 * batch.period)
    logits = torch.einsum("bhqm,bnm->bhqn", written[:, :, late], model.lm_head.weight[context])
    on = tokens[:, None].expand(-1, 4, -1).gather(2, attended[:, :, late])
    place = (context[:, None, None] == on[..., None]).int().argmax(-1, keepdim=True)
    rank = logits.argsort(-1).argsort(-1).gather(-1, place)[..., 0]
    return (2 * rank / (context.shape[-1] - 1) - 1).mean((0, 2))


@pytest.mark.parametrize("family", FAMILIES)
def test_copying_is_that_of_what_enters_the_projection_and_leaves_the_branch(family):
    model, norm = built(family), FAMILIES[family][3]
    probes = {"copying": load("probes")["copying"]}
    batch = probes["copying"].value.stimulus.build(SUBJECT)
    model.set_attn_implementation("eager")
    reached, own = {}, {}
    for n, layer in enumerate(model.base_model.layers):
        layer.self_attn.o_proj.register_forward_pre_hook(lambda m, a, n=n: reached.__setitem__(n, a[0]))
        layer.self_attn.v_proj.register_forward_hook(lambda m, a, out, n=n: own.__setitem__(n, out))
    with torch.inference_mode():
        maps = model(torch.from_numpy(batch.inputs), output_attentions=True, use_cache=False).attentions
    expected, naive = [], []
    for n, layer in enumerate(model.base_model.layers):
        values = own[n].unflatten(-1, (2, 8)).transpose(1, 2).repeat_interleave(2, 1)
        weight = layer.self_attn.o_proj.weight.T.reshape(4, 8, 32)
        with torch.inference_mode():
            z = reached[n].unflatten(-1, (4, 8)).transpose(1, 2)
            expected.append(score(model, z @ weight, n, norm, batch, maps[n].argmax(-1)))
            naive.append(score(model, maps[n] @ values @ weight, n, None, batch, maps[n].argmax(-1)))
    model.set_attn_implementation(register())
    found = Measurer(probes).measure(model, SUBJECT)
    assert not found.skipped
    assert not found.problems
    said = torch.tensor([row["value"] for row in sorted(found.rows, key=lambda r: (r["layer"], r["head"]))])
    assert torch.allclose(said, torch.cat(expected), atol=5e-4)  # a rank may turn on the last bit
    if family != "granite":  # what the definition would give without gate and norms is another number
        assert (said - torch.cat(naive)).abs().max() > 2e-3


@pytest.mark.parametrize("family", ["qwen3_5", "afmoe", "bitnet", "glm4", "granite"])
def test_ablated_heads_are_left_out_where_they_enter_the_projection(family):
    model, task = opened(family), repeated_task(SUBJECT)
    trunk = Trunk(model)
    found, means = ablate(trunk, task), mean_outputs(trunk, task)
    tokens, targets = (torch.from_numpy(x) for x in (task.batch.inputs, task.batch.targets))
    for layer, head in ((0, 1), (1, 3)):

        def without(module, args, layer=layer, head=head):
            z = args[0].clone()
            z[..., 8 * head : 8 * head + 8] = means[layer][:, head]
            return (z,)

        handle = model.base_model.layers[layer].self_attn.o_proj.register_forward_pre_hook(without)
        with torch.inference_mode():
            logits = model(tokens, use_cache=False).logits[:, : targets.shape[1]]
        handle.remove()
        nll = torch.nn.functional.cross_entropy(logits.mT, targets, reduction="none").double()
        expected = task.metrics[LOSS].values(Scored(nll, targets), task.batch)
        assert torch.allclose(found.after[Site("head", layer, head)][LOSS], expected, atol=1e-4)


def test_an_edge_carries_what_the_layer_adds():
    """Granite adds 0.3 of what attention writes: the later head must see the change of that size."""
    model, task = opened("granite"), repeated_task(SUBJECT)
    trunk = Trunk(model)
    found, means = edge(trunk, task, (0, 1), (1, 2)), mean_outputs(trunk, task)
    tokens, targets = (torch.from_numpy(x) for x in (task.batch.inputs, task.batch.targets))
    first, second = model.base_model.layers
    kept = {}

    def run(*hooks):
        handles = [module.register_forward_hook(hook) if post else module.register_forward_pre_hook(hook) for module, hook, post in hooks]  # fmt: skip
        with torch.inference_mode():
            logits = model(tokens, use_cache=False).logits[:, : targets.shape[1]]
        for handle in handles:
            handle.remove()
        nll = torch.nn.functional.cross_entropy(logits.mT, targets, reduction="none").double()
        return task.metrics[METRIC].values(Scored(nll, targets), task.batch)

    def mean(module, args):
        return (torch.cat([args[0][..., :8], means[0][:, 1].expand_as(args[0][..., 8:16]), args[0][..., 16:]], -1),)

    def swap(module, args):
        return (torch.cat([args[0][..., :16], kept["z"][..., 16:24], args[0][..., 24:]], -1),)

    full = run((first.mlp, lambda m, a, out: kept.__setitem__("mlp", out), True))
    run(
        (first.self_attn.o_proj, mean, False),
        (first.mlp, lambda m, a, out: kept["mlp"], True),
        (second.self_attn.o_proj, lambda m, a: kept.__setitem__("z", a[0]), False),
    )
    expected = run((second.self_attn.o_proj, swap, False)) - full
    assert found.change.abs().max() > 1e-4
    assert torch.allclose(found.change, expected, atol=1e-5)


@pytest.mark.parametrize("family", ["glm4", "afmoe", "exaone4", "gemma2"])
def test_edges_do_not_exist_where_the_branch_is_normalised(family):
    with pytest.raises(NotApplicable, match="normalised"):
        edge(Trunk(opened(family)), repeated_task(SUBJECT), (0, 1), (1, 2))


def test_a_residual_stream_that_is_normalised_itself_is_no_sum(tmp_path):
    """BART's decoder normalises the sum: nothing that a head writes reaches the end by itself."""
    config = t.BartConfig(vocab_size=97, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=48, max_position_embeddings=96)  # fmt: skip
    model = t.BartForCausalLM(config).eval()
    model.set_attn_implementation(register())
    parts = anatomy(model, np.arange(3, 20)[None])
    assert parts.blocks
    with pytest.raises(NotApplicable, match="BartDecoderLayer adds to the residual stream is not"):
        parts.block(next(iter(parts.blocks)))


def test_the_module_graph_of_a_family_is_found_by_position():
    model = opened("afmoe")
    parts = anatomy(model, np.arange(3, 20)[None])
    for layer in model.model.layers:
        block = parts.block_of(layer)
        assert block.projection is layer.self_attn.o_proj
        assert block.after == (layer.post_attention_layernorm,)
        assert block.scale == pytest.approx(1)
    assert parts.final() == (model.model.norm,)
    granite = opened("granite")
    assert anatomy(granite, np.arange(3, 20)[None]).block_of(granite.model.layers[1]).scale == pytest.approx(0.3)
