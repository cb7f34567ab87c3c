"""Rank correlations over heads: against scipy, invariances, planted answers, calibration of p."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nca_interp.analysis.causes.shared_heads import associate, cross_load


def test_one_model_agrees_with_scipy_and_cross_load():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 3)), rng.normal(size=(24, 2))
    y[:, 0] += x[:, 1]
    y[:6, 1] = 0.5  # ties
    found = associate([(x, y)])
    for i in range(3):
        for j in range(2):
            assert found.rho[i, j] == pytest.approx(stats.spearmanr(x[:, i], y[:, j]).statistic)
            assert found.p[i, j] == pytest.approx(cross_load(x[:, i], y[:, j]).p, abs=0.02)
    assert (found.low < found.rho).all()
    assert (found.rho < found.high).all()


def test_models_are_averaged_and_their_heads_never_mixed():
    rng = np.random.default_rng(1)
    models = []
    for shift in (0.0, 100.0, 200.0):  # pooled heads would correlate by the shift alone
        models.append((rng.normal(size=(40, 1)) + shift, rng.normal(size=(40, 1)) + shift))
    found = associate(models)
    assert abs(found.rho[0, 0]) < 0.35
    assert found.p[0, 0] > 0.01
    assert found.rho[0, 0] == pytest.approx(np.mean([stats.spearmanr(x[:, 0], y[:, 0]).statistic for x, y in models]))
    low, high = stats.t.interval(0.95, 2, found.rhos[:, 0, 0].mean(), found.rhos[:, 0, 0].std(ddof=1) / np.sqrt(3))
    assert (found.low[0, 0], found.high[0, 0]) == (pytest.approx(max(-1, low)), pytest.approx(min(1, high)))


def test_planted_order_has_the_smallest_p_and_a_constant_has_none():
    x = np.arange(12.0)[:, None]
    found = associate([(np.hstack([x, -x, np.ones((12, 1))]), x**3)] * 2)
    np.testing.assert_array_equal(found.rho[:2, 0], [1, -1])
    np.testing.assert_allclose(found.p[:2, 0], 1e-4)
    assert np.isnan(found.rho[2, 0])
    assert np.isnan(found.p[2, 0])


def test_p_is_uniform_where_nothing_is_planted():
    rng = np.random.default_rng(2)
    p = [
        associate([(rng.normal(size=(10, 1)), rng.normal(size=(10, 1))) for _ in range(2)], permutations=199).p[0, 0]
        for _ in range(300)
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09


def test_too_few_heads_are_refused():
    with pytest.raises(ValueError, match="at least 3 heads"):
        associate([(np.ones((2, 1)), np.ones((2, 1)))])
    with pytest.raises(ValueError, match="at least one model"):
        associate([])


def test_what_layers_alone_do_is_no_association_of_heads():
    rng, layers, p = np.random.default_rng(3), np.repeat(np.arange(3), 4), []
    for _ in range(200):  # both rise from layer to layer, as most scores and harms do; the heads have nothing in common
        models = [tuple(layers[:, None] + 0.3 * rng.normal(size=(12, 1)) for _ in range(2)) for _ in range(3)]
        p.append(associate(models, [layers] * 3, permutations=199).p[0, 0])
        assert associate(models, permutations=99).p[0, 0] <= 0.05  # all heads as one layer would say so every time
    assert stats.kstest(p, "uniform").pvalue > 0.01
    order = np.array([0, 2, 1, 3] * 3)[:, None]
    found = associate([(order + 100 * layers[:, None], order - 100 * layers[:, None])] * 2, [layers] * 2)
    assert (found.rho[0, 0], found.p[0, 0]) == (1, pytest.approx(1e-4))
    assert np.isnan(associate([(layers[:, None], order)], [layers]).rho[0, 0])  # no head differs from its neighbours
