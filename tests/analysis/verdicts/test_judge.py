"""Every verdict word on simulated studies of known truth: size, power, coverage; and what must hold of any data."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from nca_interp.analysis.verdicts.crossed import Estimate, Items, interval, p_difference, p_equivalence, paired
from nca_interp.analysis.verdicts.judge import Case, judge
from nca_interp.analysis.verdicts.simulate import Accuracies, Losses, lose

VALUES = st.floats(-0.2, 0.2, allow_nan=False).map(lambda x: round(x, 4))
STRENGTH = {"inconclusive": 0, "cannot tell": 0, "equivalent": 1, "better": 1, "worse": 1, "better, negligibly": 2, "worse, negligibly": 2}  # fmt: skip


def word(*differences: float, **more) -> str:
    return judge([Case(differences, 0.01, **more)])[0].verdict


def differs(found) -> bool:
    return any(j.verdict.startswith(("better", "worse")) for j in found)


def equal(found) -> bool:
    return any(j.verdict == "equivalent" or "negligibly" in j.verdict for j in found)


def rate(truth, what, studies: int, seed: int = 0) -> float:
    rng = np.random.default_rng(seed)
    return float(np.mean([what(judge(truth.draw(rng))) for _ in range(studies)]))


def near(found: float, nominal: float, studies: int) -> bool:
    return abs(found - nominal) <= 3 * math.sqrt(nominal * (1 - nominal) / studies)


def at_most(found: float, nominal: float, studies: int) -> bool:
    return found <= nominal + 3 * math.sqrt(nominal * (1 - nominal) / studies)


def test_words_by_rule():
    assert word(-0.05, -0.052, -0.048) == "better"
    assert word(0.05, 0.052, 0.048) == "worse"
    assert word(0.05, 0.052, 0.048, higher_is_better=True) == "better"
    assert word(-0.039, -0.005, -0.030) == "inconclusive"  # the pilot's three seeds
    assert word(0.001, -0.001, 0.0005) == "equivalent"
    assert (
        word(0.002, 0.0021, 0.0019) == "worse, negligibly"
    )  # certain, yet smaller than the margin: never bare "equivalent"
    assert word(-0.002, -0.0021, -0.0019) == "better, negligibly"


def test_bad_input_gets_a_word_and_no_number():
    one = judge([Case((-0.5,), 0.01)])[0]
    assert one.verdict == "no verdict (one seed)"
    assert all(math.isnan(v) for v in (one.low, one.high, one.p, one.p_holm, one.detectable, one.low_all))
    assert word() == "no verdict (no common seed)"
    for constant in ((0.0, 0.0, 0.0), (-0.3, -0.3, -0.3), (0.1 + 0.2, 0.3, 0.3)):
        found = judge([Case(constant, 0.01)])[0]
        assert found.verdict == "cannot tell"
        assert math.isnan(found.p)
    with pytest.raises(ValueError, match="legal: finite"):
        Case((math.nan, 1.0), 0.01)
    with pytest.raises(ValueError, match="legal: positive"):
        Case((1.0, 2.0), 0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, min_size=2, max_size=8), st.floats(0.01, 0.3))
def test_tests_are_those_of_scipy_and_statsmodels(values, margin):
    if np.std(values) < 1e-6:
        return
    found = paired(np.array(values))
    assert p_difference(found) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-6, abs=1e-11)
    expected = ttost_paired(np.array(values), np.zeros(len(values)), -margin, margin)[0]
    assert p_equivalence(found, margin) == pytest.approx(expected, rel=1e-6, abs=1e-11)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert interval(found)[1:] == pytest.approx((low, high))


@settings(max_examples=60, deadline=None)
@given(st.floats(-0.1, 0.1), st.floats(1e-4, 0.1), st.floats(0, 0.1), st.integers(2, 8), st.integers(2, 300))
def test_documents_never_narrow_an_interval_and_p_is_its_inverse(effect, of_seeds, of_items, n, items):
    found = Estimate(n, effect, of_seeds, of_items, items)
    alone = Estimate(n, effect, of_seeds)
    assert interval(found).high >= interval(alone).high - 1e-12
    assert p_difference(found) >= p_difference(alone) - 1e-6
    p = p_difference(found)
    if 1e-9 < p < 0.999:
        assert abs(interval(found, 1 - p).low if effect > 0 else interval(found, 1 - p).high) == pytest.approx(
            0, abs=1e-6
        )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=1, max_size=5), st.lists(VALUES, min_size=3, max_size=3), st.randoms())  # fmt: skip
def test_relabelling_order_and_useless_arms(studies, useless, shuffled):
    cases = [Case(tuple(values), 0.01) for values in studies]
    found = judge(cases)
    mirror = judge([Case(tuple(-v for v in values), 0.01) for values in studies])
    flip = {"better": "worse", "worse": "better"}
    for a, b in zip(found, mirror, strict=True):
        first, _, rest = a.verdict.partition(",")
        assert b.verdict == ",".join([flip.get(first, first), *([rest] if rest else [])])
        assert b.effect == pytest.approx(-a.effect)
    order = list(range(len(cases)))
    shuffled.shuffle(order)
    assert [j.verdict for j in judge([cases[i] for i in order])] == [found[i].verdict for i in order]
    seeds = judge([Case(tuple(reversed(values)), 0.01) for values in studies])
    assert [j.verdict for j in seeds] == [j.verdict for j in found]
    more = judge([*cases, Case(tuple(useless), 0.01)])
    for before, after in zip(found, more, strict=False):
        assert STRENGTH[after.verdict] <= STRENGTH[before.verdict]
        assert after.verdict == before.verdict or math.isnan(before.p_holm) or after.p_holm >= before.p_holm or after.p_equivalence >= before.p_equivalence  # fmt: skip


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_size_and_coverage_without_any_effect(n):
    studies = 800
    assert near(rate(Losses(n), differs, studies, 11), 0.05, studies)
    assert near(rate(Losses(n), lambda f: f[0].low <= 0 <= f[0].high, studies, 2), 0.95, studies)
    many = Losses(n, arms=18)
    rng = np.random.default_rng(3)
    found = [judge(many.draw(rng)) for _ in range(250)]
    assert at_most(float(np.mean([differs(f) for f in found])), 0.05, 250)
    assert at_most(float(np.mean([not all(j.low_all <= 0 <= j.high_all for j in f) for f in found])), 0.05, 250)


def test_equivalent_is_false_in_a_twentieth_at_the_margin_and_found_inside():
    studies = 800
    edge = Losses(3, effect=0.01, sd=0.001)
    assert near(rate(edge, equal, studies), 0.05, studies)
    assert at_most(rate(replace(edge, arms=10), equal, 250), 0.05, 250)
    assert rate(Losses(3, sd=0.0005), equal, 100) > 0.95
    assert rate(Losses(5, sd=0.0005, effect=-0.004), lambda f: f[0].verdict == "better, negligibly", 100) > 0.9


def test_planted_effects_are_found_and_a_primary_one_among_many():
    large = Losses(5, effect=-0.1)
    assert rate(large, lambda f: f[0].verdict == "better", 200) > 0.9
    assert rate(replace(large, effect=0.1), lambda f: f[0].verdict == "worse", 200) > 0.9
    rng = np.random.default_rng(0)
    alone, with_all = [], []
    for _ in range(100):
        cases = replace(large, arms=18, others=0.0).draw(rng)
        with_all.append(differs(judge(cases)[:1]))
        alone.append(differs(judge([replace(cases[0], primary=True), *cases[1:]])[:1]))
    assert np.mean(alone) > np.mean(with_all) + 0.2
    # the gate: where the primary comparison shows nothing, no other one is said to differ
    gate = [Case((-0.01, 0.012, 0.001), 0.01, primary=True), Case((-0.5, -0.501, -0.502), 0.01)]
    assert [j.verdict for j in judge(gate)] == ["inconclusive", "inconclusive"]
    assert judge(gate)[0].comparisons == 1
    opened = [Case((-0.4, -0.401, -0.402), 0.01, primary=True), *gate[1:]]
    assert [j.verdict for j in judge(opened)] == ["better", "better"]


@pytest.mark.parametrize("n", [2, 3, 8])
def test_finite_validation_sets(n):
    studies = 300
    truth = Losses(n, sd=0.0007, shared=0.024, own=0.012)
    assert at_most(rate(truth, differs, studies, 1), 0.05, studies)
    edge = replace(truth, effect=0.01)
    assert at_most(rate(edge, equal, studies, 2), 0.05, studies)
    assert at_most(rate(truth, lambda f: not f[0].low <= 0 <= f[0].high, studies, 3), 0.05, studies)


def test_seeds_alone_would_call_documents_equivalent_too_often():
    rng = np.random.default_rng(0)
    edge = Losses(8, effect=0.01, sd=0.0007, shared=0.024, own=0.012)
    assert np.mean([equal(judge([replace(c, items=()) for c in edge.draw(rng)])) for _ in range(200)]) > 0.15


@pytest.mark.parametrize("n", [2, 3, 8])
def test_accuracies_carry_the_error_of_their_problems(n):
    studies = 250
    truth = Accuracies(n, problems=300, rate=0.4)
    assert at_most(rate(truth, differs, studies), 0.05, studies)
    assert at_most(rate(truth, lambda f: not f[0].low <= 0 <= f[0].high, studies, 1), 0.05, studies)
    assert not any(
        equal(judge(truth.draw(np.random.default_rng(s)))) for s in range(50)
    )  # one problem weighs a third of the margin
    if n == 3:
        assert rate(replace(truth, effect=0.2), differs, 60) > 0.8
        assert at_most(rate(replace(truth, problems=3000, effect=0.01, sd=0.02, shared=0.1), equal, 100), 0.05, 100)


def test_floor_and_ceiling_cannot_tell():
    def both(treated, control, n=3, problems=30):
        one = np.ones(problems)
        rows = [Items(np.arange(problems) < treated, np.arange(problems) < control, one) for _ in range(n)]
        items = tuple(Items(i.treated.astype(float), i.control.astype(float), one) for i in rows)
        return judge([Case(((treated - control) / problems,) * n, 0.01, True, items)])[0]

    for treated, control in ((0, 0), (1, 0), (30, 30), (29, 30)):
        assert both(treated, control).verdict == "cannot tell", (treated, control)
    assert both(0, 0, n=8).verdict == "cannot tell"
    assert both(0, 0, problems=10_000).verdict == "cannot tell"  # narrow, and still at the floor
    assert both(15, 15).verdict == "inconclusive"  # no spread over seeds is not certainty
    assert both(25, 5).verdict == "better"
    for right in range(4):  # three problems in a test set
        assert both(right, 0, problems=3).verdict == "cannot tell"
    assert rate(Accuracies(3, 30, 1 / 30), lambda f: f[0].verdict == "cannot tell", 40) > 0.9


def test_lost_runs_speak_against_their_own_regime():
    better = (-0.05, -0.052, -0.048)
    assert word(*better, planned=4, lost=(("pt.nca.s3",), ())) == "cannot tell"
    assert word(*better, planned=4, lost=((), ("pt.scratch.s3",))) == "better"
    assert word(*(-v for v in better), planned=4, lost=(("pt.nca.s3",), ())) == "worse"
    assert word(0.001, -0.001, 0.0005, planned=4, lost=((), ("pt.scratch.s3",))) == "cannot tell"
    assert word(-0.039, -0.005, -0.030, planned=4, lost=(("pt.nca.s3",), ())) == "inconclusive"
    rng = np.random.default_rng(0)
    silent = said = 0
    for _ in range(800):
        values = rng.normal(size=(2, 8))
        case = Case(tuple(values[0] - values[1]), 0.01)
        (kept,) = lose([case], 0.0, values[0], np.full(8, -9.0))  # the worse half of the regime's runs diverges
        if len(kept.differences) > 1:
            said += judge([kept])[0].verdict == "better"
            silent += judge([Case(kept.differences, 0.01)])[0].verdict == "better"
    assert silent / 800 > 0.15
    assert said == 0 or at_most(said / 800, 0.05, 800)


def test_pending_runs_wait_and_count():
    assert word(-0.05, -0.052, -0.048, planned=4, pending=True) == "inconclusive (interim)"
    waiting = Case((), 0.01, planned=3, pending=True)
    ready = Case((-0.05, -0.052, -0.048), 0.01, planned=3)
    found = judge([ready, *[waiting] * 17])
    assert found[0].comparisons == 18
    assert found[0].p_holm == pytest.approx(min(1, 18 * found[0].p))
    assert math.isnan(found[1].p)


def test_the_verdict_says_when_it_hangs_on_one_seed():
    assert judge([Case((-0.05, -0.052, -0.048, -0.051, -0.049), 0.01)])[0].hangs_on == ()
    two = judge([Case((-0.05, -0.0501), 0.01)])[0]
    assert (two.verdict, two.hangs_on) == ("better", (0, 1))
    assert judge([Case((-0.039, -0.005, -0.030), 0.01)])[0].hangs_on == ()
    lonely = judge([Case((-0.010, -0.012, -0.011, -0.035, -0.013), 0.05)])[0]
    assert lonely.verdict == "better, negligibly"
    assert Case((1.0, 2.0, 3.0), 0.01, planned=3).without(1).differences == (1.0, 3.0)
