"""Complexity measures on sources whose complexity is known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_interp.analysis.complexity.vector import MEASURES, choose, profile, summaries
from nca_interp.base import UserError
from nca_interp.data.complexity.measures import conditional_entropy, entropy
from nca_interp.data.nca.rules import frames_to_tokens
from nca_interp.data.sample import Sample, draw
from nca_interp.data.specs import DyckSpec, NcaSpec, TextSpec, TokenizerSpec


def _sample(rows: np.ndarray, vocab: int, spec=None, frames=None) -> Sample:
    groups = [str(i) for i in range(len(rows))]
    return Sample(spec or DyckSpec(), vocab, rows.astype(np.uint32), groups, frames, None, None, "planted rows")


def _measure(rows: np.ndarray, vocab: int, spec=None, frames=None) -> dict[str, float]:
    found = summaries(_sample(rows, vocab, spec, frames), _sample(rows, vocab, spec, frames))
    assert len({m.measure for m in found}) == len(found)
    return {m.measure: m.value for m in found}


def _one(rows: np.ndarray, vocab: int, name: str) -> float:
    return float(profile(_sample(rows, vocab), [name]).value.mean())


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
    assert _one(rows, 200, "zipf_exponent") == pytest.approx(1.2, abs=0.05)


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


def test_every_measure_lies_in_its_range_on_every_kind_of_source():
    sources = [
        NcaSpec(grid=6, n_states=4, band=None), NcaSpec(grid=6, n_states=4, control="unigram"), DyckSpec(k=30),
        TextSpec(source="arithmetic:", tokenizer=TokenizerSpec(vocab_size=300), max_bytes=100_000),
    ]  # fmt: skip
    for spec in sources:
        sample = draw(spec, n=24, length=440)
        table = profile(sample)
        assert set(table.measure) == set(choose(sample, None))
        for name, values in table.groupby("measure").value:
            measure = MEASURES[name]
            assert len(values) == (1 if measure.pooled else 24)
            assert values.dropna().between(measure.low - 0.02, measure.high).all(), name
        rows = table[table.measure == "gzip_ratio"]
        assert rows.sequence.tolist() == list(range(24))
        assert rows.group.tolist() == sample.groups
        missing = table[table.value.isna() & (table.note == "")].measure.unique()
        assert set(missing) <= {"transient", "period"}  # censored


def test_what_is_too_short_says_what_it_needs():
    sample = draw(DyckSpec(k=4), n=4, length=100)
    table = profile(sample).set_index("measure")
    assert table.note["mutual_information"].unique().tolist() == ["needs at least 256 tokens a row, has 100"]
    assert table.note["mi_exponent"] == "needs at least 4,096 tokens in all, has 400"
    assert table.value["gzip_ratio"].notna().all()
    many = draw(DyckSpec(k=4), n=40, length=300)
    assert profile(many, ["tail_exponent"]).note[0] == "needs at least 50 different tokens, has 8"
    assert profile(many, ["learnability"]).note[0].startswith("needs at least 800 windows of 129 tokens")
    short = draw(NcaSpec(band=None), n=4, length=70)
    assert profile(short, ["activity"]).note[0] == "needs at least 2 whole frames a row, has 1"


def test_wrong_measures_are_refused():
    sample = draw(DyckSpec(k=4), n=4, length=100)
    with pytest.raises(UserError, match="measures: 'damag' is unknown; did you mean 'damage'"):
        profile(sample, ["damag"])
    with pytest.raises(
        UserError, match="measures: activity is measured on the cells of an NCA; this source is nested Dyck"
    ):
        profile(sample, ["activity"])
    with pytest.raises(UserError, match="measures: damage is measured on the rule of a row"):
        profile(draw(NcaSpec(control="unigram"), n=2, length=100), ["damage"])


def test_a_bootstrap_row_is_measured_as_itself():
    sample = draw(NcaSpec(grid=6, n_states=4, band=None), n=10, length=400)
    names = [name for name in choose(sample, None) if not MEASURES[name].pooled]
    plain, taken = profile(sample, names), profile(sample.take([7, 2, 7]), names)
    wide = plain.pivot(index="sequence", columns="measure", values="value")
    again = taken.pivot(index="sequence", columns="measure", values="value")
    pd.testing.assert_frame_equal(again, wide.loc[[7, 2, 7]].set_index(again.index))


def test_no_decay_law_where_the_curve_has_peaks():
    """Nested brackets close at odd distances; shuffled ones at any."""
    for variant, told in (("nested", "rises again at lag 3"), ("shuffle", "")):
        sample = draw(DyckSpec(variant=variant), n=64, length=512)
        table = profile(sample, ["mi_exponent", "mi_power_preference"]).set_index("measure")
        assert told in table.note["mi_exponent"]
        assert np.isnan(table.value).all() == bool(told)
        assert bool(table.note["mi_power_preference"]) == bool(told)
