"""When a curve over training passes a level, and where a loss curve bends: what a few checkpoints can say, and no more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
State = Literal["reached", "from start", "never", "unconfirmed"]
STAYS = 2
"""Checkpoints in a row that must be at the level."""
BINS, KNOTS = 48, 400
"""Bins of equal width in log tokens that a loss curve is averaged in; places that are tried for its bend."""
EDGE = 2
"""Bins that each segment has at least beside the bend."""


class Crossing(NamedTuple):
    """Between which two checkpoints a level was reached, as indices; None where the curve does not say."""

    state: State
    """reached: interval-censored, after `after` and by `by`. from start: left-censored. never: right-censored after the last.
    unconfirmed: reached at the last checkpoint alone, right-censored after the one before."""
    after: int | None
    by: int | None


class Bend(NamedTuple):
    """Tokens at which two segments of a loss curve meet, with the 95 % profile interval; NaN where one segment does."""

    at: float
    low: float
    high: float


NO_BEND = Bend(math.nan, math.nan, math.nan)


def smoothed(values: Sequence[float] | Floats) -> Floats:
    """Running median of three, both ends as they are: one outlier vanishes, a step stays where it is."""
    array = np.asarray(values, dtype=float)
    out = array.copy()
    if len(array) > 2:
        out[1:-1] = np.median(np.stack([array[:-2], array[1:-1], array[2:]]), axis=0)
    return out


def crossing(values: Sequence[float] | Floats, level: float) -> Crossing:
    """The first checkpoint at which the smoothed curve is at or above `level` and stays so for STAYS checkpoints.

    `values`: one or more finite numbers in the order of training. Falling back later does not undo it.
    """
    array = smoothed(values)
    if not len(array) or not np.isfinite(array).all():
        raise ValueError(f"values: {list(array)}; legal: one finite number or more")
    above, last = array >= level, len(array) - 1
    for index in range(len(array) - STAYS + 1):
        if above[index : index + STAYS].all():
            return Crossing("reached", index - 1, index) if index else Crossing("from start", None, 0)
    if above[last]:
        return Crossing("unconfirmed", last - 1 if last else None, None)
    return Crossing("never", last, None)


def bend(tokens: Sequence[float] | Floats, losses: Sequence[float] | Floats) -> Bend:
    """Change-point of a loss curve: two straight segments in ln(tokens) that meet, by least squares.

    The curve is averaged in BINS of equal width first, so that late steps, of which there are many, do not decide alone.
    The interval holds every meeting point that an F-test at 5 % does not tell from the best; it takes the bins as
    independent. NO_BEND for fewer than eight bins, and where two segments are not better than one (F-test, 5 %).
    """
    x, y = _binned(np.asarray(tokens, dtype=float), np.asarray(losses, dtype=float))
    if len(x) < 8:
        return NO_BEND
    knots = np.linspace(x[EDGE], x[-1 - EDGE], KNOTS)
    misfit = np.array([_misfit(x, y, knot) for knot in knots])
    best, free = float(misfit.min()), len(x) - 4
    straight = _misfit(x, y, None)
    floor = 1e-18 * max(1.0, float((y**2).sum()))  # an exact fit has no noise to compare with
    if straight <= best + floor or stats.f.sf((straight - best) / 2 / (max(best, floor) / free), 2, free) >= 0.05:
        return NO_BEND
    allowed = max(best, floor) * (1 + float(stats.f.ppf(0.95, 1, free)) / free)
    inside = knots[misfit <= allowed]
    at, low, high = np.exp([knots[misfit.argmin()], inside.min(), inside.max()])
    return Bend(float(at), float(low), float(high))


def _binned(tokens: Floats, losses: Floats) -> tuple[Floats, Floats]:
    """Mean ln(tokens) and loss of each bin that holds a step."""
    known = (tokens > 0) & np.isfinite(losses)
    x, y = np.log(tokens[known]), losses[known]
    if not len(x):
        return x, y
    edges = np.linspace(x.min(), x.max(), BINS + 1)
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    held = count > 0
    return tuple(np.bincount(place, v, minlength=BINS)[held] / count[held] for v in (x, y))  # type: ignore[return-value]


def _misfit(x: Floats, y: Floats, knot: float | None) -> float:
    """Sum of squared residuals of one segment, or of two that meet at `knot`."""
    columns = [np.ones_like(x), x] + ([] if knot is None else [np.maximum(x - knot, 0.0)])
    design = np.stack(columns, 1)
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(residual @ residual)
