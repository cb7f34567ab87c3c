"""Share of an effect that something carries: the ratio of two means over the same seeds, with Fieller's interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from nca_interp.analysis.verdicts.statistics import ALPHA, Interval


def fieller(
    part: Sequence[float] | np.ndarray, whole: Sequence[float] | np.ndarray, level: float = 1 - ALPHA
) -> Interval:
    """mean(part) / mean(whole) over paired seeds with its interval (Fieller 1954): all ratios r for which a paired t-test does not
    reject mean(part - r whole) = 0; exact where seeds are bivariate normal.

    It is an interval only where the t-interval of `whole` excludes 0; else, and with fewer than two seeds, the bounds are NaN.
    ValueError for lengths that differ.
    """
    x, g = np.asarray(part, dtype=float), np.asarray(whole, dtype=float)
    if x.shape != g.shape or x.ndim != 1:
        raise ValueError(f"part: {x.shape} values, whole: {g.shape}; legal: one of each a seed")
    n, mean = len(x), (float(x.mean()), float(g.mean())) if len(x) else (math.nan, math.nan)
    ratio = mean[0] / mean[1] if mean[1] else math.nan
    if n < 2:
        return Interval(ratio, math.nan, math.nan)
    (xx, xg), (_, gg) = np.cov(x, g) / n
    t2 = float(stats.t.ppf((1 + level) / 2, n - 1)) ** 2
    a, b, c = mean[1] ** 2 - t2 * gg, mean[0] * mean[1] - t2 * xg, mean[0] ** 2 - t2 * xx
    if a <= 0:
        return Interval(ratio, math.nan, math.nan)
    root = math.sqrt(max(0.0, b * b - a * c))
    return Interval(ratio, float((b - root) / a), float((b + root) / a))
