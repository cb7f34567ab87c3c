"""Speed-ups and slowdowns: known curves, exchange of the arms, no bias without an effect."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_interp.analysis.verdicts.simulate import curves
from nca_interp.analysis.verdicts.speedup import Curve, speedup_tables, speedups, tokens_to


def _curve(losses, **more) -> Curve:
    losses = np.asarray(losses, dtype=float)
    return Curve(np.arange(len(losses)) * 100.0, losses, 2.0, **more)


LOSSES = st.lists(st.floats(0.5, 9), min_size=6, max_size=6)


@settings(max_examples=60, deadline=None)
@given(LOSSES, LOSSES)
def test_exchanging_the_arms_inverts_the_ratio(a, b):
    first, second = _curve(a), _curve(b)
    assert speedups(first, second)[0].speedup == pytest.approx(1 / speedups(second, first)[0].speedup)
    assert all(result.speedup == pytest.approx(1.0) for result in speedups(first, first))


def test_speed_up_in_three_budgets():
    base = _curve([6, 5, 4, 3, 2])
    fast = _curve([6, 4, 2, 1.5, 1.2], ppt_tokens=100.0, ppt_flops=1000.0)
    pt, both, flops = speedups(base, fast)
    assert pt == ("pt", 2.0, "scratch", 2.0)
    assert both == ("pt+ppt", 2.0, "scratch", 400 / 300)
    assert flops.speedup == pytest.approx(800 / (400 + 1000))
    assert tokens_to(_curve([4, 1]), 2.0) == pytest.approx(50.0)  # halfway in ln(loss)
    assert tokens_to(_curve([6, 2, 3, 2.5, 1]), 2.2) < 100
    assert math.isnan(tokens_to(_curve([6, 5, 4]), 1.0))


def test_a_slowdown_is_a_number():
    base, slow = _curve([6, 4, 2]), _curve([6, 5, 4])
    pt = speedups(base, slow)[0]
    assert pt == ("pt", 4.0, "regime", 0.5)  # scratch is at 4 after 100 tokens, the regime after 200
    single = speedup_tables({("web", "scratch", 0): base, ("web", "nca", 0): slow, ("web", "nca", 1): slow})
    assert len(single["speedup"]) == 3  # seed 1 has no scratch
    assert single["speedups"].low.isna().all()
    assert single["speedups"].sentence.str.contains("one seed, so no interval").all()


def test_the_mean_is_unbiased_and_its_interval_covers():
    rng, studies = np.random.default_rng(0), 200
    for factor in (1.0, 0.7, 1.4):
        found = [speedup_tables(curves(3, factor, rng))["speedups"].iloc[0] for _ in range(studies)]
        logs = np.array([row.log_mean for row in found])
        assert logs.mean() == pytest.approx(math.log(factor), abs=3 * logs.std() / math.sqrt(studies) + 0.005), factor
        held = np.mean([row.low <= factor <= row.high for row in found])
        assert held >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / studies), factor
