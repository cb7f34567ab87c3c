"""Ridge regression through principal axes: the same whichever decomposition finds them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata

from nca_interp.analysis.readout.regression import PENALTIES, Fit, _fit, _ranks, _ridge


def by_svd(x: np.ndarray) -> Fit:
    centre, scale = x.mean(0), x.std(0)
    u, s, axes = np.linalg.svd((x - centre) / scale, full_matrices=False)
    return Fit(centre, scale, u * s, s**2, axes)


@pytest.mark.parametrize("rank", [4, 12])
def test_squares_of_features_give_the_predictions_of_their_singular_values(rank):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, rank)) @ rng.normal(size=(rank, 12))
    y = np.stack([x[:, 0] + rng.normal(size=90), rng.normal(size=90)], 1)
    np.testing.assert_allclose(_ridge(_fit(x[:70]), y[:70], x[70:]), _ridge(by_svd(x[:70]), y[:70], x[70:]), atol=1e-9)


def test_predictions_are_those_of_the_normal_equations_at_the_best_penalty():
    rng = np.random.default_rng(1)
    x, noise = rng.normal(size=(60, 5)), rng.normal(size=(60, 1))
    y = x[:, :1] + noise
    z, c = (x - x.mean(0)) / x.std(0), y - y.mean(0)
    fits, scores = [], []
    for penalty in PENALTIES:
        hat = z @ np.linalg.inv(z.T @ z + penalty * np.eye(5)) @ z.T
        fits.append(hat @ c + y.mean(0))
        scores.append(((c - hat @ c) ** 2).sum() / (len(y) - 1 - np.trace(hat)) ** 2)
    np.testing.assert_allclose(_ridge(_fit(x), y, x), fits[int(np.argmin(scores))], atol=1e-9)


def test_ranks_are_those_of_scipy_and_tie_what_rounding_parts():
    rng = np.random.default_rng(2)
    guess = rng.integers(0, 6, size=(40, 3)).astype(float)
    expected = rankdata(guess, axis=0)
    np.testing.assert_array_equal(_ranks(guess), expected)
    np.testing.assert_array_equal(_ranks(guess + 1e-9 * rng.normal(size=guess.shape)), expected)
    np.testing.assert_array_equal(_ranks(np.ones((5, 1))), np.full((5, 1), 3.0))
