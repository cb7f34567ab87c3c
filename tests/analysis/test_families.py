"""Every attention probe on random models of many families against eager `output_attentions`, recomputed another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nca_interp.analysis.engine import analyze
from nca_interp.analysis.stimuli import Subject, repeated_tokens, rows_of_text
from nca_interp.base import UserError
from tests.analysis.models import tiny

FAMILIES = ["llama", "llama-gqa", "llama-mqa", "gpt2", "neox", "qwen2", "mistral", "olmo2", "gemma"]


def _reference(a: torch.Tensor, period: int, start: int) -> dict[str, torch.Tensor]:
    """Scores [head] from whole maps a[batch, head, query, key], straight from the definitions."""
    length = a.shape[-1]
    sums: dict[str, list[torch.Tensor]] = {}
    for q in range(length):
        row = a[:, :, q]
        sums.setdefault("self_attention", []).append(row[:, :, q])
        sums.setdefault("first_token", []).append(row[:, :, 0])
        if q >= 1:
            sums.setdefault("previous_token", []).append(row[:, :, q - 1])
        if q >= start + period:
            sums.setdefault("induction", []).append(row[:, :, q - period + 1])
            sums.setdefault("duplicate_token", []).append(row[:, :, q - period])
    return {name: torch.stack(values).mean((0, 1)) for name, values in sums.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_eager_attention(family, tmp_path):
    model = tiny(family)
    model.save_pretrained(tmp_path)
    frame = analyze(tmp_path)
    assert frame.attrs["problems"] == []
    bos = model.config.bos_token_id
    bos = bos if bos is not None and bos < 97 else None
    specials = frozenset(i for i in (0, 1, 2) if family != "gpt2")
    batch = repeated_tokens().build(Subject("x", 97, 96, specials, bos))
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        maps = model(torch.from_numpy(batch.inputs), output_attentions=True).attentions
    assert batch.period == (47 if bos is not None else 48)
    for layer, a in enumerate(maps):
        assert a.max() > 0.3, "the test model must not be near uniform"
        for name, expected in _reference(a, batch.period, batch.start).items():
            got = frame[(frame.probe == name) & (frame.layer == layer)].sort_values("head").value.to_numpy(dtype=float)
            np.testing.assert_allclose(got, expected.numpy(), atol=2e-5, err_msg=f"{family} {name} layer {layer}")
    first = frame[frame.probe == "induction"].iloc[0]
    queries = np.arange(batch.start + batch.period, batch.length)
    assert first.chance == pytest.approx((1 / (queries + 1)).mean(), rel=1e-6)
    assert first.n == 16
    assert first.unit == f"attention mass, period {batch.period}"


def test_the_bridge_gives_the_same_induction_scores(tmp_path):
    from nca_interp.analysis.circuits import wrap

    model = tiny("llama-gqa")
    model.save_pretrained(tmp_path)
    frame = analyze(tmp_path, probes=["induction"])
    batch = repeated_tokens().build(Subject("x", 97, 96, frozenset({0, 1, 2}), 1))
    bridge = wrap(model, "tiny")
    _, cache = bridge.run_with_cache(torch.from_numpy(batch.inputs))
    for layer in range(2):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
        stripe = pattern.diagonal(1 - batch.period, -2, -1)[..., -batch.period :].mean((0, 2))
        got = frame[frame.layer == layer].sort_values("head").value.to_numpy(dtype=float)
        np.testing.assert_allclose(got, stripe.numpy(), atol=1e-6)


def test_a_reused_bridge_equals_a_fresh_one():
    from copy import deepcopy

    from nca_interp.analysis.circuits import Bridges, wrap

    bridges, tokens = Bridges(), torch.arange(20)[None]
    one, two = tiny("llama-gqa"), tiny("llama-gqa")
    with torch.no_grad():
        for p in two.parameters():
            p.add_(0.01 * torch.randn_like(p))
    bridges.of(one, "one")
    reused = bridges.of(two, "two")
    fresh = wrap(deepcopy(two), "two")
    assert torch.equal(reused(tokens), fresh(tokens))
    assert torch.equal(reused.W_O, fresh.W_O)
    two(tokens)  # the model itself was not rewritten


def test_attention_that_is_not_plain_causal_softmax_is_refused_with_its_reason(tmp_path):
    tiny("gemma2").save_pretrained(tmp_path / "cap")
    with pytest.raises(UserError, match="softcap"):
        analyze(tmp_path / "cap", probes=["induction"])
    tiny("mistral", sliding_window=16).save_pretrained(tmp_path / "window")
    with pytest.raises(UserError, match="sliding-window attention \\(16 of 95 tokens\\)"):
        analyze(tmp_path / "window", probes=["induction"])
    rest = analyze(tmp_path / "window")  # what reads no attention is measured all the same
    assert "repeated_token_gain" in set(rest.probe)
    assert any(line.startswith("induction: ") for line in rest.attrs["skipped"])


def test_padding_is_refused():
    from nca_interp.analysis.attention import register

    model = tiny("llama")
    model.set_attn_implementation(register())
    tokens = torch.ones(2, 6, dtype=torch.long)
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[0, :3] = 0
    with pytest.raises(UserError, match="unpadded batches"):
        model(tokens, attention_mask=mask)


def test_a_tokenizer_gives_natural_text(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=300, initial_alphabet=ByteLevel.alphabet(), special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.train_from_iterator(["def f(x): return x\n" * 5], trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert rows_of_text(tmp_path, 65).shape == (64, 65)
    tiny("llama", vocab_size=tokenizer.get_vocab_size()).save_pretrained(tmp_path / "model")
    frame = analyze(tmp_path / "model", tokenizer=tmp_path, probes=["entropy", "in_context_learning"])
    assert set(frame.probe) == {"entropy", "in_context_learning"}
    assert frame.n.eq(32).all()
    with pytest.raises(UserError, match="entropy does not apply: no token file"):
        analyze(tmp_path / "model", probes=["entropy"])
    with pytest.raises(UserError, match="no tokenizer.json there"):
        analyze(tmp_path / "model", tokenizer=tmp_path / "nowhere")


def test_random_weights_score_chance(tmp_path):
    """The null: attention of freshly drawn weights of our own initialisation is uniform up to a few per cent."""
    from nca_interp.config import ModelConfig
    from nca_interp.model.llama import build

    build(ModelConfig(n_layers=2, d_model=32, n_heads=4, d_mlp=48, n_ctx=128), 200, 0, "pt").save_pretrained(tmp_path)
    frame = analyze(tmp_path)
    heads = frame[frame["head"].notna() & (frame.probe != "copying")]
    assert (heads.value - heads.chance).abs().max() < 0.01
    copying = frame[frame.probe == "copying"]
    assert copying.chance.iloc[0] == pytest.approx(2 / 64 - 1)
    assert (copying.value - copying.chance).abs().max() < 0.05
    gain = frame[frame.probe == "repeated_token_gain"].iloc[0]
    assert abs(gain.value) < 4 * gain.sd / math.sqrt(gain.n) + 0.01
