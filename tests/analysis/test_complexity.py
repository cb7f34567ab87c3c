"""Complexity measures on sources whose complexity is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_interp.analysis.complexity import summaries
from nca_interp.data.measures import conditional_entropy, entropy
from nca_interp.data.nca import frames_to_tokens
from nca_interp.data.sample import Sample
from nca_interp.data.specs import DyckSpec, NcaSpec


def _sample(rows: np.ndarray, vocab: int, spec=None, frames=None) -> Sample:
    groups = [str(i) for i in range(len(rows))]
    return Sample(spec or DyckSpec(), vocab, rows.astype(np.uint32), groups, frames, None, None, "planted rows")


def _measure(rows: np.ndarray, vocab: int, spec=None, frames=None) -> dict[str, float]:
    sample = _sample(rows, vocab, spec, frames)
    found = summaries(sample, sample)
    assert len({m.measure for m in found}) == len(found)
    return {m.measure: m.value for m in found}


def test_constant_and_uniform_sources_are_the_ends_of_the_scale():
    constant = _measure(np.full((20, 257), 3), 100)
    assert constant["gzip_ratio_normalised"] == pytest.approx(0.0, abs=0.01)
    assert constant["unigram_entropy"] == constant["conditional_entropy"] == 0.0
    uniform = _measure(np.random.default_rng(0).integers(0, 100, (400, 257)), 100)
    assert uniform["gzip_ratio_normalised"] == pytest.approx(1.0, abs=0.02)
    assert uniform["unigram_entropy"] == pytest.approx(1.0, abs=1e-3)
    assert uniform["conditional_entropy"] == pytest.approx(math.log(100), abs=0.05)
    assert uniform["zipf_exponent"] == pytest.approx(0.0, abs=0.05)


def test_gzip_does_not_see_the_order_of_unlike_tokens_but_entropy_does():
    cycle = np.tile(np.arange(64), (40, 5))[:, :257]
    found = _measure(cycle, 64)
    assert found["conditional_entropy"] == pytest.approx(0.0, abs=0.01)
    assert found["unigram_entropy"] == pytest.approx(1.0, abs=1e-3)
    rng = np.random.default_rng(0)
    skewed = rng.choice(50, (60, 257), p=np.arange(1, 51) / 1275)
    found = _measure(skewed, 50)
    assert found["gzip_ratio"] == pytest.approx(found["gzip_ratio_shuffled"], abs=0.01)


def test_zipf_exponent_of_a_power_law_is_recovered():
    weights = 1 / np.arange(1, 201) ** 1.2
    rows = np.random.default_rng(0).choice(200, (2000, 257), p=weights / weights.sum())
    assert _measure(rows, 200)["zipf_exponent"] == pytest.approx(1.2, abs=0.05)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=20).filter(lambda c: sum(c) > 0))
def test_entropy_is_plain_entropy_plus_miller_madow(counts):
    share = np.array([c for c in counts if c]) / sum(counts)
    plain = -(share * np.log(share)).sum()
    assert entropy(np.array(counts)) == pytest.approx(plain + (len(share) - 1) / (2 * sum(counts)))


def test_conditional_entropy_of_a_coin_that_sticks():
    rng = np.random.default_rng(0)
    flips = rng.random((200, 1000)) < 0.1
    rows = np.cumsum(flips, axis=1) % 2
    assert conditional_entropy(rows) == pytest.approx(-(0.1 * math.log(0.1) + 0.9 * math.log(0.9)), abs=5e-3)


def test_change_rate_of_planted_frames():
    spec = NcaSpec(grid=4, n_states=2, band=None)
    still = np.zeros((3, 5, 4, 4), dtype=np.uint8)
    blinking = still.copy()
    blinking[:, 1::2] = 1
    for frames, rate in ((still, 0.0), (blinking, 1.0)):
        rows = frames_to_tokens(spec, frames).astype(np.int64)
        found = _measure(rows, spec.vocab_size, spec, frames)
        assert found["activity"] == rate
        assert found["own_cell_entropy"] == pytest.approx(0.0, abs=0.02)
