"""Retrieval: a copier has all of the gain, a model that knows no context none of it, and controls are matched token by token."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from nca_interp.analysis.retrieval import losses
from nca_interp.analysis.retrieval.lists import NOUN, RANDOM, all_lists, make_lists
from nca_interp.analysis.retrieval.losses import frequency_classes, list_losses, losses_at, profile
from nca_interp.analysis.retrieval.nouns import ENOUGH, NOUNS, noun_tokens
from nca_interp.analysis.retrieval.options import RetrievalOptions
from nca_interp.analysis.retrieval.tables import OVER, over_seeds, quantities
from nca_interp.analysis.stimuli.base import NotApplicable, Subject
from tests.analysis.models import TOKENS, byte_tokenizer, planted_gpt2, tiny

PLANTED = Subject("planted", TOKENS, 40, frozenset({TOKENS - 1}), (TOKENS - 1,))


@pytest.fixture
def copier(tmp_path):
    """Planted GPT-2 whose induction head outweighs all else."""
    from nca_interp.model.checkpoint import load_model

    model = load_model(planted_gpt2(tmp_path / "planted"))
    with torch.no_grad():
        proj = model.transformer.h[1].attn.c_proj.weight
        half = len(proj) // 2
        proj[:half] *= 20.0
        proj[half:] = 0.0
    return model


def test_a_copier_has_the_whole_gain(copier):
    rows = quantities(list_losses(copier, [make_lists(PLANTED, RANDOM, 8, 8, 6)]))
    assert rows.second.max() < 0.05
    assert rows.gain.min() > math.log(TOKENS - 2)
    assert np.allclose(rows.gain, rows.control - rows.second)
    assert rows.relative.max() < 2


def test_a_model_without_attention_has_none(copier):
    with torch.no_grad():
        for block in copier.transformer.h:
            block.attn.c_proj.weight.zero_()
            block.attn.c_proj.bias.zero_()
        copier.transformer.wpe.weight.zero_()
        copier.transformer.wte.weight.normal_(generator=torch.Generator().manual_seed(0))
    rows = quantities(list_losses(copier, [make_lists(PLANTED, RANDOM, n, d, 4) for n, d in ((4, 8), (8, 8), (4, 20))]))
    assert rows.second.std() > 0.01
    assert rows.gain.abs().max() < 1e-5
    assert (rows.relative - rows.relative_control).abs().max() < 1e-3


@pytest.fixture
def texts(tmp_path):
    """A subject with a tokenizer of bytes and some whole nouns, and text."""
    words = tuple(f" {noun}" for noun in NOUNS[:60])
    directory = byte_tokenizer(tmp_path, words)
    rows = np.random.default_rng(0).integers(0, 256, (5, 64))
    return Subject("bytes", 256 + 2000, 200, rows=rows, tokenizer=directory)


@pytest.mark.parametrize("material", [RANDOM, NOUN])
@pytest.mark.parametrize(("length", "distance"), [(2, 1), (4, 8), (8, 32)])
def test_controls_are_matched(texts, material, length, distance):
    found = make_lists(texts, material, length, distance, 5)
    size = length * found.item
    assert found.same.shape == found.other.shape == (5, 2 * size + distance)
    assert (found.same[:, size:] == found.other[:, size:]).all()
    assert (found.same[:, found.first] == found.same[:, found.second]).all()
    assert (found.other[:, found.second] == found.same[:, found.second]).all()
    assert found.second.tolist() == (found.first + size + distance).tolist()
    assert len(found.first) == size - found.item
    for one, other in zip(found.same[:, :size], found.other[:, :size], strict=True):
        items = {tuple(i) for i in one.reshape(length, -1)}
        assert len(items) == length
        assert not items & {tuple(i) for i in other.reshape(length, -1)}
    again = make_lists(texts, material, length, distance, 5)
    assert (again.same == found.same).all()


def test_losses_are_those_of_whole_logits(monkeypatch):
    model = tiny("llama")
    rows = np.random.default_rng(1).integers(3, 97, (7, 30))
    places = np.array([1, 2, 9, 28, 29])
    with torch.inference_mode():
        logits = model(torch.from_numpy(rows)).logits.double().log_softmax(-1)
    wanted = np.stack([[-float(logits[r, p - 1, rows[r, p]]) for p in places] for r in range(7)])
    assert np.allclose(losses_at(model, rows, places), wanted, atol=1e-4)
    monkeypatch.setattr(losses, "PASS_TOKENS", 60)
    assert np.allclose(losses_at(model, rows, places), wanted, atol=1e-4)


def test_what_does_not_fit_is_said(texts):
    small = Subject("nca", 18, 128, frozenset({16, 17}))
    found, skipped = all_lists(small, RetrievalOptions())
    assert {(one.material, one.length) for one in found} == {(RANDOM, 4)}
    assert any("two lists and a filler need 18" in reason for reason in skipped)
    assert any("no tokenizer of text" in reason for reason in skipped)
    with pytest.raises(NotApplicable, match="the context has 200"):
        make_lists(texts, RANDOM, 100, 8, 4)


def test_nouns_are_whole_words_where_the_tokenizer_has_them(tmp_path):
    whole = noun_tokens(byte_tokenizer(tmp_path, tuple(f" {n}" for n in NOUNS[:ENOUGH])), 5000, frozenset())
    assert whole.shape == (ENOUGH, 1)
    (tmp_path / "bytes").mkdir()
    pieces = noun_tokens(byte_tokenizer(tmp_path / "bytes"), 256, frozenset())
    assert pieces.shape[1] > 1
    assert len(pieces) >= ENOUGH
    assert len(set(NOUNS)) >= 300
    assert noun_tokens(tmp_path / "bytes", 256, frozenset(range(256))).shape == (0, 1)


def test_the_profile_is_the_mean_of_its_targets():
    model, rows = tiny("llama"), np.random.default_rng(2).integers(3, 97, (4, 20))
    counts = np.arange(97)[::-1].copy()
    classes = frequency_classes(counts)
    found = profile(model, rows, 3, classes)
    nll = losses_at(model, rows, np.arange(1, 20))
    one = found[(found.by == "position") & (found.bin == 2)]
    assert np.allclose(one.value, nll[:, 3:7].mean(1))
    assert (one.low_edge.iloc[0], one.high_edge.iloc[0]) == (4, 7)
    first = found[(found.by == "position") & (found.bin == 1)]
    assert np.allclose(first.value, nll[:, 2])  # place 3 alone counts
    for by in ("position", "frequency"):
        part = found[found.by == by]
        assert part.targets.sum() == 4 * 17
        assert (part.value * part.targets).sum() == pytest.approx(nll[:, 2:].sum())
    assert set(profile(model, rows, 1, None).by) == {"position"}


def test_classes_share_the_tokens_evenly():
    counts = np.array([0, 100, 100, 100, 100, 50, 50, 0])
    found = frequency_classes(counts)
    assert found.of_token.tolist() == [4, 0, 1, 2, 3, 4, 4, 4]
    assert (found.most[0], found.least[4]) == (2e5, 0)


def test_gains_are_compared_seed_by_seed():
    rows = [
        {"run": f"{r}{s}", "regime": r, "domain": "web", "seed": s, "stage": "pt", "step": 5, "tokens": 50, "material": RANDOM,
         "length": 8, "distance": 8, "item": 1, "quantity": "gain", "value": v, "low": 0.0, "high": 0.0, "n": 8}
        for r, s, v in (("scratch", 0, 1.0), ("scratch", 1, 3.0), ("nca", 0, 1.5), ("nca", 1, 3.5), ("nca", 2, 9.0))
    ]  # fmt: skip
    found = over_seeds(pd.DataFrame(rows)).set_index(["regime", "quantity"])
    assert found.loc[("nca", OVER), ["value", "low", "high", "n"]].tolist() == pytest.approx([0.5, 0.5, 0.5, 2])
    assert found.loc[("scratch", "gain"), "value"] == 2
    assert found.loc[("nca", "gain"), "n"] == 3


def test_options_are_checked():
    assert RetrievalOptions(lengths="8,4").lengths == (4, 8)
    assert RetrievalOptions().cells[:3] == [(4, 8), (8, 8), (16, 8)]
    for wrong in ({"lengths": "1"}, {"distances": "0,8"}, {"sequences": 1}, {"lengths": ""}):
        with pytest.raises(ValidationError):
            RetrievalOptions(**wrong)
