"""Any model: every probe on random models of many families against eager `output_attentions`, and TransformerLens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from nca_interp import discover
from nca_interp.analysis.attention.kernel import register
from nca_interp.analysis.attention.losses import token_losses
from nca_interp.analysis.probing.engine import analyze
from nca_interp.analysis.probing.measure import open_scored
from nca_interp.analysis.stimuli.base import Batch
from nca_interp.analysis.stimuli.subject import describe
from nca_interp.analysis.stimuli.text import rows_of, sample_text
from nca_interp.base import UserError
from nca_interp.data.specs import DyckSpec
from nca_interp.data.tokens import write_tokens
from tests.analysis.models import tiny
from tests.analysis.reference import KEYS, SHAPES, score

WINDOW = {"sliding_window": 16}
FAMILIES = {
    "llama": {}, "llama-gqa": {}, "llama-mqa": {}, "gpt2": {}, "neox": {}, "qwen2": {}, "qwen3": {}, "mistral": {},
    "mistral-window": WINDOW, "olmo": {}, "olmo2": {}, "gemma": {}, "gemma2": WINDOW, "gemma3": WINDOW,
}  # fmt: skip
"""Those with a window see 16 of 95 tokens in some or all layers; gemma2 also caps its scores."""


class Case(NamedTuple):
    directory: Path
    frame: pd.DataFrame
    batches: dict[str, Batch]


CLASSES = {"to_punctuation", "to_newline", "to_digit", "to_word_start", "to_function_word"}
"""Not measured of synthetic tokens, which are no text; tests/probes/test_natural_text.py has their reference."""


@pytest.fixture(scope="module")
def probes():
    return {name: d.value for name, d in discover.load("probes").items()}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokens") / "dyck"
    write_tokens(folder, DyckSpec(k=40, max_depth=8), n_train=2, n_val=64, seq_len=96, seed=0)
    return folder


@pytest.fixture(scope="module")
def case(request, tmp_path_factory, tokens, probes) -> Case:
    """One model of a family, measured once with all probes."""
    directory = tmp_path_factory.mktemp(request.param)
    tiny(request.param.removesuffix("-window"), **FAMILIES[request.param]).save_pretrained(directory)
    frame = analyze(directory, tokens=tokens)
    subject = describe(directory, open_scored(directory).config, {}, tokens)
    return Case(directory, frame, {name: probe.stimulus.build(subject) for name, probe in probes.items()})


@pytest.mark.parametrize("case", FAMILIES, indirect=True)
def test_every_probe_equals_eager_attention(case, probes):
    assert case.frame.attrs["problems"] == []
    assert len(case.frame.attrs["skipped"]) == len(CLASSES)
    assert set(case.frame.probe) == set(probes) - CLASSES
    attention = {name for name, probe in probes.items() if probe.reads == "attention"} - CLASSES
    assert attention == set(KEYS) | set(SHAPES), "a probe without a reference"
    model = open_scored(case.directory)
    model.set_attn_implementation("eager")
    maps: dict[bytes, list[torch.Tensor]] = {}
    for name in sorted(attention):
        batch = case.batches[name]
        key = batch.inputs.tobytes()
        if key not in maps:
            with torch.inference_mode():
                maps[key] = model(torch.from_numpy(batch.inputs), output_attentions=True).attentions
        for layer, a in enumerate(maps[key]):
            rows = case.frame[(case.frame.probe == name) & (case.frame.layer == layer)].sort_values("head")
            expected = score(name, a.double(), batch)
            np.testing.assert_allclose(
                rows.value.to_numpy(float), expected, atol=3e-5, err_msg=f"{name}, layer {layer}"
            )
    assert max(a.max() for found in maps.values() for a in found) > 0.3, "the test model must not be near uniform"


@pytest.mark.parametrize("family", ["llama", "mistral-window", "gemma2", "gemma3"])
def test_chance_is_uniform_attention_to_the_keys_of_the_window(family, tmp_path, tokens, probes):
    """Without queries every head attends alike to all keys that its layer lets it see: every score is chance."""
    model = tiny(family.removesuffix("-window"), **FAMILIES[family])
    for name, weight in model.named_parameters():
        if "q_proj" in name:
            weight.data.zero_()
    model.save_pretrained(tmp_path / "model")
    frame = analyze(tmp_path / "model", tokens=tokens)
    rows = frame[frame.probe.isin([name for name, probe in probes.items() if probe.reads == "attention"])]
    np.testing.assert_allclose(rows.value, rows.chance, atol=1e-5)
    subject = describe(tmp_path / "model", model.config, {}, tokens)
    q = np.arange(1, probes["previous_token"].stimulus.build(subject).length)
    kinds = getattr(model.config, "layer_types", None) or ["full_attention"] * model.config.num_hidden_layers
    for layer, kind in enumerate(["sliding_attention"] * len(kinds) if family == "mistral-window" else kinds):
        chance = rows[rows.layer == layer].groupby("probe").chance.first()
        seen = np.minimum(q + 1, 16) if kind == "sliding_attention" else q + 1
        assert chance.previous_token == pytest.approx((1 / seen).mean(), abs=1e-6), kind
        # the token after the first occurrence is out of the window's sight
        assert (chance.induction == 0.0) == (kind == "sliding_attention")


@pytest.mark.parametrize("case", ["llama", "gpt2", "gemma2", "olmo2"], indirect=True)
def test_losses_are_those_of_the_whole_model(case):
    model = open_scored(case.directory)
    batch = case.batches["in_context_learning"]
    tokens, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
    with torch.inference_mode():
        logits = model(tokens).logits
        output = model.base_model(tokens)
    expected = torch.nn.functional.cross_entropy(logits.mT, targets, reduction="none")
    torch.testing.assert_close(token_losses(model, output, tokens, targets), expected, atol=2e-5, rtol=1e-4)
    assert model(tokens).logits.equal(logits), "the backbone is back in its place"
    stored = case.frame[case.frame.probe == "repeated_token_gain"].iloc[0]
    assert stored.n == 16


@pytest.mark.parametrize("case", ["llama-gqa", "gpt2", "neox"], indirect=True)
def test_transformer_lens_gives_the_same_scores(case, probes):
    """Induction, and copying and anti-induction with the bridge's own W_O, final norm and W_U."""
    from nca_interp.analysis.causes.transformer_lens import to_transformer_lens

    batch = case.batches["copying"]
    model = open_scored(case.directory)
    model.set_attn_implementation("eager")
    bridge = to_transformer_lens(model, "tiny")
    x = torch.from_numpy(batch.inputs)
    with torch.inference_mode():
        _, cache = bridge.run_with_cache(x)
    late = slice(batch.start + batch.period, batch.start + 2 * batch.period)
    context = x[:, : batch.start + batch.period]
    for layer in range(2):
        pattern, z = cache[f"blocks.{layer}.attn.hook_pattern"], cache[f"blocks.{layer}.attn.hook_z"]
        with torch.inference_mode():
            written = torch.einsum("bqhd,hdm->bhqm", z, bridge.W_O[layer])
            normed = bridge.ln_final(written) - bridge.ln_final(torch.zeros_like(written))
            logits = torch.einsum("bhqm,bnm->bhqn", normed, bridge.W_U.T[context])[:, :, late]
        expected = {"induction": pattern.diagonal(1 - batch.period, -2, -1)[..., -batch.period :].mean((0, 2))}
        attended = x[:, None].expand(-1, 4, -1).gather(2, pattern[:, :, late].argmax(-1))
        followed = x[:, None, torch.arange(late.start, late.stop) - batch.period + 1].expand(-1, 4, -1)
        stripe = pattern.diagonal(1 - batch.period, -2, -1)[..., -batch.period :]
        expected["copying"] = advantage(logits, context, attended).mean((0, 2))
        expected["anti_induction"] = -(stripe * advantage(logits, context, followed)).mean((0, 2))
        for name, value in expected.items():
            rows = case.frame[(case.frame.probe == name) & (case.frame.layer == layer)].sort_values("head")
            wide = 3e-5 if name == "induction" else 5e-4  # a rank may turn on the last bit
            np.testing.assert_allclose(rows.value.to_numpy(float), value.numpy(), atol=wide, err_msg=name)


