"""Linear read-out that is judged on what it was not fitted to: cross-validated ridge regression, many targets at once.

Rules are the unit: the read-out is fitted on some rules and judged on others, so that it cannot remember them. Intervals come from
fitting again: a group of rules is left out of fits and judgement alike, one group after the other (delete-group jackknife).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.stats import rankdata

from nca_interp.analysis.spectra import svd
from nca_interp.analysis.verdicts.statistics import Interval

FOLDS = 5
PENALTIES = 10.0 ** np.arange(-3, 7)
ROUNDING = 1e-6
GROUPS = 10
"""Groups of rules that are left out in turn."""
Matrix = npt.NDArray[np.float64]


class Decoded(NamedTuple):
    """How well an attribute is read out."""

    spearman: float
    """Rank correlation of held-out prediction and truth, mean over folds (0 without information). Not over all rules at
    once: a prediction that says nothing is the training part's mean, which runs against the held-out part's."""
    r2: float
    """1 - squared error / variance on held-out rules; may be negative."""
    n: int
    """Rules."""


class Folds(NamedTuple):
    """A division of the rules, and what is left out in turn."""

    of: npt.NDArray[np.int64]
    """[rule] part in which it is held out."""
    kept: npt.NDArray[np.bool_]
    """[replicate, rule]; the first replicate is all rules, each other one leaves out a group."""


class Judged(NamedTuple):
    """Scores [replicate, target] of held-out predictions, the read-out fitted anew in each replicate."""

    spearman: Matrix
    r2: Matrix


def make_folds(n: int, folds: int = FOLDS, seed: int = 0, groups: int = GROUPS) -> Folds:
    """Parts of nearly equal size, and `groups` with as many rules of each. Raises ValueError for fewer than 4 rules a part."""
    if n < 4 * folds:
        raise ValueError(f"features: {n} rules; {folds} folds need at least {4 * folds}")
    order = np.random.default_rng(seed).permutation(n)
    of, group = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    of[order], group[order] = np.arange(n) % folds, np.arange(n) // folds % max(groups, 1)
    return Folds(of, np.stack([np.ones(n, dtype=bool), *(group != g for g in range(groups))]))


def jackknife(values: Matrix, level: float = 0.95) -> Interval:
    """Interval of a score from its replicates (all rules first): t with groups - 1 degrees of freedom; none without groups."""
    value, left = float(values[0]), np.asarray(values[1:], dtype=float)
    if len(left) < 2:
        return Interval(value, math.nan, math.nan)
    error = math.sqrt((len(left) - 1) / len(left) * float(((left - left.mean()) ** 2).sum()))
    half = float(stats.t.ppf((1 + level) / 2, len(left) - 1)) * error
    return Interval(value, value - half, value + half)


def decode(features: npt.ArrayLike, attribute: npt.ArrayLike, folds: int = FOLDS, seed: int = 0) -> Decoded:
    """Cross-validated ridge regression of `attribute` [rules] on `features` [rules, width].

    The penalty is chosen by generalised cross-validation inside each training part. Raises ValueError for fewer than
    4 rules a fold, or an attribute that does not vary.
    """
    y = np.asarray(attribute, dtype=float)[:, None]
    if np.ptp(y) == 0:
        raise ValueError("attribute: the same for every rule; there is nothing to read out")
    parts = make_folds(len(y), folds, seed, groups=0)
    found = judge(predict(features, y, parts), y, parts)
    return Decoded(float(found.spearman[0, 0]), float(found.r2[0, 0]), len(y))


class Fit(NamedTuple):
    """What a ridge regression needs of the features [rule, width] that it is fitted on, whatever the target: `turned` are the
    standardised features in their principal axes."""

    centre: Matrix
    scale: Matrix
    turned: Matrix
    """[rule, axis]."""
    squares: Matrix
    """[axis] sum of squares."""
    axes: Matrix
    """[axis, width]."""


def predict(
    features: npt.ArrayLike, targets: npt.ArrayLike, folds: Folds, known: dict[tuple[int, int], Fit] | None = None
) -> Matrix:
    """Held-out predictions [replicate, rule, target] from features [rule, width]: each rule by the fit on the other parts, NaN where
    the replicate leaves it out. `known`: fits of the same features by replicate and part; those of the first replicate are added.

    Raises ValueError for features that are not finite.
    """
    x, y, known = np.asarray(features, dtype=float), np.asarray(targets, dtype=float), {} if known is None else known
    if not np.isfinite(x).all():
        raise ValueError(
            f"features: {int((~np.isfinite(x)).sum())} of {x.size} are NaN or infinite; legal: finite numbers"
        )
    predicted = np.full((len(folds.kept), *y.shape), np.nan)
    for replicate, kept in enumerate(folds.kept):
        for k in range(int(folds.of.max()) + 1):
            held = kept & (folds.of == k)
            fitted = kept & (folds.of != k)
            fit = known.get((replicate, k)) or _fit(x[fitted])
            if replicate == 0:
                known[replicate, k] = fit
            predicted[replicate, held] = _ridge(fit, y[fitted], x[held])
    return predicted


def ranks_of(truth: Matrix, folds: Folds) -> list[list[Matrix]]:
    """Ranks of the truth [rule, target] in each part of each replicate that has a rule."""
    return [[rankdata(truth[part], axis=0) for part in parts] for parts in _parts(folds)]


def _parts(folds: Folds) -> list[list[npt.NDArray[np.bool_]]]:
    parts = [folds.of == k for k in range(int(folds.of.max()) + 1)]
    return [[kept & part for part in parts if (kept & part).any()] for kept in folds.kept]


def judge(predicted: Matrix, truth: Matrix, folds: Folds, ranks: list[list[Matrix]] | None = None) -> Judged:
    """Scores of predictions [replicate, rule, target], of all rules and of every replicate of `folds`. `ranks`: those of the truth,
    where there are many predictions of it."""
    scores = []
    for guess, kept, parts, known in zip(
        predicted, folds.kept, _parts(folds), ranks or ranks_of(truth, folds), strict=True
    ):
        found = [_correlation(_ranks(guess[part]), of_truth) for part, of_truth in zip(parts, known, strict=True)]
        error = ((guess - truth)[kept] ** 2).sum(0)
        spread = ((truth[kept] - truth[kept].mean(0)) ** 2).sum(0)
        scores.append((np.mean(found, axis=0), 1 - error / np.maximum(spread, 1e-300)))
    return Judged(*(np.stack(values) for values in zip(*scores, strict=True)))


def _ranks(guess: Matrix) -> Matrix:
    """Ranks [rule, target] of predictions: those that differ by no more than the rounding of a forward pass are tied, since rules
    that look alike to the model would otherwise be ordered by the last bit, anew in every pass."""
    order = guess.argsort(axis=0)
    rises = np.diff(np.take_along_axis(guess, order, 0), axis=0) > ROUNDING * np.ptp(guess, axis=0)
    place, edge = np.arange(len(guess))[:, None], np.ones((1, guess.shape[1]), dtype=bool)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, rises]), place, 0), axis=0)
    last = np.where(np.concatenate([rises, edge]), place, len(guess))[::-1]
    last = np.minimum.accumulate(last, axis=0)[::-1]
    ranks = np.empty_like(guess)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, 0)  # those that are tied share the mean of their places
    return ranks


def _correlation(a: Matrix, b: Matrix) -> Matrix:
    """Pearson correlation [target] of a and b [rule, target]; 0 where one of them does not vary."""
    a, b = a - a.mean(0), b - b.mean(0)
    squares = (a**2).sum(0) * (b**2).sum(0)
    return np.where(squares > 1e-12, (a * b).sum(0) / np.sqrt(np.where(squares > 1e-12, squares, 1.0)), 0.0)


def _fit(x: Matrix) -> Fit:
    """Features standardised, and turned into their principal axes."""
    centre, scale = x.mean(0), x.std(0)
    # what varies by no more than the rounding of a forward pass is constant, and must not be scaled up
    scale[scale <= ROUNDING * np.abs(x).max()] = np.inf
    x = (x - centre) / scale
    if x.shape[0] >= x.shape[1]:
        # squared features lose what lies under 1e-8 of the largest, far below the smallest penalty
        squares, axes = np.linalg.eigh(x.T @ x)
        return Fit(centre, scale, x @ axes, np.maximum(squares, 0.0), axes.T)
    u, s, axes = svd(x)
    return Fit(centre, scale, u * s, s**2, axes)


def _ridge(fit: Fit, y: Matrix, new: Matrix) -> Matrix:
    """Predictions [new, target]; penalty of each target by generalised cross-validation."""
    centred = y - y.mean(0)
    along = fit.turned.T @ centred
    kept = 1 / (fit.squares + PENALTIES[:, None])  # [penalty, axis]
    shrink = fit.squares * kept
    residual = (centred**2).sum(0) - (kept * (2 - shrink)) @ along**2
    best = (residual / (len(y) - 1 - shrink.sum(1)[:, None]) ** 2).argmin(0)
    return np.asarray(((new - fit.centre) / fit.scale) @ (fit.axes.T @ (kept[best].T * along)) + y.mean(0))
