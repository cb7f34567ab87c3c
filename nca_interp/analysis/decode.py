"""Does a model represent the rule that makes its context? Linear read-out of rule attributes from its residual stream.

One feature vector a rule: the mean of resid_pre (or the final resid_post) over the last frame that the model has read in
full. Rules are the unit: the read-out is fitted on some rules and judged on others, so that it cannot remember them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

FOLDS = 5
PENALTIES = 10.0 ** np.arange(-3, 7)
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


def decode(features: npt.ArrayLike, attribute: npt.ArrayLike, folds: int = FOLDS, seed: int = 0) -> Decoded:
    """Cross-validated ridge regression of `attribute` [rules] on `features` [rules, width].

    The penalty is chosen by generalised cross-validation inside each training part. Raises ValueError for fewer than
    4 rules a fold, or an attribute that does not vary.
    """
    x, y = np.asarray(features, dtype=float), np.asarray(attribute, dtype=float)
    if len(x) < 4 * folds:
        raise ValueError(f"features: {len(x)} rules; {folds} folds need at least {4 * folds}")
    if np.ptp(y) == 0:
        raise ValueError("attribute: the same for every rule; there is nothing to read out")
    fold = np.random.default_rng(seed).permutation(len(x)) % folds
    predicted = np.empty(len(x))
    for k in range(folds):
        held = fold == k
        predicted[held] = _ridge(x[~held], y[~held], x[held])
    error = float(((predicted - y) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    parts = [(predicted[fold == k], y[fold == k]) for k in range(folds)]
    ranks = [spearmanr(p, t).statistic if np.ptp(p) > 0 and np.ptp(t) > 0 else 0.0 for p, t in parts]
    return Decoded(float(np.mean(ranks)), 1 - error, len(x))


def _ridge(x: Matrix, y: Matrix, new: Matrix) -> Matrix:
    """Predictions for `new`; features standardised by the training part, penalty by generalised cross-validation."""
    centre, scale = x.mean(0), x.std(0)
    scale[scale == 0] = 1.0
    u, s, vt = np.linalg.svd((x - centre) / scale, full_matrices=False)
    target = u.T @ (y - y.mean())
    best, chosen = np.inf, np.zeros_like(s)
    for penalty in PENALTIES:
        shrink = s**2 / (s**2 + penalty)
        residual = ((y - y.mean() - u @ (shrink * target)) ** 2).sum()
        score = residual / (len(y) - 1 - shrink.sum()) ** 2
        if score < best:
            best, chosen = score, s / (s**2 + penalty) * target
    return np.asarray(((new - centre) / scale) @ (vt.T @ chosen) + y.mean())
