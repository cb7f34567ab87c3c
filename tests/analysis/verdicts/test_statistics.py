"""Statistics against scipy and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from nca_interp.analysis.verdicts.statistics import (
    benjamini_hochberg,
    holm,
    seeds_for_exact,
    sign_flip_floor,
    sign_flip_p,
    standard_effect,
    standard_margin,
    t_interval,
    wilson,
)

FLOATS = st.floats(-5, 5, allow_nan=False).map(lambda x: round(x, 3))


@settings(max_examples=60, deadline=None)
@given(st.lists(FLOATS, min_size=2, max_size=9))
def test_interval_and_sign_flips_against_scipy_and_brute_force(values):
    interval = t_interval(values)
    if np.std(values) > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-9, abs=1e-12)
    hits = sum(
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) >= abs(sum(values)) - 1e-9
        for signs in itertools.product((1, -1), repeat=len(values))
    )
    assert sign_flip_p(values) == hits / 2 ** len(values)


def test_smallest_p_of_few_seeds():
    assert sign_flip_p([1.0, 2.0, 3.0]) == 0.25
    assert sign_flip_p([1.0] * 6) == 2 / 64
    assert sign_flip_p(np.ones(20)) < 1e-3


def test_detectable_difference_has_power_80():
    for n in (3, 5, 10):
        expected = TTestPower().power(standard_effect(n), n, 0.05, alternative="two-sided")
        assert expected == pytest.approx(0.8, abs=1e-3)
    assert 10 < standard_effect(2) < 15
    rng = np.random.default_rng(0)
    d = standard_effect(5)
    hits = [stats.ttest_1samp(rng.normal(d, 1, 5), 0).pvalue < 0.05 for _ in range(2000)]
    assert np.mean(hits) == pytest.approx(0.8, abs=0.04)


def test_the_floor_of_the_exact_test_is_said_for_every_n_and_family():
    assert sign_flip_floor(3, 1) == sign_flip_p([1.0, 2.0, 3.0])
    # silent at 6 and 7 seeds would be wrong: 3 comparisons need 7, 18 need 10
    assert [seeds_for_exact(m) for m in (1, 3, 18)] == [6, 7, 10]
    for m in (1, 3, 18):
        n = seeds_for_exact(m)
        assert sign_flip_floor(n, m) <= 0.05 < sign_flip_floor(n - 1, m)
    assert sign_flip_floor(2, 18) == 1.0


def test_margin_that_is_found_equivalent_has_power_80():
    rng = np.random.default_rng(0)
    margin = standard_margin(5)
    values = rng.normal(size=(4000, 5))
    half = stats.t.isf(0.05, 4) * values.std(1, ddof=1) / math.sqrt(5)
    assert (np.abs(values.mean(1)) + half < margin).mean() == pytest.approx(0.8, abs=0.02)


@settings(max_examples=10, deadline=None)  # statsmodels collects all garbage at each call
@given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=12))
def test_holm_is_that_of_statsmodels(p):
    known = [value for value in p if not math.isnan(value)]
    expected = multipletests(known, method="holm")[1] if known else []
    adjusted = np.array(holm(p))
    missing = np.isnan(np.array(p, dtype=float))
    np.testing.assert_allclose(adjusted[~missing], expected, atol=1e-12)


def test_false_discovery_rate_by_hand():
    adjusted = benjamini_hochberg([0.01, math.nan, 0.04, 0.03, 0.5])
    np.testing.assert_allclose(adjusted, [0.04, math.nan, 0.16 / 3, 0.16 / 3, 0.5])
    assert benjamini_hochberg([]) == []


@given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=30))
def test_false_discovery_rate_is_that_of_statsmodels(p):
    known = [value for value in p if not math.isnan(value)]
    expected = multipletests(known, method="fdr_bh")[1] if known else []
    adjusted = np.array(benjamini_hochberg(p))
    missing = np.isnan(np.array(p, dtype=float))
    np.testing.assert_allclose(adjusted[~missing], expected, atol=1e-12)
    assert np.isnan(adjusted[missing]).all()


def test_holm_and_wilson():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = holm([0.01, math.nan, 0.03])
    assert adjusted[0] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])
    for correct, n in ((0, 10), (3, 10), (10, 10)):
        interval, other = wilson(correct, n), stats.binomtest(correct, n).proportion_ci(method="wilson")
        assert (interval.low, interval.high) == pytest.approx((other.low, other.high), abs=1e-9)
    with pytest.raises(ValueError, match="0 of 0"):
        wilson(0, 0)
