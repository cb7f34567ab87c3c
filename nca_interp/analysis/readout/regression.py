"""Linear read-out that is judged on what it was not fitted to: cross-validated ridge regression, many targets at once.

Rules are the unit: the read-out is fitted on some rules and judged on others, so that it cannot remember them, and rules
are what an interval resamples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from nca_interp.analysis.spectra import svd

FOLDS = 5
PENALTIES = 10.0 ** np.arange(-3, 7)
RESAMPLES = 2000
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
    """A division of the rules, and resamples of the rules within each part."""

    of: npt.NDArray[np.int64]
    """[rule] part in which it is held out."""
    counts: Matrix
    """[resample, rule] how often it was drawn; the first resample is the rules themselves."""


class Judged(NamedTuple):
    """Scores [resample, target] of held-out predictions; the first row is that of the rules themselves.

    The fits stay: the spread is that of judging on other rules, not of fitting on others. Ranks are those among the held-out
    rules of a part, so that a rule that is drawn twice counts twice and moves no other.
    """

    spearman: Matrix
    r2: Matrix


def make_folds(n: int, folds: int = FOLDS, seed: int = 0, resamples: int = RESAMPLES) -> Folds:
    """Parts of nearly equal size. Raises ValueError for fewer than 4 rules a part."""
    if n < 4 * folds:
        raise ValueError(f"features: {n} rules; {folds} folds need at least {4 * folds}")
    rng = np.random.default_rng(seed)
    of = rng.permutation(n) % folds
    counts = np.ones((1 + resamples, n))
    for k in range(folds):
        held = np.flatnonzero(of == k)
        counts[1:, held] = rng.multinomial(len(held), np.full(len(held), 1 / len(held)), size=resamples)
    return Folds(of, counts)


def decode(features: npt.ArrayLike, attribute: npt.ArrayLike, folds: int = FOLDS, seed: int = 0) -> Decoded:
    """Cross-validated ridge regression of `attribute` [rules] on `features` [rules, width].

    The penalty is chosen by generalised cross-validation inside each training part. Raises ValueError for fewer than
    4 rules a fold, or an attribute that does not vary.
    """
    y = np.asarray(attribute, dtype=float)[:, None]
    if np.ptp(y) == 0:
        raise ValueError("attribute: the same for every rule; there is nothing to read out")
    parts = make_folds(len(y), folds, seed, resamples=0)
    found = judge(predict(features, y, parts), y, parts)
    return Decoded(float(found.spearman[0, 0]), float(found.r2[0, 0]), len(y))


def predict(features: npt.ArrayLike, targets: npt.ArrayLike, folds: Folds) -> Matrix:
    """Held-out predictions [rule, target] from features [rule, width]: each rule by the fit on the other parts.

    Raises ValueError for features that are not finite.
    """
    x, y = np.asarray(features, dtype=float), np.asarray(targets, dtype=float)
    if not np.isfinite(x).all():
        raise ValueError(
            f"features: {int((~np.isfinite(x)).sum())} of {x.size} are NaN or infinite; legal: finite numbers"
        )
    predicted = np.empty_like(y)
    for k in range(int(folds.of.max()) + 1):
        held = folds.of == k
        predicted[held] = _ridge(x[~held], y[~held], x[held])
    return predicted


def judge(predicted: Matrix, truth: Matrix, folds: Folds) -> Judged:
    """Scores of predictions [rule, target], of the rules themselves and of every resample of `folds`."""
    parts = [folds.of == k for k in range(int(folds.of.max()) + 1)]
    ranks = [
        _correlation(rankdata(predicted[p], axis=0), rankdata(truth[p], axis=0), folds.counts[:, p]) for p in parts
    ]
    n = len(truth)
    error = folds.counts @ (predicted - truth) ** 2
    spread = folds.counts @ truth**2 - (folds.counts @ truth) ** 2 / n
    return Judged(np.mean(ranks, axis=0), 1 - error / np.maximum(spread, 1e-300))


def _correlation(a: Matrix, b: Matrix, counts: Matrix) -> Matrix:
    """Pearson correlation [resample, target] of a and b [rule, target]; 0 where one of them does not vary."""
    a, b, n = a - a.mean(0), b - b.mean(0), counts.sum(1, keepdims=True)
    mean_a, mean_b = counts @ a / n, counts @ b / n
    both = counts @ (a * b) / n - mean_a * mean_b
    squares = (counts @ a**2 / n - mean_a**2) * (counts @ b**2 / n - mean_b**2)
    known = squares > 1e-12
    return np.where(known, both / np.sqrt(np.where(known, squares, 1.0)), 0.0)


def _ridge(x: Matrix, y: Matrix, new: Matrix) -> Matrix:
    """Predictions [new, target]; features standardised by the training part, penalty of each target by generalised
    cross-validation."""
    centre, scale = x.mean(0), x.std(0)
    scale[scale == 0] = 1.0
    u, s, vt = svd((x - centre) / scale)
    centred = y - y.mean(0)
    target = u.T @ centred
    best, chosen = np.full(y.shape[1], np.inf), np.zeros_like(target)
    for penalty in PENALTIES:
        shrink = (s**2 / (s**2 + penalty))[:, None]
        residual = (centred**2).sum(0) - ((2 * shrink - shrink**2) * target**2).sum(0)
        score = residual / (len(y) - 1 - shrink.sum()) ** 2
        better = score < best
        best = np.where(better, score, best)
        chosen = np.where(better, (s / (s**2 + penalty))[:, None] * target, chosen)
    return np.asarray(((new - centre) / scale) @ (vt.T @ chosen) + y.mean(0))
