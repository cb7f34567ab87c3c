"""What a small student learns: nothing of constants and noise, something of patterns; the same again for a seed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nca_interp.analysis.complexity.learnability import Budget, learnability
from nca_interp.base import UserError
from nca_interp.data.sample import Sample
from nca_interp.data.specs import DyckSpec

SMALL = Budget(steps=60, batch=8, n_ctx=32, d_model=32, d_mlp=64)


def sample(rows: np.ndarray) -> Sample:
    return Sample(DyckSpec(), 40, rows.astype(np.uint32), [""] * len(rows), None, None, None, "planted")


def test_constants_and_noise_have_nothing_to_learn_and_a_pattern_has():
    rng = np.random.default_rng(0)
    constant = learnability(sample(np.full((40, 500), 7)), SMALL)
    assert constant.bits == 0
    noise = learnability(sample(rng.choice(40, (40, 500), p=rng.dirichlet(np.ones(40)))), SMALL)
    assert abs(noise.bits) < 0.05
    assert abs(noise.gain) < 0.05
    pattern = learnability(sample(np.tile(rng.permutation(40)[:10], (40, 50))), SMALL)
    assert pattern.bits > 0.2
    assert pattern.gain == pytest.approx(math.log(10) - pattern.final_loss, abs=0.1)
    assert pattern.curve[0] == pytest.approx(math.log(40), abs=0.1)


def test_the_same_seed_gives_the_same_curve():
    rows = sample(np.random.default_rng(1).integers(0, 5, (40, 500)))
    short = SMALL._replace(steps=5)
    first, again, other = (learnability(rows, short, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.curve, again.curve)
    assert not np.array_equal(first.curve, other.curve)


def test_a_short_sample_is_refused():
    with pytest.raises(UserError, match="needs at least 480 windows of 33 tokens from within rows, has 15"):
        learnability(sample(np.zeros((1, 500))), SMALL)
