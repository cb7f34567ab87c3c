"""Looking again after each seed: the error over all looks is what is said, whatever the rule that stops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nca_interp.analysis.verdicts.sequential import Looks, Open, interval, level, most_doubtful, spent, standing
from nca_interp.analysis.verdicts.simulate_phase import Truth, simulate
from nca_interp.analysis.verdicts.statistics import t_interval

LOOKS = Looks(3, 8)


def smallest_p(looks: Looks, n: int, seed: int) -> np.ndarray:
    """By brute force, a look at a time."""
    values = np.random.default_rng(seed).standard_normal((n, looks.last))
    return np.min(
        [stats.ttest_1samp(values[:, :k], 0, axis=1).pvalue for k in range(looks.first, looks.last + 1)], axis=0
    )


@pytest.mark.parametrize("looks", [LOOKS, Looks(2, 5), Looks(4, 4)])
def test_all_looks_together_err_in_five_per_cent(looks):
    least = smallest_p(looks, 20_000, seed=1)
    assert (least <= level(looks)).mean() == pytest.approx(0.05, abs=0.006)
    assert 0.05 / looks.n <= level(looks) <= 0.0505
    if looks.n > 4:
        assert (least <= 0.05).mean() > 0.1  # what ordinary intervals would do


def test_p_over_all_looks_is_uniform_or_larger_without_an_effect():
    p = np.array([spent(value, LOOKS) for value in smallest_p(LOOKS, 4_000, seed=2)])
    for edge in (0.01, 0.05, 0.2, 0.5):
        assert (p <= edge).mean() <= edge + 3 * math.sqrt(edge / len(p))
    assert spent(level(LOOKS), LOOKS) == pytest.approx(0.05, rel=0.01)
    assert spent(1e-9, LOOKS) == pytest.approx(6e-9)  # beyond what can be drawn: never above the sum over the looks
    assert level(LOOKS, 1e-5) == pytest.approx(1e-5 / 6)


@pytest.mark.parametrize(
    ("values", "sign"),
    [
        ([-1.0, -1.1, -0.9, -1.0], "helps"),
        ([1.0, 1.1, 0.9, 1.0], "harms"),
        ([0.001, -0.001, 0.0, 0.0005], "negligible"),
        ([0.5, -0.4, 0.2, 0.1], "uncertain"),
        ([-1.0, -1.1], "uncertain"),  # no look yet
        ([1.0], "uncertain"),
        ([], "uncertain"),
        ([1.0, 1.0, 1.0], "uncertain"),  # seeds that do not differ are no seeds
    ],
)
def test_words(values, sign):
    found = standing(values, LOOKS, margin=0.01)
    assert (found.n, found.sign) == (len(values), sign)
    assert 0 <= found.doubt <= 0.5
    assert (found.p < 0.05) == (sign in ("helps", "harms"))
    scaled = standing([-1000 * value for value in values], LOOKS, margin=10)
    assert (scaled.p, scaled.doubt) == (pytest.approx(found.p), pytest.approx(found.doubt))
    assert scaled.sign == {"helps": "harms", "harms": "helps"}.get(sign, sign)


@pytest.mark.parametrize(
    ("values", "reach"), [([1.0, 2.0, 3.0], True), ([0.0, 1.0, 2.0], False), ([-1.0, -2.0], True), ([1.0], False)]
)
def test_within_reach_is_what_the_last_look_would_show_if_nothing_changed(values, reach):
    assert standing(values, LOOKS, 0.01).reach is reach
    mean, sd = np.mean(values), np.std(values, ddof=1) if len(values) > 1 else math.inf
    assert (abs(mean) > sd * stats.t.isf(level(LOOKS) / 2, 7) / math.sqrt(8)) is np.bool_(reach)


def test_the_interval_is_wider_than_the_ordinary_one_and_seeds_beyond_the_last_look_do_not_count():
    values = list(np.random.default_rng(3).standard_normal(12))
    wide, plain = interval(values[:5], LOOKS), t_interval(values[:5])
    assert wide.low < plain.low < plain.high < wide.high
    assert standing(values, LOOKS, 0.01) == standing(values[:8], LOOKS, 0.01)


def test_the_next_seed_goes_where_doubt_is_dear_and_cheap_to_settle():
    cells = [Open(0.1, 1.0), Open(0.4, 1.0), Open(0.4, 10.0), Open(0.01, 1.0, begun=True), Open(0.5, 100.0)]
    assert most_doubtful(cells, left=50.0) == [3, 1, 0, 2]
    assert most_doubtful(cells, left=0.5) == []
    far = [Open(0.5, 1.0, reach=False), Open(0.1, 1.0), Open(0.5, 1.0, begun=True, reach=False)]
    assert most_doubtful(far, left=9.0) == [2, 1, 0]
    assert most_doubtful([Open(0.2, 0.0), Open(0.5, 1.0)], left=0.0) == [0]  # trained already by another cell


def test_signs_of_a_whole_adaptive_phase_are_false_in_five_per_cent_of_cells():
    rng = np.random.default_rng(0)
    truth = Truth((0.0,) * 12, LOOKS, seeds=60)
    ends = [simulate(truth, rng) for _ in range(150)]
    false = np.mean([one.sign != "uncertain" for end in ends for one in end.standings])
    assert false < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1800)
    assert np.mean([flag for end in ends for flag in end.naive]) > false + 0.03  # what ordinary intervals would do
    assert np.mean([any(end.family) for end in ends]) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)
    assert {one.n for end in ends for one in end.standings} <= set(range(3, 9))
    assert all(sum(one.n for one in end.standings) <= 60 for end in ends)


def test_seeds_go_to_the_uncertain_cells():
    rng = np.random.default_rng(0)
    ends = [simulate(Truth((0.0,) * 6 + (6.0,) * 6, LOOKS, seeds=60), rng) for _ in range(20)]
    spent_on = [np.mean([one.n for end in ends for one in end.standings[part]]) for part in (slice(6), slice(6, None))]
    assert spent_on[0] > spent_on[1] + 1
    assert np.mean([one.sign == "harms" for end in ends for one in end.standings[6:]]) > 0.7
