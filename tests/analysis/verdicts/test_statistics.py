"""Statistics against scipy and brute force, and the rule that gives the verdict."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from nca_interp.analysis.verdicts.contrasts import Values, contrast_tables, planned
from nca_interp.analysis.verdicts.speedup import Curve, speedup_table, speedups, tokens_to
from nca_interp.analysis.verdicts.statistics import (
    benjamini_hochberg,
    compare,
    holm,
    sign_flip_p,
    standard_effect,
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


@settings(max_examples=60, deadline=None)
@given(st.lists(FLOATS, min_size=2, max_size=9), st.floats(0.01, 3))
def test_equivalence_is_tost_and_signs_are_symmetric(values, margin):
    result, mirror = compare(values, margin), compare([-v for v in values], margin)
    assert result.effect == pytest.approx(-mirror.effect)
    swap = {"better": "worse", "worse": "better"}
    assert mirror.verdict == swap.get(result.verdict, result.verdict)
    assert mirror.p == result.p
    if np.std(values) > 1e-6:
        p, _, _ = ttost_paired(np.array(values), np.zeros(len(values)), -margin, margin)
        if abs(p - 0.05) > 1e-6:
            assert (result.verdict == "equivalent") == (p < 0.05)


def test_verdicts_by_rule():
    assert compare([-0.05, -0.052, -0.048], 0.01).verdict == "better"
    assert compare([0.05, 0.052, 0.048], 0.01).verdict == "worse"
    assert compare([0.05, 0.052, 0.048], 0.01, higher_is_better=True).verdict == "better"
    assert compare([-0.039, -0.005, -0.030], 0.01).verdict == "inconclusive"  # the pilot's three seeds
    assert compare([0.001, -0.001, 0.0005], 0.01).verdict == "equivalent"
    assert compare([0.002, 0.0021, 0.0019], 0.01).verdict == "equivalent"  # certain, yet smaller than the margin
    assert compare([0.0, 0.0, 0.0], 0.01).verdict == "equivalent"
    one = compare([-0.5], 0.01)
    assert one.verdict == "no verdict (one seed)"
    assert all(math.isnan(v) for v in (one.low, one.high, one.p, one.detectable))
    for bad in ([], [math.nan, 1.0], [math.inf]):
        with pytest.raises(ValueError, match="legal"):
            compare(bad, 0.01)


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


ROLES = {
    "scratch": "regime", "c4": "regime", "nca": "regime", "shuffled": "control", "no-attn": "transfer", "low": "complexity",
}  # fmt: skip


def _values(seeds=3):
    rng = np.random.default_rng(0)
    effect = {"scratch": 0.0, "c4": 0.001, "nca": -0.05, "shuffled": 0.02, "no-attn": -0.01, "low": 0.03}
    rows = [
        {"regime": r, "domain": "web", "seed": s, "value": 3 + 0.3 * s + e + 0.002 * rng.normal()}
        for r, e in effect.items() for s in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_planned_comparisons_follow_the_roles():
    plan = {(p.family, p.treated, p.control) for p in planned(ROLES)}
    assert plan == {
        ("regime", "nca", "scratch"), ("regime", "nca", "c4"), ("regime", "nca", "shuffled"), ("transfer", "no-attn", "nca"),
        ("transfer", "no-attn", "scratch"), ("transfer", "nca", "scratch"), ("complexity", "nca", "scratch"), ("complexity", "low", "scratch"),
    }  # fmt: skip
    assert planned({"scratch": "regime"}) == []


def test_contrasts_pair_by_seed():
    values = _values()
    tables = contrast_tables(ROLES, {"web": "Web text", "code": "Code"}, Values(values, "val_loss", 0.01), None)
    contrasts, pairs = tables["contrasts"], tables["pairs"]
    row = contrasts[(contrasts.family == "regime") & (contrasts.control == "scratch")].iloc[0]
    wide = values.pivot(index="seed", columns="regime", values="value")
    difference = wide.nca - wide.scratch
    assert row.effect == pytest.approx(difference.mean())
    assert (row.low, row.high) == pytest.approx(stats.t.interval(0.95, 2, difference.mean(), stats.sem(difference)))
    assert row.ppl_change_pct == pytest.approx(100 * (math.exp(row.effect) - 1))
    assert row.verdict == "better"
    assert "Web text: nca is better than scratch" in row.sentence
    assert row.p_holm == pytest.approx(min(1, 3 * 0.25))
    assert contrasts[contrasts.family == "transfer"].p_holm.isna().all()
    own = pairs[(pairs.family == "regime") & (pairs.control == "scratch")]
    np.testing.assert_allclose(own.difference, difference)
    np.testing.assert_allclose(own.treated_value - own.control_value, own.difference)


def test_one_seed_and_missing_seeds():
    tables = contrast_tables(ROLES, {"web": "Web"}, Values(_values(1), "val_loss", 0.01), None)
    assert set(tables["contrasts"].verdict) == {"no verdict (one seed)"}
    assert tables["contrasts"].sentence.str.contains("no verdict is possible").all()
    values = _values()
    values = values[~((values.regime == "c4") & (values.seed > 0))]
    row = contrast_tables(ROLES, {"web": "Web"}, Values(values, "val_loss", 0.01), None)["contrasts"].set_index(
        ["family", "control"]
    )
    assert row.loc[("regime", "c4"), "n"] == 1
    assert row.loc[("regime", "scratch"), "n"] == 3


def test_accuracy_is_better_when_higher():
    accuracy = _values().assign(value=lambda f: -f.value)
    tables = contrast_tables(
        ROLES, {"web": "Web"}, Values(_values(), "val_loss", 0.01), Values(accuracy, "accuracy", 0.01, True)
    )
    row = tables["contrasts"].query("family == 'reasoning' and control == 'scratch'").iloc[0]
    assert row.verdict == "better"
    assert math.isnan(row.ppl_change_pct)


def _curve(losses, **more) -> Curve:
    losses = np.asarray(losses, dtype=float)
    return Curve(np.arange(len(losses)) * 100.0, losses, 2.0, **more)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.5, 9), min_size=2, max_size=12))
def test_identical_arms_have_a_speed_up_of_one(losses):
    curve = _curve(losses)
    for result in speedups(curve, curve):
        assert result.speedup == pytest.approx(1.0)
        assert not result.censored


def test_speed_up_in_three_budgets():
    base = _curve([6, 5, 4, 3, 2])
    fast = _curve([6, 4, 2, 1.5, 1.2], ppt_tokens=100.0, ppt_flops=1000.0)
    pt, both, flops = speedups(base, fast)
    assert pt == ("pt", 2.0, 2.0, False)
    assert both == ("pt+ppt", 2.0, 400 / 300, False)
    assert flops.speedup == pytest.approx(800 / (400 + 1000))
    between = tokens_to(_curve([4, 1]), 2.0)
    assert between == pytest.approx(50.0)  # halfway in ln(loss)
    noisy = _curve([6, 2, 3, 2.5, 1])
    assert tokens_to(noisy, 2.2) < 100


def test_a_target_that_is_never_reached_is_censored():
    base, slow = _curve([6, 4, 2]), _curve([6, 5, 4])
    for result in speedups(base, slow):
        assert result.censored
        assert result.speedup == pytest.approx(1.0)
    table = speedup_table({("web", "scratch", 0): base, ("web", "nca", 0): slow, ("web", "nca", 1): slow})
    assert len(table) == 3
    assert set(table.seed) == {0}
    assert math.isnan(tokens_to(slow, 1.0))
