"""Hypotheses of a sweep: planted relations are found, rivals that follow from them are not, and what cannot be told apart is said."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from nca_interp.analysis.verdicts.hypotheses import (
    BETWEEN,
    CANNOT_TELL,
    CONTRADICTED,
    ENTROPY,
    INCONCLUSIVE,
    LEARNABILITY,
    MATCHING,
    SUPPORTED,
    DomainArms,
    all_orders,
    detectable,
    partial,
    ranks,
    slope,
)
from nca_interp.analysis.verdicts.hypotheses import (
    weigh as judged,
)
from nca_interp.analysis.verdicts.simulate_sweep import Sweep


def verdicts(domains):
    return {t.predictor: t.verdict for t in judged(domains, 999)}


def shares(sweep, studies=60, seed=0):
    rng = np.random.default_rng(seed)
    said = [verdicts(sweep.draw(rng)) for _ in range(studies)]
    return {p: np.mean([v[p] in (SUPPORTED, CONTRADICTED) for v in said]) for p in said[0]}


@pytest.mark.parametrize("truth", [MATCHING, ENTROPY, LEARNABILITY])
def test_the_planted_relation_is_told_from_its_rivals(truth):
    found = shares(Sweep(truth, arms=12, own=0.3))
    assert found.pop(truth) > 0.6
    if truth == MATCHING:
        assert found.pop(BETWEEN) > 0.8
    assert max(found.values()) <= 0.1


def test_where_gain_follows_nothing_hardly_anything_is_said():
    found = shares(Sweep("nothing", arms=8, own=1.0), studies=120)
    assert max(found.values()) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 120)


def test_distances_in_the_order_of_entropy_cannot_be_told_from_it():
    domains = Sweep(MATCHING, arms=10, corpora=(1.2,), own=0.1).draw(np.random.default_rng(0))
    found = {t.predictor: t for t in judged(domains)}
    for name, rival in ((MATCHING, ENTROPY), (ENTROPY, MATCHING)):
        assert (found[name].verdict, found[name].rival) == (CANNOT_TELL, rival)
        assert found[name].rival_rho == pytest.approx(-1)
        assert f"{name} and {rival} order the arms alike, rank correlation -1.00" in found[name].why


def test_two_domains_with_corpora_on_one_side_say_nothing_between_them():
    found = verdicts(Sweep(MATCHING, arms=10, corpora=(1.2, 1.1)).draw(np.random.default_rng(0)))
    assert found[BETWEEN] == CANNOT_TELL


def test_the_opposite_of_matching_is_a_contradiction():
    domains = Sweep(MATCHING, arms=14, own=0.05, noise=0.05).draw(np.random.default_rng(1))
    turned = [DomainArms(-d.gains, d.predictors) for d in domains]
    assert verdicts(domains)[MATCHING] == SUPPORTED
    assert verdicts(turned)[MATCHING] == CONTRADICTED


@pytest.mark.parametrize(("arms", "seeds"), [(4, 5), (6, 1)])
def test_too_few_arms_or_seeds_are_said(arms, seeds):
    found = judged(Sweep(MATCHING, arms=arms, seeds=seeds).draw(np.random.default_rng(0)))
    assert {t.verdict for t in found} == {CANNOT_TELL}
    assert found[0].why == f"{arms} arms and {seeds} seeds that have them all; it takes 5 arms and 2 seeds"
    assert all(t.verdict == CANNOT_TELL for t in judged([]))


def test_five_arms_in_two_domains_are_too_few_once_corrected():
    found = judged(Sweep(MATCHING, arms=5, own=0.0, noise=0.0, corpora=(0.6, 0.8)).draw(np.random.default_rng(3)))
    assert {t.verdict for t in found} == {CANNOT_TELL}
    assert any("with 5 arms no order of them lies below 0.07 once corrected" in t.why for t in found)


def test_p_is_that_of_all_orders_and_the_same_order_moves_all_domains():
    rng = np.random.default_rng(0)
    domains = Sweep("nothing", arms=5, seeds=2).draw(rng)
    found = {t.predictor: t for t in judged(domains)}[MATCHING]

    def rho(order):
        values = [
            stats.spearmanr(d.predictors[MATCHING][list(order)], row).statistic for d in domains for row in d.gains
        ]
        return float(np.mean(values))

    observed = rho(range(5))
    assert found.rho == pytest.approx(observed)
    every = [abs(rho(order)) >= abs(observed) - 1e-9 for order in itertools.permutations(range(5))]
    assert found.p == pytest.approx(np.mean(every))


def test_a_partial_correlation_is_the_textbook_s():
    rng = np.random.default_rng(0)
    x, y, z = (ranks(rng.normal(size=7)) for _ in range(3))
    a, b, c = x @ y, x @ z, y @ z
    observed, p = partial([x], [y], [z], all_orders(7))
    assert observed == pytest.approx((a - b * c) / math.sqrt((1 - b**2) * (1 - c**2)))
    assert 0 < p <= 1
    assert math.isnan(partial([x], [y], [x], all_orders(7))[0]), "nothing of x is left given itself"


def test_the_slope_is_that_of_least_squares_and_its_interval_holds_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    x = rng.normal(size=12)
    found = slope([2 * x / x.std()], [x])
    assert found == pytest.approx((2, 2, 2))
    held = []
    for _ in range(300):
        x = rng.normal(size=12)
        _, low, high = slope([0.5 * x / x.std() + rng.normal(size=12)], [x])
        held.append(low <= 0.5 <= high)
    assert 0.9 <= np.mean(held) <= 0.99


def test_more_arms_detect_weaker_relations():
    assert math.isnan(detectable(4, 4))
    assert 1 > detectable(6, 4) > detectable(12, 4) > detectable(40, 4) > 0.4


def test_a_predictor_without_values_is_no_rival():
    domains = Sweep(MATCHING, arms=12, own=0.1).draw(np.random.default_rng(0))
    bare = [DomainArms(d.gains, {k: v for k, v in d.predictors.items() if k != LEARNABILITY}) for d in domains]
    assert LEARNABILITY not in verdicts(bare)
    flat = [DomainArms(d.gains, {**d.predictors, LEARNABILITY: np.ones(12)}) for d in domains]
    assert verdicts(flat)[MATCHING] in (SUPPORTED, INCONCLUSIVE)
    assert LEARNABILITY not in verdicts(flat)


def test_arms_that_are_equally_far_cannot_tell_of_matching_but_of_the_rest():
    domains = Sweep(ENTROPY, arms=12, own=0.1, noise=0.1, alike=0.2).draw(np.random.default_rng(0))
    same = [DomainArms(d.gains, {**d.predictors, MATCHING: np.ones(12)}) for d in domains]
    found = {t.predictor: t for t in judged(same, 999)}
    assert (found[MATCHING].verdict, found[MATCHING].why) == (CANNOT_TELL, "all arms are equally far")
    assert found[ENTROPY].verdict == SUPPORTED
    assert BETWEEN not in found