def advantage(logits: torch.Tensor, context: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Rank advantage as its definition says, by sorting: place of a token among those of the context, -1 to 1."""
    n = context.shape[-1]
    place = (context[:, None, None] == tokens[..., None]).int().argmax(-1, keepdim=True)
    order = logits.argsort(-1).argsort(-1).gather(-1, place)[..., 0]
    return 2 * order / (n - 1) - 1


@pytest.mark.parametrize("case", ["llama"], indirect=True)
def test_bfloat16_weights_give_nearly_the_same(case, tokens):
    frame = analyze(
        case.directory, probes=["entropy", "induction", "nca_stencil", "copying"], tokens=tokens, dtype="bfloat16"
    )
    merged = frame.merge(case.frame, on=["probe", "layer", "head"])
    assert len(merged) == len(frame) == 4 * 8
    assert (merged.value_x - merged.value_y).abs().max() < 0.05
    assert frame.value.notna().all()
    assert frame.attrs["provenance"]["dtype"] == "bfloat16"
    with pytest.raises(UserError, match="dtype: 'int8'; legal: float32"):
        analyze(case.directory, probes=["induction"], dtype="int8")
    with pytest.raises(UserError, match="device: '.*' is not usable here"):
        analyze(case.directory, probes=["induction"], device="cuda:99" if torch.cuda.is_available() else "cuda")


def test_padding_and_a_cache():
    """Padded batches give the logits of sdpa; a cache is refused."""
    model = tiny("llama")
    tokens = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(0))
    for left in (0, 4):
        mask = (torch.arange(12) >= torch.tensor([[left], [0]])).long()
        model.set_attn_implementation("sdpa")
        expected = model(tokens, attention_mask=mask).logits
        model.set_attn_implementation(register())
        found = model(tokens, attention_mask=mask).logits
        torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-4, rtol=1e-4)
    past = model(tokens, use_cache=True).past_key_values
    with pytest.raises(UserError, match="whole sequence is supported, without a cache"):
        model(tokens[:, :1], past_key_values=past)


def test_attention_of_another_kind_is_refused_with_its_reason(tmp_path):
    """Sinks beside the softmax (gpt-oss): what reads no attention is measured all the same."""
    tiny("gpt_oss").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="does not apply: .*s_aux"):
        analyze(tmp_path, probes=["induction"])
    rest = analyze(tmp_path)
    assert "repeated_token_gain" in set(rest.probe)
    assert any(line.startswith("induction: ") for line in rest.attrs["skipped"])


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
    assert rows_of(sample_text(), tmp_path, 65).shape == (64, 65)
    tiny("llama", vocab_size=tokenizer.get_vocab_size()).save_pretrained(tmp_path / "model")
    frame = analyze(tmp_path / "model", tokenizer=tmp_path, probes=["entropy", "in_context_learning"])
    assert set(frame.probe) == {"entropy", "in_context_learning"}
    assert frame.n.eq(32).all()
    with pytest.raises(UserError, match="entropy does not apply: no token file"):
        analyze(tmp_path / "model", probes=["entropy"])
    with pytest.raises(UserError, match="--tokenizer: .*nowhere.* no such file or folder"):
        analyze(tmp_path / "model", tokenizer=tmp_path / "nowhere")


def test_random_weights_score_chance(tmp_path, probes):
    """The null: attention of freshly drawn weights is uniform up to a few per cent, and no head is a hit."""
    from nca_interp.config import ModelConfig
    from nca_interp.model.llama import build

    build(ModelConfig(n_layers=2, d_model=32, n_heads=4, d_mlp=48, n_ctx=128), 200, 0, "pt").save_pretrained(tmp_path)
    (tmp_path / "tokens").mkdir()
    write_tokens(tmp_path / "tokens" / "t", DyckSpec(k=80), n_train=2, n_val=64, seq_len=128, seed=0)
    frame = analyze(tmp_path, tokens=tmp_path / "tokens" / "t", random=5)
    assert set(frame.probe) == {name for name in probes if not name.startswith("to_")}  # no text here
    heads = frame[frame["head"].notna()]
    wide = {"copying": 0.2, "offset_peak": 64, "offset_peak_mass": 0.05, "variability": 0.05}
    for name, group in heads.groupby("probe"):
        assert (group.value - group.chance).abs().max() < wide.get(name, 0.01), name
    gain = frame[frame.probe == "repeated_token_gain"].iloc[0]
    assert abs(gain.value) < 4 * gain.sd / math.sqrt(gain.n) + 0.01
    kinds = {name for name, probe in probes.items() if probe.hit is not None}
    assert set(frame[frame.hit.notna()].probe) == kinds
    assert heads.null_95.notna().all()
    assert (heads.hit.dropna() == 0).all()
    again = analyze(tmp_path, probes=["induction"], tokens=tmp_path / "tokens" / "t", random=5)
    pd.testing.assert_series_equal(
        again.null_95, frame[frame.probe == "induction"].null_95.reset_index(drop=True), rtol=1e-5
    )
