"""Initial weights are pure functions of (seed, name); the swap keeps what it says; checkpoints are plain directories."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from nca_interp.base import UserError
from nca_interp.config import MODULES, ModelConfig
from nca_interp.data.specs import TokenizerSpec
from nca_interp.data.text.documents import make_tokenizer
from nca_interp.model.checkpoint import load_model, read_provenance, save_model
from nca_interp.model.llama import build, kind_of
from nca_interp.model.swap import swap
from nca_interp.store import write_json

CONFIG = ModelConfig(n_layers=2, d_model=32, n_heads=4, d_mlp=48, n_ctx=64)


def equal(a, b, kinds=("attn", "mlp", "norm", "embed")):
    b = dict(b.named_parameters())
    return all(torch.equal(p, b[n]) for n, p in a.named_parameters() if kind_of(n) in kinds)


def trained(vocab=18, seed=0):
    """A stand-in for a pre-pre-trained model: every tensor moved away from its initial value."""
    model = build(CONFIG, vocab, seed, "ppt")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return model


def test_same_seed_same_body_whatever_the_vocabulary_and_stage():
    assert equal(build(CONFIG, 18, 3, "ppt"), build(CONFIG, 100, 3, "pt"), ("attn", "mlp", "norm"))
    assert equal(build(CONFIG, 100, 3, "pt"), build(CONFIG, 100, 3, "pt"))
    assert not equal(build(CONFIG, 100, 3, "pt"), build(CONFIG, 100, 4, "pt"), ("attn",))
    assert not equal(build(CONFIG, 100, 3, "ppt"), build(CONFIG, 100, 3, "pt"), ("embed",))


def test_initial_loss_is_ln_vocabulary():
    model = build(CONFIG, 500, 0, "pt").eval()
    x = torch.randint(500, (8, 64), generator=torch.Generator().manual_seed(0))
    assert model(input_ids=x, labels=x).loss.item() == pytest.approx(math.log(500), abs=0.02)


def test_standard_deviations_are_those_asked_for():
    config = CONFIG.model_copy(update={"init_std": 0.05, "embed_std": 1.0})
    for name, p in build(config, 400, 0, "pt").named_parameters():
        if p.ndim == 2:
            assert p.std().item() == pytest.approx(1.0 if kind_of(name) == "embed" else 0.05, rel=0.1)


@pytest.mark.parametrize("tied", [False, True])
def test_parameter_count_is_the_formula(tied):
    config = CONFIG.model_copy(update={"tied": tied})
    assert sum(p.numel() for p in build(config, 77, 0, "pt").parameters()) == config.n_params(77)


@pytest.mark.parametrize("keep", [MODULES, ("attn",), ("mlp", "norm"), ()])
def test_swap_keeps_what_it_says_and_nothing_else(keep):
    parent, scratch = trained(), build(CONFIG, 100, 0, "pt")
    model, log = swap(parent, CONFIG, 100, 0, keep)
    kept, rest = tuple(keep), tuple(k for k in ("attn", "mlp", "norm") if k not in keep)
    assert equal(model, parent, kept)
    assert equal(model, scratch, (*rest, "embed"))
    assert {row["tensor"] for row in log} == {n for n, _ in model.named_parameters()}
    assert {row["kind"] for row in log if row["action"] == "carried over"} == set(kept)


def test_keeping_nothing_is_scratch_and_fresh_is_neither():
    parent, scratch = trained(), build(CONFIG, 100, 0, "pt")
    assert equal(swap(parent, CONFIG, 100, 0, ())[0], scratch)
    fresh = swap(parent, CONFIG, 100, 0, ("mlp", "norm"), "fresh")[0]
    assert not equal(fresh, scratch, ("attn",))
    assert not equal(fresh, parent, ("attn",))
    assert equal(fresh, parent, ("mlp", "norm"))


def test_transformers_alone_opens_a_checkpoint(tmp_path):
    from transformers import AutoModelForCausalLM

    model = build(CONFIG, 100, 0, "pt").eval()
    path = save_model(model, tmp_path / "step-00000000", {"run": "x"}, None)
    x = torch.randint(100, (2, 20))
    again = AutoModelForCausalLM.from_pretrained(path, local_files_only=True).eval()
    assert torch.equal(again(x).logits, model(x).logits)
    assert torch.equal(load_model(path)(x).logits, model(x).logits)
    assert read_provenance(path) == {"run": "x"}


def test_transformer_lens_opens_a_checkpoint(tmp_path):
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = build(CONFIG, 100, 0, "pt").eval()
    path = save_model(model, tmp_path / "c", {}, None)
    hf = load_model(path, attn="eager")
    bridge = build_bridge_from_module(hf, "LlamaForCausalLM", hf_config=hf.config, tokenizer=None)
    x = torch.randint(100, (2, 20))
    torch.testing.assert_close(bridge(x), model(x).logits, atol=1e-4, rtol=1e-4)


@pytest.fixture
def checkpoint(tmp_path):
    return save_model(build(CONFIG, 100, 0, "pt"), tmp_path / "c", {}, None)


def test_missing_directory(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        load_model(tmp_path / "nowhere")


def test_truncated_weights_are_named(checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged checkpoint, model.safetensors has"):
        load_model(checkpoint)
    (checkpoint / "MANIFEST.json").unlink()  # as in a directory that others made
    with pytest.raises(UserError, match="weights do not load|truncated"):
        load_model(checkpoint)


def test_pickled_weights_are_refused_unread(checkpoint):
    (checkpoint / "MANIFEST.json").unlink()
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"only pickled weights \(pytorch_model.bin\); refused"):
        load_model(checkpoint)


def test_another_architecture_is_refused(checkpoint):
    (checkpoint / "MANIFEST.json").unlink()
    (checkpoint / "config.json").write_text('{"model_type": "vit", "architectures": ["ViTModel"]}')
    with pytest.raises(UserError, match="'vit' is not a causal language model"):
        load_model(checkpoint)


def test_missing_tensors_are_refused(checkpoint):
    (checkpoint / "MANIFEST.json").unlink()
    weights = load_file(checkpoint / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 tensors are missing.*up_proj"):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("end", "more"), [("<|endoftext|>", {}), ("</s>", {"bos_token": "<s>", "pad_token": "<pad>"}), ("a", {})]
)
def test_exported_checkpoints_name_their_tokens(tmp_path, end, more):
    """config.json, generation_config.json and tokenizer_config.json agree, and generation stops at the end token."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    coder = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate("abcdef")}, merges=[]))
    coder.add_special_tokens([token for token in (end, *more.values()) if token != "a"])
    PreTrainedTokenizerFast(tokenizer_object=coder, eos_token=end, **more).save_pretrained(tmp_path / "tok")
    made = make_tokenizer(TokenizerSpec(kind="hf", name=str(tmp_path / "tok")), [])
    (tmp_path / "tokens").mkdir()
    coder.save(str(tmp_path / "tokens" / "tokenizer.json"))
    write_json(tmp_path / "tokens" / "meta.json", {"end_id": made.end, "bos_id": made.bos, "pad_id": made.pad})
    model = build(CONFIG, 20, 0, "pt")
    path = save_model(model, tmp_path / "c", {}, tmp_path / "tokens" / "tokenizer.json")
    expected = {"eos": coder.token_to_id(end)} | {
        k.removesuffix("_token"): coder.token_to_id(v) for k, v in more.items()
    }
    opened = AutoTokenizer.from_pretrained(path)
    for config in (AutoConfig.from_pretrained(path), GenerationConfig.from_pretrained(path), opened):
        assert {name: getattr(config, f"{name}_token_id") for name in expected} == expected
    assert (model.config.eos_token_id, model.config.pad_token_id) == (None, None)
    loaded, ids = load_model(path), torch.arange(6)[None]
    assert loaded(ids).logits.equal(model(ids).logits)
    assert loaded.generation_config.eos_token_id == expected["eos"]
