"""Is a set of counts heavy-tailed? The discrete power law of Clauset, Shalizi, Newman (2009, arXiv 0706.1062).

p(x) = x^-alpha / zeta(alpha, x_min) for x >= x_min. alpha by maximum likelihood (their eq. 3.5 for the exact discrete
likelihood), x_min by the smallest Kolmogorov-Smirnov distance (3.3), goodness of fit by a semi-parametric bootstrap
(4.1), and Vuong's likelihood ratio against a discretised lognormal (5.1).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
MIN_TAIL = 25
"""Fewest values at or above x_min."""
MIN_KINDS = 50
"""Fewest values of a fit; below, alpha is mostly the bias of a small sample (section 3.5)."""
MAX_CUTS = 100
"""Candidates for x_min, spread over the ranks of the values; all of them where there are fewer."""
STEEPEST = 8.0


class PowerLaw(NamedTuple):
    """A fitted tail."""

    alpha: float
    """Exponent of p(x)."""
    x_min: int
    """Where the tail starts."""
    n_tail: int
    """Values in it."""
    ks: float
    """Kolmogorov-Smirnov distance of the tail to its fit."""


class Against(NamedTuple):
    """Vuong's comparison of two fits of one tail."""

    ratio: float
    """Log-likelihood of the power law minus that of the lognormal, by sqrt(n) * sd: positive favours the power law."""
    p: float
    """Two-sided; above 0.1 the sign means nothing."""


def power_law(values: npt.ArrayLike, x_min: int | None = None) -> PowerLaw:
    """Fit positive integers, e.g. how often each token occurs; x_min is fitted unless given.

    ValueError with fewer than MIN_KINDS of them.
    """
    x = np.sort(np.asarray(values, dtype=np.int64))
    if len(x) < MIN_KINDS or x[0] < 1:
        raise ValueError(f"values: needs at least {MIN_KINDS} positive counts, has {(x > 0).sum()}")
    kinds, counts = np.unique(x, return_counts=True)
    tails = counts[::-1].cumsum()[::-1]
    cuts = np.flatnonzero(tails >= MIN_TAIL)
    if x_min is not None:
        cuts = np.array([np.searchsorted(kinds, x_min)])
    if len(cuts) > MAX_CUTS:
        cuts = cuts[np.unique(np.linspace(0, len(cuts) - 1, MAX_CUTS).round().astype(int))]
    sums = (counts * np.log(kinds))[::-1].cumsum()[::-1]
    best: PowerLaw | None = None
    for cut in cuts:
        start, n = x_min or int(kinds[cut]), int(tails[cut])
        alpha = _alpha(start, sums[cut] / n)
        distance = _distance(alpha, start, kinds[cut:], counts[cut:])
        if best is None or distance < best.ks:
            best = PowerLaw(alpha, start, n, distance)
    assert best is not None
    return best


def _alpha(x_min: int, mean_log: float) -> float:
    """Maximum-likelihood exponent for mean ln x over the tail."""
    found = optimize.minimize_scalar(
        lambda a: np.log(special.zeta(a, x_min)) + a * mean_log, bounds=(1.0001, STEEPEST), method="bounded",
        options={"xatol": 1e-5},
    )  # fmt: skip
    return float(found.x)


def _distance(alpha: float, x_min: int, kinds: Counts, counts: Counts) -> float:
    """Largest gap of the two distribution functions over the integers (the empirical one is constant between kinds)."""
    share = counts.cumsum() / counts.sum()
    total = special.zeta(alpha, x_min)
    at = 1 - special.zeta(alpha, kinds + 1) / total
    before = (
        1 - special.zeta(alpha, kinds) / total
    )  # the model just below each kind, against the share up to the last one
    return float(max(np.abs(share - at).max(), np.abs(np.concatenate([[0.0], share[:-1]]) - before).max()))


def bootstrap_p(values: npt.ArrayLike, fit: PowerLaw, repeats: int = 1000, seed: int = 0) -> float:
    """Share of synthetic data sets that fit worse: below 0.1 the power law is implausible. +-0.016 at 1,000 repeats."""
    x = np.asarray(values, dtype=np.int64)
    body = x[x < fit.x_min]
    rng = np.random.default_rng(seed)
    worse = 0
    for _ in range(repeats):
        n_tail = rng.binomial(len(x), fit.n_tail / len(x)) if len(body) else len(x)
        drawn = draw_power_law(fit.alpha, fit.x_min, n_tail, rng)
        if len(body):
            drawn = np.concatenate([rng.choice(body, len(x) - n_tail), drawn])
        worse += power_law(drawn).ks >= fit.ks
    return worse / repeats


def draw_power_law(alpha: float, x_min: int, n: int, rng: np.random.Generator) -> Counts:
    """n integers of the discrete power law, by inverting its distribution function (appendix D)."""
    survival = 1 - rng.random(n)  # P(X >= x) of the answer, in (0, 1]
    total = special.zeta(alpha, x_min)
    low, high = np.full(n, x_min, np.int64), np.full(n, 2 * x_min, np.int64)
    open_ = special.zeta(alpha, high) / total >= survival
    while open_.any() and high.max() < 2**60:
        low[open_], high[open_] = high[open_], 2 * high[open_]
        open_ = special.zeta(alpha, high) / total >= survival
    while (high - low > 1).any():
        middle = (low + high) // 2
        above = special.zeta(alpha, middle) / total >= survival
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return low


def against_lognormal(values: npt.ArrayLike, fit: PowerLaw) -> Against:
    """The tail under the power law against a lognormal discretised to x - 1/2 .. x + 1/2, fitted to the same tail."""
    x = np.asarray(values, dtype=np.int64)
    kinds, counts = np.unique(x[x >= fit.x_min], return_counts=True)
    logs = np.log(kinds)
    mean = float((counts * logs).sum() / counts.sum())
    spread = max(float(np.sqrt((counts * (logs - mean) ** 2).sum() / counts.sum())), 1e-3)

    def likelihoods(parameters: Floats) -> Floats:
        location, scale = parameters[0], np.exp(parameters[1])
        upper = stats.norm.logsf((np.log(kinds - 0.5) - location) / scale)
        lower = stats.norm.logsf((np.log(kinds + 0.5) - location) / scale)
        tail = stats.norm.logsf((np.log(fit.x_min - 0.5) - location) / scale)
        inside = np.asarray(upper + np.log(-np.expm1(np.minimum(lower - upper, -1e-300))) - tail)
        return np.where(np.isfinite(inside), inside, -1e6)

    found = optimize.minimize(
        lambda p: -(counts * likelihoods(p)).sum(),
        [mean, np.log(spread)],
        method="Nelder-Mead",
        options={"maxiter": 2000},
    )
    power = -fit.alpha * logs - np.log(special.zeta(fit.alpha, fit.x_min))
    difference = power - likelihoods(found.x)
    n = counts.sum()
    centre = (counts * difference).sum() / n
    deviation = np.sqrt((counts * (difference - centre) ** 2).sum() / n)
    ratio = float(centre * np.sqrt(n) / deviation) if deviation > 0 else 0.0
    return Against(ratio, float(2 * stats.norm.sf(abs(ratio))))
