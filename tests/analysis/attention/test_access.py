"""The test of a model before it is measured: it fires on what is wrong, stays silent on what is right."""

from __future__ import annotations

import pytest
import torch
import transformers as t
from transformers.models.llama import modeling_llama

from nca_interp.analysis.attention import access as access_module
from nca_interp.analysis.attention.access import access, reading
from nca_interp.analysis.attention.kernel import handing_to, register
from nca_interp.analysis.attention.view import Attention
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.probing.engine import analyze
from nca_interp.analysis.probing.measure import open_scored
from nca_interp.analysis.stimuli.base import Batch, NotApplicable
from nca_interp.base import UserError
from nca_interp.model.roles import context_length
from tests.analysis.models import tiny

SMALL = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


@pytest.fixture(autouse=True)
def unknown(monkeypatch):
    """Every test judges anew."""
    monkeypatch.setattr(access_module, "_BY_CONFIG", {})


def tokens(rows: int = 2, length: int = 40) -> torch.Tensor:
    return torch.randint(3, 97, (rows, length), generator=torch.Generator().manual_seed(0))


def sharpened(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.normal_(0, 0.3)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_causal_model_that_follows_the_interface_is_read_by_our_function(dtype):
    found = access(tiny("llama").to(dtype))
    assert found == ("kernel", "", "model", ("model.layers.0", "model.layers.1"),
                     ("model.layers.0.self_attn", "model.layers.1.self_attn"), "projection", "model.norm")  # fmt: skip


class Leaking(t.LlamaForCausalLM):
    """Adds to every hidden state a little of the one after it."""

    def __init__(self, config):
        super().__init__(config)
        self.model.norm.register_forward_hook(lambda m, i, out: out + 1e-3 * out.roll(-1, 1))


class Deaf(t.LlamaForCausalLM):
    """Computes other keys where its attention has an unknown name."""

    def __init__(self, config):
        super().__init__(config)

        def keys(module, inputs, output):
            return output if config._attn_implementation in ("eager", "sdpa") else 1.01 * output

        self.model.layers[1].self_attn.k_proj.register_forward_hook(keys)


class Extra(modeling_llama.LlamaAttention):
    """Gives attention an option of its own."""

    def forward(self, *inputs, **options):
        return super().forward(*inputs, **options, temperature=2.0)


def llama(kind=t.LlamaForCausalLM, **more):
    config = t.LlamaConfig(**SMALL, **SIZES, max_position_embeddings=96, **more)
    return sharpened(kind(config))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_sees_later_tokens_is_refused(dtype):
    model = llama(Leaking) if dtype == torch.float32 else tiny("llama")
    if dtype == torch.bfloat16:
        model.model.norm.register_forward_hook(lambda m, i, out: out + 0.2 * out.roll(-1, 1).cumsum(1))
        model.model.norm.register_forward_hook(lambda m, i, out: out + out.flip(1))
    with pytest.raises(UserError, match="tokens that come later change what it computes before them"):
        access(model.to(dtype))


def test_a_model_that_computes_something_else_with_our_attention_is_read_from_its_own():
    """Its eager attention is real, so patterns are read from that, and equal the model's."""
    model = llama(Deaf)
    found = access(model)
    assert found.way == "returned"
    assert found.reason == "Deaf computes something else with its attention replaced"
    assert_patterns_equal_eager(model)


def test_options_that_are_not_understood_are_refused_by_name():
    model = llama()
    model.model.layers[1].self_attn.__class__ = Extra
    assert access(model).reason.startswith("Extra: attention with temperature is not")


def test_patterns_that_are_not_those_used_are_not_read():
    """One module returns a uniform pattern, one a pattern that it does not multiply with its values as it is."""

    def fake(module, inputs, output):
        if output[1] is None:
            return output
        return output[0], torch.ones_like(output[1]).tril().div(torch.arange(1, output[1].shape[-1] + 1)[:, None])

    model = llama(Deaf)
    model.model.layers[1].self_attn.register_forward_hook(fake)
    found = access(model)
    assert (found.way, found.layers) == ("none", ())
    assert found.reason == "Deaf computes something else with its attention replaced"
    model = sharpened(
        t.GPTJForCausalLM(t.GPTJConfig(n_embd=32, n_layer=2, n_head=4, n_positions=96, rotary_dim=4, **SMALL))
    )
    model.transformer.h[1].attn.register_forward_hook(fake)
    assert access(model).reason.endswith("multiplied with its values, is not what its heads put out")
    with pytest.raises(NotApplicable, match="multiplied with its values"):
        Trunk(model)


def test_a_layer_that_attends_twice_is_refused():
    model = llama()
    layer = model.model.layers[1]
    own = layer.forward
    layer.forward = lambda hidden, **options: own(own(hidden, **options), **options)
    found = access(model)
    assert found.way == "none"
    assert found.reason == "LlamaForCausalLM: layer 1 attends more than once in a pass"


@pytest.mark.parametrize("kind", ["Bert", "Electra", "RoFormer"])
def test_masked_models_are_refused_unless_they_are_decoders(kind, tmp_path):
    config = getattr(t, f"{kind}Config")
    head = "BertLMHeadModel" if kind == "Bert" else f"{kind}ForCausalLM"
    make = lambda decoder: sharpened(
        getattr(t, head)(config(**SMALL, **SIZES, max_position_embeddings=96, embedding_size=32, is_decoder=decoder))
    )
    make(False).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}: {head}: tokens that come later .* not a causal language model"):
        analyze(tmp_path)
    model = make(True)
    assert access(model).way in ("kernel", "returned")
    assert_patterns_equal_eager(model)


