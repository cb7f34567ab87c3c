"""One paired comparison with both of its errors: that of few seeds, and that of the few documents or problems it is measured on.

The standard error over seeds e_1 (n - 1 degrees of freedom) and that of the items e_2 (J - 1) are put together so that the
half-width of an interval of level 1 - a is h(a) = sqrt((t_1 e_1)^2 + (t_2 e_2)^2), each t the quantile of its own degrees of
freedom. It is never narrower than the paired t-interval of the seeds, and never too narrow: the chance to miss is an average of
G((l t_1^2 v + (1 - l) t_2^2)) with G(x) = P(chi^2_1 > x), which is convex, so it is at most l a + (1 - l) a = a, l being the
seeds' share of the variance. p is the a at which the interval touches the hypothesis.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from nca_interp.analysis.verdicts.statistics import ALPHA, Interval

TINY = 1e-12
"""Tail probabilities below this are called this."""


class Items(NamedTuple):
    """What the models of one seed got on each document or problem that both regimes were measured on."""

    treated: np.ndarray
    """Summed loss, or 1 where right, of each item."""
    control: np.ndarray
    weights: np.ndarray
    """Targets of each document; 1 for each problem."""


class Estimate(NamedTuple):
    """Mean paired difference and its two errors; NaN where one seed allows none."""

    n: int
    effect: float
    seed_error: float
    """Standard error over seeds."""
    item_error: float = 0.0
    """Standard error over documents or problems, as far as all seeds share it; 0 where single items are not known."""
    items: int = 0
    by_chance: float = 0.0
    """Standard error that answers to single problems, drawn anew for each seed, give alone: the seeds' is at least this."""

    @property
    def known(self) -> bool:
        """Whether there is any spread to judge by."""
        return self.n > 1 and math.hypot(self.seed_error, self.item_error) > 0


def paired(differences: np.ndarray) -> Estimate:
    """The estimate from one difference a seed alone."""
    values = np.asarray(differences, dtype=float)
    n = len(values)
    spread = values.std(ddof=1) if n > 1 else math.nan
    if spread < 1e-12 * max(1.0, float(np.abs(values).max())):  # equal values whose mean rounds
        spread = 0.0
    return Estimate(n, float(values.mean()), float(spread) / math.sqrt(n))


def with_documents(estimate: Estimate, seeds: list[Items]) -> Estimate:
    """The estimate with the error of a finite validation set: documents are a sample, their losses sums over targets.

    The seeds' spread holds what is different for each seed and document already; what all seeds share of the documents'
    differences is the variance of their means over seeds less that (never below zero).
    """
    weights = seeds[0].weights.astype(float)
    items = len(weights)
    if items < 2 or estimate.n < 2:
        return estimate
    differences = np.array([s.treated - s.control for s in seeds])
    residuals = (differences - differences.sum(1, keepdims=True) / weights.sum() * weights) / weights.sum()
    n, scale = len(residuals), items / (items - 1)
    of_mean = scale * float((residuals.mean(0) ** 2).sum())
    own = scale * float(((residuals - residuals.mean(0)) ** 2).sum()) / (n * (n - 1))
    return estimate._replace(item_error=math.sqrt(max(0.0, of_mean - own)), items=items)


def with_problems(estimate: Estimate, seeds: list[Items]) -> Estimate:
    """The estimate with the binomial error of a finite set of problems: no spread over seeds is not certainty.

    Problems are paired between the regimes; two more are added, one for and one against (Agresti and Min 2005, Statistics in
    Medicine 24), so that equal answers to all problems still leave an error of one problem in N + 2. The error over seeds is
    at least that which answers that differ from seed to seed give by chance; what all seeds share is the rest.
    """
    right = np.array([s.treated - s.control for s in seeds], dtype=float)
    n, items = right.shape
    if n < 2:
        return estimate
    means, total = right.mean(0), items + 2
    of_mean = (((means**2).sum() + 1) / total - (means.sum() / total) ** 2) / total
    own = float(((right - means) ** 2).sum()) / (n * (n - 1)) / items**2
    shared = max(of_mean - own, 1 / total**2)
    return estimate._replace(item_error=math.sqrt(shared), items=items, by_chance=math.sqrt(own))


def half_width(estimate: Estimate, level: float) -> float:
    """Half of the interval of this level; NaN for one seed."""
    return _half(estimate, (1 - level) / 2)


def interval(estimate: Estimate, level: float = 1 - ALPHA) -> Interval:
    """The effect with its interval; the bounds are NaN for one seed."""
    half = half_width(estimate, level)
    return Interval(estimate.effect, estimate.effect - half, estimate.effect + half)


def p_difference(estimate: Estimate) -> float:
    """Two-sided p of no effect; NaN without any spread."""
    return 2 * _tail(estimate, abs(estimate.effect)) if estimate.known else math.nan


def p_equivalence(estimate: Estimate, margin: float) -> float:
    """p of an effect as large as the margin or larger: the larger one of two one-sided tests; NaN without any spread."""
    if not estimate.known:
        return math.nan
    room = margin - abs(estimate.effect)
    return _tail(estimate, room) if room >= 0 else 1 - _tail(estimate, -room)


def _half(estimate: Estimate, tail: float) -> float:
    """What the estimate exceeds with probability `tail` at most."""
    if estimate.n < 2:
        return math.nan
    t, t_items = (-special.stdtrit(max(df, 1), tail) for df in (estimate.n - 1, estimate.items - 1))
    of_seeds = max(t * estimate.seed_error, t_items * estimate.by_chance)
    return float(math.hypot(of_seeds, t_items * estimate.item_error))


def _tail(estimate: Estimate, distance: float) -> float:
    """The probability whose `_half` is this distance, TINY to 0.5."""
    if estimate.item_error == 0:
        return max(TINY, float(special.stdtr(estimate.n - 1, -distance / estimate.seed_error)))
    if distance >= _half(estimate, TINY):
        return TINY
    found = optimize.brentq(lambda x: _half(estimate, math.exp(x)) - distance, math.log(TINY), math.log(0.5))
    return float(math.exp(found))
