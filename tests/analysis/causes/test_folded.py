"""Weights with norms folded in: against TransformerLens, against the model's own attention scores, and refused where they are none."""

from __future__ import annotations

import pytest
import torch
import transformers as t

from nca_interp.analysis.causes import causes, stages
from nca_interp.analysis.causes.composition import eigenvalue_scores, read_weights
from nca_interp.analysis.causes.folded import OFFSETS
from nca_interp.analysis.causes.transformer_lens import to_transformer_lens
from nca_interp.analysis.stimuli.base import NotApplicable
from tests.analysis.models import tiny

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
WHOLE = {"num_key_value_heads": 4}
LATENT = {
    **WHOLE, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 2, "n_group": 1,
    "topk_group": 1,
}  # fmt: skip
BUILT = {
    "smollm3": (t.SmolLM3ForCausalLM, t.SmolLM3Config, {"no_rope_layers": [1, 0]}),
    "cohere2": (t.Cohere2ForCausalLM, t.Cohere2Config, {"layer_types": ["sliding_attention", "full_attention"]}),
    "glm": (t.GlmForCausalLM, t.GlmConfig, {"partial_rotary_factor": 0.5, "head_dim": 8, "attention_bias": False}),
    "granite": (t.GraniteForCausalLM, t.GraniteConfig, {"residual_multiplier": 0.3, "attention_multiplier": 0.7}),
    "phi": (t.PhiForCausalLM, t.PhiConfig, {**WHOLE, "partial_rotary_factor": 0.5}),
    "hunyuan": (t.HunYuanDenseV1ForCausalLM, t.HunYuanDenseV1Config, {"head_dim": 8}),
    "glm4": (t.Glm4ForCausalLM, t.Glm4Config, {"head_dim": 8}),
    "bitnet": (t.BitNetForCausalLM, t.BitNetConfig, {}),
    "persimmon": (t.PersimmonForCausalLM, t.PersimmonConfig, {"partial_rotary_factor": 0.5}),
    "deepseek_v3": (t.DeepseekV3ForCausalLM, t.DeepseekV3Config, LATENT),
    "mbart": (t.MBartForCausalLM, t.MBartConfig, {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}),
}  # fmt: skip


