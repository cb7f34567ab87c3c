"""Intervals, exact tests, corrections for many tests, power. What a verdict makes of them: judge.py.

The unit of replication is the training seed; regimes are paired on it. Effects are treated minus control.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

ALPHA = 0.05
POWER = 0.8
EXACT_UP_TO = 16
"""Seeds up to which all 2**n sign patterns are enumerated."""


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def t_interval(values: Sequence[float] | np.ndarray, level: float = 1 - ALPHA) -> Interval:
    """Mean with its t-interval; the bounds are NaN for one value."""
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if len(array) < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf((1 + level) / 2, len(array) - 1) * array.std(ddof=1) / math.sqrt(len(array)))
    return Interval(mean, mean - half, mean + half)


def cluster_interval(values: Sequence[float] | np.ndarray, groups: Sequence[str], level: float = 1 - ALPHA) -> Interval:
    """Mean of all values with a t-interval whose independent units are the groups (cluster-robust, groups - 1 degrees).

    Equals `t_interval` where every value has a group of its own; the bounds are NaN for one group.
    """
    array = np.asarray(values, dtype=float)
    owner = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    n, mean = int(owner.max()) + 1, float(array.mean())
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    residuals = np.bincount(owner, array - mean)
    error = math.sqrt(n / (n - 1) * float((residuals**2).sum())) / len(array)
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * error
    return Interval(mean, mean - half, mean + half)


def sign_flip_p(differences: Sequence[float] | np.ndarray) -> float:
    """Two-sided p: share of all sign patterns whose |mean| is at least the observed one (the observed included).

    Above `EXACT_UP_TO` seeds 2**EXACT_UP_TO fixed random patterns are drawn instead, the observed one counted as well.
    """
    values = np.asarray(differences, dtype=float)
    n = len(values)
    observed = abs(values.sum())
    edge = observed - 1e-12 * max(1.0, float(np.abs(values).sum()))
    if n <= EXACT_UP_TO:
        return float((np.abs(_signs(n) @ values) >= edge).mean())
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (2**EXACT_UP_TO, n))
    return float((1 + (np.abs(signs @ values) >= edge).sum()) / (1 + len(signs)))


@lru_cache
def _signs(n: int) -> np.ndarray:
    return np.array(list(itertools.product((-1.0, 1.0), repeat=n)))


def sign_flip_floor(n: int, comparisons: int) -> float:
    """Smallest value that `sign_flip_p` of n seeds can have, corrected for so many comparisons (Holm's first step)."""
    return min(1.0, comparisons * 2.0 ** (1 - n))


def seeds_for_exact(comparisons: int) -> int:
    """Fewest seeds with which the exact test, corrected for so many comparisons, can reach 5 %."""
    n = 2
    while sign_flip_floor(n, comparisons) > ALPHA:
        n += 1
    return n


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p of one family; NaN stays NaN and is not counted as a comparison."""
    # statsmodels' multipletests collects the whole process's garbage at each call
    array = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(array), math.nan)
    order = np.argsort(array)[: int((~np.isnan(array)).sum())]
    steps = array[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else steps
    return adjusted.tolist()


def benjamini_hochberg(p_values: Sequence[float] | np.ndarray) -> list[float]:
    """Adjusted p of one family: the false discovery rate at which each would be called; NaN stays NaN and is not counted."""
    array = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(array), math.nan)
    known = ~np.isnan(array)
    if known.any():
        adjusted[known] = stats.false_discovery_control(array[known])
    return adjusted.tolist()


@lru_cache
def standard_effect(n: int, level: float = ALPHA) -> float:
    """Effect / standard deviation that a two-sided paired t-test at `level` with n pairs detects with probability 0.8."""
    spread = _spread(n)
    edge = stats.t.isf(level / 2, n - 1) * spread

    def missing(d: float) -> float:
        shift = d * math.sqrt(n)
        return float((stats.norm.sf(edge - shift) + stats.norm.cdf(-edge - shift)).mean()) - POWER

    return float(optimize.brentq(missing, 1e-6, 1e5))


@lru_cache
def standard_margin(n: int, level: float = ALPHA) -> float:
    """Margin / standard deviation within which n pairs without any effect are found equivalent with probability 0.8 (two
    one-sided tests at `level`)."""
    spread = _spread(n)
    edge = stats.t.isf(level, n - 1) * spread

    def missing(margin: float) -> float:
        room = np.maximum(margin * math.sqrt(n) - edge, 0)
        return float((1 - 2 * stats.norm.sf(room)).mean()) - POWER

    return float(optimize.brentq(missing, 1e-6, 1e5))


def _spread(n: int) -> np.ndarray:
    """Equally likely values of (estimated / true standard deviation) of n pairs: power is averaged over them, because scipy's
    noncentral t is NaN for n = 2."""
    return np.sqrt(stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, n - 1) / (n - 1))


def wilson(correct: int, n: int, level: float = 1 - ALPHA) -> Interval:
    """Share correct / n with its Wilson score interval; ValueError for n = 0 (no share, not 0 or 1)."""
    from statsmodels.stats.proportion import proportion_confint

    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"correct: {correct} of {n}; legal: 0 <= correct <= n, n at least 1")
    low, high = proportion_confint(correct, n, alpha=1 - level, method="wilson")
    return Interval(correct / n, float(low), float(high))
