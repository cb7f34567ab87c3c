"""Bends of loss curves: planted ones are found within their interval, smooth learning curves of every kind have none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nca_interp.analysis.dynamics.bend import NO_BEND, bend

TOKENS = np.arange(1, 601) * 64.0
X = np.log(TOKENS / 64)
SMOOTH = {
    "a line in ln(tokens)": 6 - 0.3 * X,
    "a power law": 6 * np.exp(-0.1 * X),
    "a power law above a floor": 2 + 4 * np.exp(-0.4 * X),
    "a flat start": 2 + 4 * ((TOKENS + 3200) / 3264) ** -0.5,
    "two power laws": 2 + 2 * np.exp(-0.1 * X) + 2 * np.exp(-0.6 * X),
    "a soft step": 3 + 3 / (1 + np.exp((X - 4) / 0.8)),
}
KINK = 6 - 0.05 * X - 0.8 * np.maximum(X - math.log(80), 0)


def slow(rng: np.random.Generator, rho: float) -> np.ndarray:
    """Noise of deviation 1 whose neighbours correlate by rho."""
    noise = rng.normal(size=len(X))
    for i in range(1, len(noise)):
        noise[i] = rho * noise[i - 1] + math.sqrt(1 - rho**2) * noise[i]
    return noise


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_curves_rarely_have_a_bend(name):
    rng, found, curves = np.random.default_rng(0), 0, 0
    for deviation in (0.003, 0.1):
        for rho in (0.0, 0.6):
            for _ in range(6):
                curves += 1
                found += not math.isnan(bend(TOKENS, SMOOTH[name] + deviation * slow(rng, rho)).at)
    assert found / curves <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / curves)
    assert np.isnan(bend(TOKENS, SMOOTH[name])).all()  # without any noise


def test_a_planted_bend_is_found_within_its_interval():
    assert bend(TOKENS, KINK).at == pytest.approx(80 * 64, rel=0.05)
    rng, held, widths = np.random.default_rng(0), [], {}
    for deviation in (0.01, 0.1):
        found = [bend(TOKENS, KINK + deviation * slow(rng, 0.3)) for _ in range(15)]
        assert not any(math.isnan(b.at) for b in found)
        held += [b.low <= 80 * 64 <= b.high for b in found]
        widths[deviation] = np.mean([math.log(b.high / b.low) for b in found])
    assert np.mean(held) >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / len(held))
    assert widths[0.01] < widths[0.1]


def test_a_short_or_constant_curve_has_none():
    for few in ([], TOKENS[:8], [64.0]):
        assert np.isnan(bend(few, few)).all()
    assert np.isnan(bend(TOKENS, np.full(len(TOKENS), 3.0))).all()
    assert np.isnan(bend(TOKENS, np.full(len(TOKENS), math.nan))).all()
    assert np.isnan(NO_BEND).all()