def built(family: str):
    if family not in BUILT:
        return tiny(family)
    model_class, config_class, more = BUILT[family]
    torch.manual_seed(0)
    config = config_class(**({k: v for k, v in SMALL.items() if family != "mbart" or k != "num_hidden_layers"} | more))
    model = model_class(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1 and "norm" in name and "bias" not in name:
                p.add_(torch.randn_like(p) / 2)
            elif any(part in name for part in ("q_proj", "k_proj", "query_key_value")):
                p.mul_(8.0)
    return model


@pytest.mark.parametrize("family", ["llama-gqa", "neox", "gpt2", "gemma", "mistral"])
def test_they_are_those_that_transformer_lens_folds(family):
    ours, bridge = read_weights(built(family)), to_transformer_lens(built(family), "tiny")
    bridge.process_weights(fold_ln=True, center_writing_weights=False, center_unembed=False, fold_value_biases=False)
    for name in ("w_q", "w_k", "w_v", "w_o", "w_e", "w_u"):
        found, theirs = getattr(ours, name), getattr(bridge, name.upper()).detach().double()
        if found.ndim == 4:
            theirs = theirs.repeat_interleave(4 // theirs.shape[1], 1)
        factor = float((found * theirs).sum() / theirs.square().sum())
        assert factor > 0
        assert torch.allclose(found, factor * theirs, atol=1e-5 * float(found.abs().max()))


@pytest.mark.parametrize("family", ["llama-gqa", "smollm3", "cohere2", "glm", "granite"])
def test_scores_of_the_weights_are_those_of_the_model(family):
    """log A[q, k] - log A[q, q] of the model's own attention, at every offset that there is."""
    model, length = built(family), 80
    weights = read_weights(model)
    model.set_attn_implementation("eager")
    tokens = torch.randint(3, 97, (2, length), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        out = model(tokens, output_attentions=True, output_hidden_states=True)
    at, scale = torch.tensor([o for o in OFFSETS if o < length]), 0.7 if family == "granite" else 8**-0.5
    for layer in range(2):
        x = out.hidden_states[layer].double()
        if family == "cohere2":
            x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt() / (32 / 31**0.5)
        else:
            x = x / (x.square().mean(-1, keepdim=True) + model.config.rms_norm_eps).sqrt() / 32**0.5
        turned = torch.einsum("bqm,hmd,ode->bhoqe", x, weights.w_q[layer], weights.rotations[layer])
        keys = torch.einsum("bkm,hmd->bhkd", x, weights.w_k[layer])
        query = length - 1
        said = torch.einsum("bhoe,bhoe->bho", turned[:, :, : len(at), query], keys[:, :, query - at]) * scale
        real = out.attentions[layer][:, :, query, query - at].double().log()
        gap = (said - said[..., :1]) - (real - real[..., :1])
        assert gap.abs().max() < 1e-3
        assert (said - said[..., :1]).std() > 0.1


def test_layers_without_rotary_embedding_are_given_none():
    frame = eigenvalue_scores(read_weights(built("smollm3")))
    wide = frame[frame.probe == "qk_matching"].pivot_table("value", ["layer", "head"], "at")
    gap = (wide["offset 0"] - wide.drop(columns="offset 0").iloc[:, 0]).abs()
    assert gap[0].max() > 0.01
    assert gap[1].max() < 1e-9
    turns = read_weights(built("cohere2")).rotations
    assert torch.equal(turns[1], torch.eye(8).double().expand_as(turns[1]))
    assert not torch.equal(turns[0], turns[1])


def test_of_a_partial_rotary_embedding_only_its_part_turns():
    turns = read_weights(built("phi")).rotations
    assert torch.allclose(turns[:, :, 4:, 4:], torch.eye(4).double(), atol=1e-5)
    assert turns[:, :, :4, 4:].abs().max() < 1e-5
    assert (turns[:, 1:, :4, :4] - torch.eye(4)).abs().max() > 0.1
    assert torch.allclose(turns @ turns.mT, torch.eye(8).double(), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("qwen3", r"queries of Qwen3Attention are not linear .*q_norm, k_norm"),
        ("hunyuan", r"queries of HunYuan.* are not linear .*query_layernorm"),
        ("persimmon", r"queries of Persimmon.*q_layernorm"),
        ("deepseek_v3", r"queries of DeepseekV3Attention are not linear .*q_a_layernorm"),
        ("glm4", r"Glm4DecoderLayer normalises .*post_self_attn_layernorm"),
        ("olmo2", r"Olmo2DecoderLayer normalises .*post_attention_layernorm"),
        ("bitnet", r"BitNetAttention changes what its heads put out"),
        ("mbart", r"not the embedding"),
        ("gpt_oss", r"cannot be read"),
    ],
)
def test_where_scores_are_not_linear_in_weights_there_are_none(family, reason):
    with pytest.raises(NotApplicable, match=reason):
        read_weights(built(family))


@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        ("model.layers.1.self_attn.q_proj", lambda out: out.tanh(), "queries of LlamaAttention"),
        ("model.layers.1.self_attn.k_proj", lambda out: out.abs(), "keys of LlamaAttention"),
        ("model.layers.0.self_attn.v_proj", lambda out: out.relu(), "values of LlamaAttention"),
        ("model.layers.0.self_attn.q_proj", lambda out: out * torch.arange(1.0, 1 + out.shape[1])[:, None], "relative positions"),
        ("model.layers.0.input_layernorm", lambda out: out.tanh(), "queries of LlamaAttention"),
        ("model.embed_tokens", lambda out: out / out.norm(dim=-1, keepdim=True).sqrt() + out.square(), "not the embedding"),
        ("lm_head", lambda out: out.abs(), "logits of LlamaForCausalLM"),
    ],
)  # fmt: skip
def test_an_unknown_model_that_does_something_else_is_refused(part, change, reason):
    model = tiny("llama")
    read_weights(model)
    model.get_submodule(part).register_forward_hook(lambda module, inputs, out: change(out))
    with pytest.raises(NotApplicable, match=reason):
        read_weights(model)


def test_reading_weights_leaves_the_model_as_it_was():
    model = tiny("llama")
    before, own = model.state_dict(), model.config._attn_implementation
    read_weights(model)
    assert model.config._attn_implementation == own
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_stage_that_fails_costs_its_own_rows(tmp_path, monkeypatch):
    tiny("llama").save_pretrained(tmp_path / "model")
    monkeypatch.setattr(stages, "weight_rows", _fails)
    monkeypatch.setattr(stages, "patching_rows", _fails)
    frame = causes.causes(tmp_path / "model")
    assert {"ablation", "knock_out", "top_heads", "logit_lens"} <= set(frame.probe)
    assert not {"patching", "ov_copying"} & set(frame.probe)
    found = [problem.split(" (")[0] for problem in frame.attrs["problems"]]
    assert found == ["patching: ZeroDivisionError: planted", "weights: ZeroDivisionError: planted"]


def _fails(*args):
    raise ZeroDivisionError("planted")


def test_models_without_circuits_keep_everything_else(tmp_path):
    built("deepseek_v3").save_pretrained(tmp_path / "model")
    found = causes.causes(tmp_path / "model", stages=("ablation", "weights"))
    assert any(
        said.startswith("weights: the queries of DeepseekV3Attention are not linear") for said in found.attrs["skipped"]
    )
    assert set(found.probe) == {"ablation", "cross_task"}
    assert found.attrs["problems"] == []
