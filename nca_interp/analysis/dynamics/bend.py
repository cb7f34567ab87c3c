"""Where a loss curve bends, if it bends more sharply than smooth curves of its kind do.

A curve that is merely convex in ln(tokens), as every power law is, is fitted better by two straight segments than by one. So a bend
is claimed only against the smooth curves a + b (tokens + t0)^-c, which hold straight lines in ln(tokens), power laws with and
without an irreducible loss, and the flat start and soft shoulder of a learning curve, and sums of two power laws, with noise like
that of the curve itself: as large, and as slow from one logged step to the next, before it is averaged in bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.interpolate import make_interp_spline
from scipy.signal import lfilter

Floats = npt.NDArray[np.float64]
BINS, KNOTS = 48, 60
"""Bins of equal width in log tokens that a loss curve is averaged in; places that are tried for its bend."""
FEWEST = 12
"""Bins that hold a step, at least."""
EDGE = 3
"""Bins that each segment has at least beside the bend."""
EXPONENTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 0.9, 1.3, 2.0, 3.0)
"""Of the smooth curves; 0 stands for the logarithm."""
SHIFTS = 16
"""Places of t0, evenly spaced in ln(tokens) over the curve; and none."""
SIMULATED = 399
LEVEL = 0.05


class Bend(NamedTuple):
    """Tokens at which two segments of a loss curve meet, with a 95 % interval by simulation; NaN where no bend is claimed."""

    at: float
    low: float
    high: float


NO_BEND = Bend(math.nan, math.nan, math.nan)


class Binned(NamedTuple):
    """A loss curve in bins of equal width in ln(tokens), those that hold a step, and its steps."""

    x: Floats
    """[bin]: mean ln(tokens)."""
    y: Floats
    """[bin]: mean loss."""
    steps: Floats
    """[bin]: number of steps."""
    places: Floats
    """[step]: ln(tokens), rising."""
    losses: Floats
    """[step]."""


class Family(NamedTuple):
    """Curves that are linear but for one or two parameters, tried on a grid."""

    bases: Floats
    """[grid, basis, bin], orthonormal, each bin weighted."""
    settings: Floats
    """[grid]: what distinguishes them; of bends ln(tokens) of the knot."""

    def fit(self, curves: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Squared misfit [curve] of the best of the family to curves [curve, bin], and its place in the grid."""
        held = np.einsum("gkb,cb->gkc", self.bases, curves) ** 2
        misfit = (curves**2).sum(1) - held.sum(1)
        best = misfit.argmin(0)
        return np.maximum(misfit[best, np.arange(len(curves))], 0.0), best

    def curve(self, values: Floats, place: int) -> Floats:
        """The member of the grid that fits values [bin] best."""
        return np.asarray(self.bases[place].T @ (self.bases[place] @ values))


def bend(tokens: Sequence[float] | Floats, losses: Sequence[float] | Floats) -> Bend:
    """Change-point of a loss curve: two straight segments in ln(tokens) that meet, on means of BINS bins of equal width.

    NO_BEND for fewer than FEWEST bins, and unless the misfit of the best smooth curve over that of the two segments is larger than in
    95 % of SIMULATED curves that are this smooth curve with noise of the size and the correlation between logged steps that the
    residuals have. The interval is that of the same simulation around the two segments. Bins are weighted by their steps.
    """
    curve = _binned(np.asarray(tokens, dtype=float), np.asarray(losses, dtype=float))
    if len(curve.x) < FEWEST:
        return NO_BEND
    weight = np.sqrt(curve.steps)
    y = (curve.y - curve.y.mean()) * weight
    places = tuple(curve.x), tuple(weight)
    bent, smooth = (_bent(*places),), (_smooth(*places), _two_laws(*places))
    floor = 1e-12 * float((y**2).sum())  # an exact fit has no noise to compare with
    if floor == 0:
        return NO_BEND
    misfit, fitted = _closest(bent, y)
    plain, expected = _closest(smooth, y)
    ratio = (plain + floor) / (misfit + floor)
    if ratio <= 1:
        return NO_BEND
    null = expected + _noise(curve, expected / weight) * weight
    drawn = (_misfits(smooth, null) + floor) / (_misfits(bent, null) + floor)
    if (1 + int((drawn >= ratio).sum())) / (1 + SIMULATED) > LEVEL:
        return NO_BEND
    knots = bent[0].settings
    where = knots[bent[0].fit(fitted + _noise(curve, fitted / weight) * weight)[1]]
    step = float(knots[1] - knots[0])  # the grid bounds what can be told
    low, high = np.quantile(where, [0.025, 0.975])
    at = knots[bent[0].fit(y[None])[1][0]]
    return Bend(*(float(math.exp(v)) for v in (at, low - step, high + step)))