def test_xlnet_is_refused():
    model = sharpened(t.XLNetLMHeadModel(t.XLNetConfig(d_model=32, n_layer=2, n_head=4, d_inner=48, **SMALL)))
    with pytest.raises(UserError, match="not a causal language model"):
        access(model)


def test_weights_that_are_not_numbers_are_named():
    model = llama()
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"NaN or infinite; tensor model.layers.1.mlp.up_proj.weight holds"):
        access(model)


def test_a_recurrent_model_has_no_attention_and_its_behaviour_is_measured(tmp_path):
    config = t.MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, **SMALL)
    sharpened(t.MambaForCausalLM(config)).save_pretrained(tmp_path)
    frame = analyze(tmp_path)
    assert "repeated_token_gain" in set(frame.probe)
    assert frame["head"].isna().all()
    assert "induction: MambaForCausalLM has no attention: it is recurrent" in frame.attrs["skipped"]
    with pytest.raises(NotApplicable, match="it is recurrent"):
        Trunk(open_scored(tmp_path))


def test_the_sink_needs_nothing_of_the_layers_and_is_gone_afterwards():
    """StableLM's layers drop the options of the call."""
    config = t.StableLmConfig(**SMALL, **SIZES, num_key_value_heads=4, max_position_embeddings=96)
    model = sharpened(t.StableLmForCausalLM(config))
    assert access(model).way == "kernel"
    assert_patterns_equal_eager(model)
    model.set_attn_implementation(register())
    seen: list = []
    with handing_to(seen.append):
        model(tokens())
    model(tokens())
    assert len(seen) == 2


def test_sparse_attention_sees_the_chosen_keys_only():
    config = t.DeepseekV32Config(
        **SMALL, **SIZES, num_key_value_heads=4, max_position_embeddings=128, n_routed_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=16, kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=12,
        first_k_dense_replace=1, n_group=1, topk_group=1, index_n_heads=4, index_head_dim=16, index_topk=8,
    )  # fmt: skip
    model = sharpened(t.DeepseekV32ForCausalLM(config))
    assert access(model).way == "kernel"
    for layer in assert_patterns_equal_eager(model):
        assert layer.rule.allowed.sum(-1).eq(torch.arange(1, 41).clamp(max=8)).all()


def assert_patterns_equal_eager(model):
    """Patterns as a measurement sees them against `output_attentions`; returns the layers."""
    x, layers = tokens(), []
    with torch.inference_mode():
        with reading(model, layers.append) as options:
            model(x, use_cache=False, **options)
        model.set_attn_implementation("eager")
        expected = model(x, use_cache=False, output_attentions=True).attentions
    access(model)
    stimulus = Batch(x.numpy(), x[:, 1:].numpy())
    assert [layer.number for layer in layers] == list(range(len(expected)))
    for layer, pattern in zip(layers, expected, strict=True):
        torch.testing.assert_close(Attention.of(layer, stimulus).corner(40), pattern, atol=3e-5, rtol=0)
        assert float(pattern.max()) > 0.3
    return layers


def test_where_positions_begin_behind_the_padding_the_context_is_so_much_shorter():
    """RoBERTa counts positions from pad_token_id + 1: a table of 40 rows holds 38 of them with padding 1."""
    sizes = SIZES | {
        "max_position_embeddings": 40,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "vocab_size": 97,
    }
    model = sharpened(t.RobertaForCausalLM(t.RobertaConfig(**sizes, is_decoder=True)))
    assert context_length(model.config) == 38
    assert access(model).way == "kernel"
    with torch.no_grad():
        assert model(tokens(1, 38)).logits.shape[1] == 38
        with pytest.raises((IndexError, RuntimeError)):
            model(tokens(1, 39))
