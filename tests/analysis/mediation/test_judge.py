"""Shares, verdicts and random sets: closed forms, invariances, planted mediation, and simulated studies of known mediation."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from nca_interp.analysis.mediation.judge import (
    LEAVES,
    MEDIATES,
    NEGLIGIBLE,
    NO_GAIN,
    NO_MORE,
    NO_SEED,
    ONE_SEED,
    RAISES,
    REMOVES,
    Question,
    judge_mediation,
    judge_removal,
)
from nca_interp.analysis.mediation.sets import matched_sets
from nca_interp.analysis.mediation.simulate import Studied
from nca_interp.analysis.verdicts.shares import fieller

GAIN = (0.20, 0.24, 0.18, 0.22, 0.21)
NONE = ((0.001, -0.002, 0.0, 0.003),) * 5


def one(moved, gain=GAIN, random=NONE, margin=0.01, family="declared"):
    return judge_mediation([Question(tuple(gain), tuple(moved), tuple(random), margin, family)])[0]


def test_fieller_holds_exactly_the_ratios_that_a_paired_t_test_does_not_reject():
    rng = np.random.default_rng(0)
    whole = 1 + 0.3 * rng.normal(size=6)
    part = 0.5 * whole + 0.2 * rng.normal(size=6)
    found = fieller(part, whole)
    assert found.value == pytest.approx(part.mean() / whole.mean())
    for ratio in np.linspace(found.low - 1, found.high + 1, 201):
        kept = stats.ttest_1samp(part - ratio * whole, 0).pvalue >= 0.05
        assert kept == (found.low <= ratio <= found.high) or min(abs(ratio - found.low), abs(ratio - found.high)) < 1e-9


def test_fieller_is_an_interval_only_where_the_whole_is_not_zero():
    for whole in ((0.1, -0.1, 0.2), (0.1, -0.1, 0.0), (0.3,)):
        assert math.isnan(fieller(np.full(len(whole), 0.1), np.array(whole)).low)
    whole = np.array(GAIN)
    assert fieller(whole, whole)[:] == pytest.approx((1, 1, 1))
    assert fieller(0 * whole, whole)[:] == pytest.approx((0, 0, 0))


def test_two_heads_that_carry_all_are_recognised_and_heads_that_carry_nothing_are_not():
    all_of_it = one(GAIN)
    assert all_of_it.verdict == MEDIATES
    assert all_of_it.share.value == pytest.approx(1)
    assert all_of_it.p == pytest.approx(5.0**-5)
    nothing = one((0.001, 0.0, -0.001, 0.002, 0.0))
    assert nothing.verdict == NO_MORE
    assert abs(nothing.share.value) < 0.01


def test_harm_is_mediated_like_a_gain():
    ours, theirs = one(GAIN), one([-v for v in GAIN], [-v for v in GAIN], [[-v for v in row] for row in NONE])
    assert ours.verdict == theirs.verdict == MEDIATES
    assert ours.share == pytest.approx(theirs.share)
    assert ours.p == theirs.p


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"gain": (0.1, -0.1, 0.05, -0.02, 0.0)}, NO_GAIN),
        ({"random": ((),) * 5}, "cannot tell without random sets"),
        ({"gain": (), "moved": (), "random": ()}, NO_SEED),
        ({"gain": (0.1,), "moved": (0.1,), "random": ((0.0,),)}, ONE_SEED),
        (
            {"gain": (0.2, 0.21), "moved": (0.2, 0.18), "random": ((0.0, 0.0),) * 2},
            "cannot tell with 2 random sets and 2 seeds",
        ),
        (
            {"gain": (0.2, 0.21), "moved": (0.2, 0.18), "random": ((0.0,),) * 2},
            "cannot tell with 1 random set and 2 seeds",
        ),
        ({"moved": (0.3, 0.0, 0.1, 0.0, 0.05), "random": ((0.1, 0.0, 0.2, 0.15),) * 5}, "inconclusive"),
        ({"moved": (0.004, 0.0045, 0.005, 0.004, 0.005), "random": ((0.0, 0.001, 0.0005, 0.0),) * 5}, NEGLIGIBLE),
    ],
)
def test_words(fields, verdict):
    assert one(**{"moved": GAIN, **fields}).verdict == verdict


def test_families_are_corrected_apart_and_a_question_without_gain_is_not_counted():
    def questions(n, family):
        return [Question(GAIN, GAIN, NONE, 0.01, family) for _ in range(n)]

    none = Question((0.1, -0.1, 0.0), (0.0, 0.0, 0.0), ((0.0,),) * 3, 0.01)
    found = judge_mediation([*questions(2, "declared"), *questions(3, "exploration"), none])
    assert [f.p_adjusted / f.p for f in found[:5]] == pytest.approx([2, 2, 1, 1, 1])
    assert found[-1].verdict == NO_GAIN
    assert math.isnan(found[-1].p_adjusted)


def test_what_is_not_finite_or_of_other_seeds_is_refused():
    with pytest.raises(ValueError, match="finite"):
        one((math.nan, *GAIN[1:]))
    with pytest.raises(ValueError, match="the same seeds"):
        one(GAIN[:3])


def test_hindering_removes_leaves_or_raises_a_gain():
    left, same = (0.01, -0.01, 0.02, 0.0, 0.01), (0.201, 0.238, 0.181, 0.221, 0.209)
    more = (0.41, 0.44, 0.40, 0.43, 0.41)
    found = judge_removal(
        [(GAIN, left, 0.01), (GAIN, same, 0.01), (GAIN, more, 0.01), (left, GAIN, 0.01), (GAIN[:1], left[:1], 0.01)]
    )
    assert [f.verdict for f in found] == [REMOVES, LEAVES, RAISES, NO_GAIN, ONE_SEED]
    assert found[0].share.value == pytest.approx(1, abs=0.05)
    assert found[0].p_adjusted == pytest.approx(2 * found[0].p)


@pytest.mark.parametrize(
    ("chosen", "n_heads", "n", "there"),
    [
        ([(0, 1)], 8, 4, 4),
        ([(0, 1)], 4, 4, 3),
        ([(0, 1), (1, 2)], 4, 4, 4),
        ([(0, 0), (0, 1)], 4, 9, 5),
        ([(0, 0)], 1, 4, 0),
    ],
)
def test_matched_sets_have_as_many_heads_in_each_layer(chosen, n_heads, n, there):
    sets = matched_sets(chosen, n_heads, n)
    assert len(sets) == len(set(sets)) == there
    assert all(Counter(layer for layer, _ in s) == Counter(layer for layer, _ in chosen) for s in sets)
    assert frozenset(chosen) not in sets
    assert sets == matched_sets(chosen, n_heads, n)


def test_the_rank_among_matched_sets_is_uniform_where_one_head_carries_everything():
    """Pairs of four heads, few of which are disjoint: over all pairs that could have been chosen, each rank is as likely."""
    ranks = []
    for carrier in range(4):
        for pair in combinations(range(4), 2):
            chosen = frozenset((0, h) for h in pair)
            harms = [float((0, carrier) in s) for s in (chosen, *matched_sets(chosen, 4, 5))]
            ranks.append(np.mean(np.array(harms) >= harms[0]))
    ranks = np.array(ranks)
    for level in (0.5, 1.0):
        assert (ranks <= level).mean() <= level + 1e-9


STUDIES = 120


def rates(**fields):
    rng = np.random.default_rng(1)
    return [Studied(**fields).judged(rng) for _ in range(STUDIES)]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_intervals_of_simulated_shares_hold_the_truth(share):
    found = rates(n=5, share=share)
    held = np.mean([f.share.low <= share <= f.share.high for f in found if not math.isnan(f.share.low)])
    assert held >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / STUDIES)


def test_simulated_mediation_is_said_where_it_is_and_rarely_where_heads_are_like_any():
    assert np.mean([f.verdict == MEDIATES for f in rates(n=5, share=1.0)]) > 0.95
    assert np.mean([f.verdict == MEDIATES for f in rates(n=5, share=0.5)]) > 0.95
    edge = 0.05 + 3 * math.sqrt(0.05 * 0.95 / STUDIES)
    assert np.mean([f.verdict.startswith(MEDIATES) for f in rates(n=5, share=None)]) <= edge
    assert np.mean([f.verdict == NO_MORE for f in rates(n=5, share=0.0)]) > 0.8
    assert np.mean([f.verdict != NO_GAIN for f in rates(n=5, share=0.5, gain=0.0)]) <= edge
