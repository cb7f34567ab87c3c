"""Measures of trajectories and rules: hand-made grids, a brute-force second copy, and rules whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_interp.data.nca import dynamics
from nca_interp.data.nca import rules as nca
from nca_interp.data.specs import NcaSpec
from tests.data import reference


def grids(*numbers: int) -> np.ndarray:
    """One trajectory [1, frames, 3, 3] of grids that are told apart by a number."""
    return np.stack([np.full((3, 3), n, np.uint8) for n in numbers])[None]


@pytest.mark.parametrize(
    ("trajectory", "transient", "period"),
    [
        (grids(5, 4, 3, 3, 3), 2, 1),
        (grids(1, 2, 1, 2, 1), 0, 2),
        (grids(9, 1, 2, 3, 1, 2, 3), 1, 3),
        (grids(0, 0), 0, 1),
        (grids(1, 2, 3, 4), math.nan, math.nan),
    ],
)
def test_transient_and_period_of_hand_made_trajectories(trajectory, transient, period):
    found = dynamics.recurrence(trajectory)
    assert found.transient.tolist() == pytest.approx([transient], nan_ok=True)
    assert found.period.tolist() == pytest.approx([period], nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 256), st.integers(0, 999))
def test_conditional_entropy_by_counting_by_hand(n, seed):
    rng = np.random.default_rng(seed)
    frames = np.minimum(rng.integers(0, n, (1, 4, 4, 4)), rng.integers(0, n, (1, 4, 4, 4))).astype(np.uint8)
    for context in (dynamics.OWN, dynamics.ROW, nca.STENCIL):
        seen: dict[tuple[int, ...], list[int]] = {}
        for t in range(3):
            for y in range(4):
                for x in range(4):
                    key = tuple(int(frames[0, t, (y + dy) % 4, (x + dx) % 4]) for dy, dx in context)
                    seen.setdefault(key, []).append(int(frames[0, t + 1, y, x]))
        joint = [following.count(s) for following in seen.values() for s in set(following)]
        total = [len(following) for following in seen.values()]
        h = [-sum(c / 48 * math.log(c / 48) for c in counts) + (len(counts) - 1) / 96 for counts in (joint, total)]
        found = dynamics.cell_conditional_entropies(frames, context)
        assert found.value[0] == pytest.approx(h[0] - h[1], abs=1e-9)
        assert found.coverage[0] == pytest.approx(sum(t for t in total if t > 1) / 48)


def test_stencil_explains_a_cold_rule_and_noise_entropy_is_what_is_left_of_a_warm_one():
    """Two states, so that stencils repeat: at tau = 0 nothing is left given the stencil; at tau > 0 counting agrees with
    the rule's own distribution."""
    keys = nca.rule_keys(0, "train", np.arange(12))
    for tau in (0.0, 0.3):
        spec = NcaSpec(n_states=2, tau=tau, band=None)
        frames = nca.simulate(spec, nca.make_rules(spec, keys), nca.trajectory_keys(keys, 0), 150)
        counted = dynamics.cell_conditional_entropies(frames, nca.STENCIL)
        exact = dynamics.noise_entropies(spec, keys, frames)
        if tau == 0:
            assert np.abs(counted.value).max() < 0.02
            assert exact.tolist() == [0] * 12
        else:
            assert exact.max() > 0.1
            assert counted.value == pytest.approx(exact, abs=0.02)
        assert (dynamics.cell_conditional_entropies(frames, dynamics.OWN).value > counted.value - 0.02).all()


@pytest.mark.parametrize("variant", ["paper", "release"])
def test_noise_entropy_against_the_reference_network(variant):
    spec = NcaSpec(grid=4, n_states=3, tau=0.2, band=None, identity_bias=0.1, variant=variant)
    keys = nca.rule_keys(3, "train", [0])
    frames = np.random.default_rng(0).integers(0, 3, (1, 2, 4, 4)).astype(np.uint8)
    kernel, total = reference.kernels(spec, int(keys[0])), 0.0
    for grid in frames[0]:
        for y in range(4):
            for x in range(4):
                z = reference.logits(spec, kernel, grid, y, x).astype(float)  # the identity bias included
                p = np.exp((z - z.max()) / spec.tau)
                p /= p.sum()
                total -= (p * np.log(p)).sum()
    assert dynamics.noise_entropies(spec, keys, frames)[0] == pytest.approx(total / 32, rel=1e-4)


@pytest.mark.parametrize("changes", [{}, {"tau": 0.3, "dt": 3}, {"variant": "release", "n_states": 5}])
def test_damage_is_a_second_copy_with_one_cell_flipped(changes):
    """Bit-exact against two runs of the reference with the same noise words, one of them flipped after burn-in."""
    spec = NcaSpec(**{"grid": 5, "patch": 1, "n_states": 3, "burn_in": 2, "band": None, **changes})
    keys = nca.rule_keys(7, "train", [0, 1])
    found = dynamics.damage(spec, keys, flips=2, steps=4)
    single = spec.model_copy(update={"dt": 1})
    for r, key in enumerate(keys.tolist()):
        noise = reference.word(reference.mix(key), 0)
        intact = reference.trajectory(single, key, 0, 5)
        curve = np.zeros(5)
        for k in range(2):
            choice = reference.mix(reference.mix(noise))
            cell = (reference.word(choice, 2 * k) >> 32) * 25 >> 32
            shift = 1 + ((reference.word(choice, 2 * k + 1) >> 32) * (spec.n_states - 1) >> 32)
            state = intact[0].copy()
            state[cell // 5, cell % 5] = (state[cell // 5, cell % 5] + shift) % spec.n_states
            for t in range(5):
                curve[t] += (state != intact[t]).mean() / 2
                state = reference.step(single, reference.kernels(spec, key), state, noise, spec.burn_in + t)
        assert found.curve[r] == pytest.approx(curve)


def test_damage_of_the_identity_neither_grows_nor_moves():
    spec = NcaSpec(identity_bias=1e4, band=None)
    found = dynamics.damage(spec, nca.rule_keys(0, "train", np.arange(5)))
    assert found.curve == pytest.approx(np.full((5, 13), 1 / 144))
    assert found.slope == pytest.approx(np.zeros(5), abs=1e-12)
    assert found.speed.tolist() == [0] * 5


def test_damage_stays_in_the_light_cone_and_saturates():
    """One flipped cell reaches at most (2 t + 1)^2 cells after t steps; hot rules follow the noise they share, so damage heals."""
    spec = NcaSpec(band=None)
    found = dynamics.damage(spec, nca.rule_keys(0, "train", np.arange(100)))
    steps = np.arange(13)
    assert (found.curve <= np.minimum((2 * steps + 1) ** 2, 144) / 144 + 1e-12).all()
    assert (found.speed <= 1).all()
    assert found.speed.max() > 0.9
    assert 0.8 < np.quantile(found.spread, 0.9) < 1.2
    hot = dynamics.damage(NcaSpec(band=None, tau=100.0), nca.rule_keys(0, "train", np.arange(20)))
    assert hot.spread.mean() < 0.1 * found.spread.mean()


def test_activity_of_planted_frames():
    frames = np.zeros((2, 5, 3, 3), np.uint8)
    frames[1, 1::2] = 1
    assert dynamics.activity(frames).tolist() == [0, 1]