def _closest(families: Sequence[Family], y: Floats) -> tuple[float, Floats]:
    """Squared misfit of the member of all families that is nearest to a curve [bin], and that member [bin]."""
    found = [(family, *family.fit(y[None])) for family in families]
    family, misfit, place = min(found, key=lambda one: one[1][0])
    return float(misfit[0]), family.curve(y, int(place[0]))


def _misfits(families: Sequence[Family], curves: Floats) -> Floats:
    """That of the nearest member to each curve [curve, bin]."""
    return np.asarray(np.min([family.fit(curves)[0] for family in families], axis=0))


def _noise(curve: Binned, fitted: Floats) -> Floats:
    """Normal noise [simulation, bin] like that of the logged steps around a fit [bin], averaged in bins as they are.

    Steps follow an autoregression of first order; their variance, and their correlation, which fitting four parameters lowers, are
    corrected for it.
    """
    residual = curve.losses - curve.y.mean() - make_interp_spline(curve.x, fitted, k=1)(curve.places)
    n = len(residual)
    square = max(float(residual @ residual), 1e-300)
    deviation = math.sqrt(square / (n - 4))
    rho = min(0.98, max(0.0, float(residual[1:] @ residual[:-1]) / square + 4 / n))
    drawn = np.random.default_rng(0).normal(size=(SIMULATED, n))
    drawn[:, 1:] *= math.sqrt(1 - rho**2)
    starts = np.concatenate([[0], np.cumsum(curve.steps)[:-1]]).astype(int)
    return np.asarray(deviation * np.add.reduceat(lfilter([1.0], [1.0, -rho], drawn), starts, axis=1) / curve.steps)


@lru_cache(maxsize=64)
def _bent(places: tuple[float, ...], weight: tuple[float, ...]) -> Family:
    x = np.array(places)
    knots = np.linspace(x[EDGE], x[-1 - EDGE], KNOTS)
    return _family([[x, np.maximum(x - knot, 0.0)] for knot in knots], knots, np.array(weight))


@lru_cache(maxsize=64)
def _smooth(places: tuple[float, ...], weight: tuple[float, ...]) -> Family:
    x = np.array(places)
    tokens = np.exp(x - x[0])
    shifts = [0.0, *np.exp(np.linspace(x[0], x[-1], SHIFTS) - x[0])]
    curves = [[(tokens + t0) ** -c if c else np.log(tokens + t0)] for t0 in shifts for c in EXPONENTS]
    return _family(curves, np.arange(len(curves), dtype=float), np.array(weight))


@lru_cache(maxsize=64)
def _two_laws(places: tuple[float, ...], weight: tuple[float, ...]) -> Family:
    x = np.array(places) - places[0]
    curves = [[np.exp(-low * x) if low else x, np.exp(-high * x)] for low, high in combinations(EXPONENTS, 2)]
    return _family(curves, np.arange(len(curves), dtype=float), np.array(weight))


def _family(curves: list[list[Floats]], settings: Floats, weight: Floats) -> Family:
    """Orthonormal bases of a constant and the given columns, weighted."""
    designs = np.stack([np.stack([np.ones_like(columns[0]), *columns], 1) * weight[:, None] for columns in curves])
    return Family(np.linalg.qr(designs)[0].transpose(0, 2, 1), settings)


def _binned(tokens: Floats, losses: Floats) -> Binned:
    known = (tokens > 0) & np.isfinite(losses)
    order = np.argsort(tokens[known], kind="stable")
    x, y = np.log(tokens[known][order]), losses[known][order]
    if not len(x) or np.ptp(x) == 0:
        return Binned(x[:1], y[:1], np.ones(len(x[:1])), x, y)
    edges = np.linspace(x[0], x[-1], BINS + 1)
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    held = count > 0
    where, loss = (np.bincount(place, v, minlength=BINS)[held] / count[held] for v in (x, y))
    return Binned(where, loss, count[held].astype(float), x, y)
