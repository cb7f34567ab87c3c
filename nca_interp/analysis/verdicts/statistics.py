"""Statistics of paired seeds: interval, exact sign-flip test, Holm, equivalence, power, and the verdict they give.

The unit of replication is the training seed; regimes are paired on it. Tokens, documents and heads are never counted as
independent. Effects are treated minus control.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from scipy import optimize, stats

Verdict = Literal["better", "worse", "equivalent", "inconclusive", "no verdict (one seed)"]
ALPHA = 0.05
POWER = 0.8
EXACT_UP_TO = 16
"""Seeds up to which all 2**n sign patterns are enumerated."""


class Comparison(NamedTuple):
    """Result of `compare`; NaN where one seed does not allow a number."""

    n: int
    effect: float
    low: float
    high: float
    p: float
    margin: float
    detectable: float
    verdict: Verdict


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def compare(differences: Sequence[float], margin: float, higher_is_better: bool = False) -> Comparison:
    """Judge paired differences (treated minus control, one a seed) against zero and an equivalence margin.

    Verdict, the first that holds:
    1. one seed: "no verdict (one seed)";
    2. "equivalent": the 90 % t-interval lies inside (-margin, margin), i.e. two one-sided tests at 5 % both reject
       (also where a difference smaller than the margin is certain);
    3. "better" or "worse": the 95 % t-interval excludes zero;
    4. "inconclusive".

    `p` is the exact two-sided sign-flip test, which cannot go below 2 / 2**n; `detectable` is the mean difference that
    a two-sided paired t-test at 5 % with n seeds and this standard deviation finds with probability 0.8.
    Raises ValueError for no seeds, values that are not finite, or a margin that is not positive.
    """
    values = np.asarray(differences, dtype=float)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"differences: {list(differences)}; legal: one finite number or more")
    if not margin > 0:
        raise ValueError(f"margin: {margin}; legal: positive")
    n, effect = len(values), float(values.mean())
    if n == 1:
        nan = math.nan
        return Comparison(1, effect, nan, nan, nan, margin, nan, "no verdict (one seed)")
    wide = t_interval(values)
    narrow = t_interval(values, 1 - 2 * ALPHA)
    verdict: Verdict = "inconclusive"
    if -margin < narrow.low and narrow.high < margin:
        verdict = "equivalent"
    elif wide.low > 0 or wide.high < 0:
        verdict = "better" if (effect > 0) == higher_is_better else "worse"
    detectable = standard_effect(n) * float(values.std(ddof=1))
    return Comparison(n, effect, wide.low, wide.high, sign_flip_p(values), margin, detectable, verdict)


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
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
        return float((np.abs(signs @ values) >= edge).mean())
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (2**EXACT_UP_TO, n))
    return float((1 + (np.abs(signs @ values) >= edge).sum()) / (1 + len(signs)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p of one family; NaN stays NaN and is not counted as a comparison."""
    from statsmodels.stats.multitest import multipletests

    array = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(array), math.nan)
    known = ~np.isnan(array)
    if known.any():
        adjusted[known] = multipletests(array[known], method="holm")[1]
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
def standard_effect(n: int) -> float:
    """Effect / standard deviation that a two-sided paired t-test at 5 % with n pairs detects with probability 0.8."""
    # the t statistic is (Z + shift) / sqrt(V / df), Z normal and V chi-square: average over quantiles of V, because
    # scipy's noncentral t is NaN for n = 2
    spread = np.sqrt(stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, n - 1) / (n - 1))
    edge = stats.t.ppf(1 - ALPHA / 2, n - 1) * spread

    def missing(d: float) -> float:
        shift = d * math.sqrt(n)
        return float((stats.norm.sf(edge - shift) + stats.norm.cdf(-edge - shift)).mean()) - POWER

    return float(optimize.brentq(missing, 1e-6, 100.0))


def wilson(correct: int, n: int, level: float = 1 - ALPHA) -> Interval:
    """Share correct / n with its Wilson score interval; ValueError for n = 0 (no share, not 0 or 1)."""
    from statsmodels.stats.proportion import proportion_confint

    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"correct: {correct} of {n}; legal: 0 <= correct <= n, n at least 1")
    low, high = proportion_confint(correct, n, alpha=1 - level, method="wilson")
    return Interval(correct / n, float(low), float(high))
