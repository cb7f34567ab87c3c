"""Ideal predictors: against a dictionary of counts written one cell at a time, planted rules, and what must not matter."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_interp.data.nca import predictors
from nca_interp.data.nca.rows import judge
from nca_interp.data.nca.rules import initial_cells, make_rules, rule_keys, simulate, trajectory_keys
from nca_interp.data.rng import bits
from nca_interp.data.specs import NcaSpec
from tests.data import reference


def context(kind: str, frames: np.ndarray, t: int, y: int, x: int):
    """What a counting predictor knows of a cell, or None."""
    grid = frames.shape[1]
    if kind == "all":
        return ()
    if kind == "place":
        return (y, x)
    if t == 0:
        return None
    where = {
        "own": [(0, 0)],
        "cross": [(-1, 0), (0, -1), (0, 0), (0, 1), (1, 0)],
        "stencil": [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)],
    }
    return tuple(int(frames[t - 1, (y + dy) % grid, (x + dx) % grid]) for dy, dx in where[kind])


def brute_force(spec: NcaSpec, frames: np.ndarray, levels: tuple[str, ...]) -> np.ndarray:
    """[frame - 1, 4]: cell accuracy, patch accuracy, nats, coverage."""
    grid, rows = spec.grid, []
    counts = [Counter() for _ in levels]
    for t in range(len(frames)):
        hits, nats, seen = np.zeros((grid, grid)), [], []
        for y in range(grid):
            for x in range(grid):
                p, truth, widest = 1 / spec.n_states, int(frames[t, y, x]), None
                for level, kind in enumerate(levels):
                    at = context(kind, frames, t, y, x)
                    had = [counts[level][at, s] for s in range(spec.n_states)]
                    p = (had[truth] + predictors.PRIOR * p) / (sum(had) + predictors.PRIOR)
                    if sum(had):
                        widest = level
                        hits[y, x] = (had[truth] == max(had)) / had.count(max(had))
                nats.append(-math.log(p))
                seen.append(widest == len(levels) - 1)
        if t:
            k = spec.patch
            patches = [hits[y : y + k, x : x + k].prod() for y in range(0, grid, k) for x in range(0, grid, k)]
            rows.append((hits.mean(), np.mean(patches), np.mean(nats), np.mean(seen)))
        for y in range(grid):
            for x in range(grid):
                for level, kind in enumerate(levels):
                    if (at := context(kind, frames, t, y, x)) is not None:
                        counts[level][at, int(frames[t, y, x])] += 1
    return np.array(rows)


def random_rules(spec: NcaSpec, n: int, n_frames: int, seed: int = 0):
    """Frames of `n` unfiltered rules and the rules' keys."""
    keys = rule_keys(seed, "test", np.arange(n))
    return simulate(spec, make_rules(spec, keys), trajectory_keys(keys, 0), n_frames), keys


@pytest.mark.parametrize("n_states", [2, 5, 200])
def test_counting_is_a_dictionary_of_counts(n_states):
    spec = NcaSpec(grid=6, patch=2 if n_states < 40 else 1, n_states=n_states, band=None, burn_in=1, tau=0.02)
    frames, _ = random_rules(spec, 3, 5)
    found = predictors.counting(spec, frames)
    assert set(found) == {"copy", *predictors.COUNTING}
    for name, levels in predictors.COUNTING.items():
        for row, sequence in enumerate(frames):
            got = np.stack([part[row, 1:] for part in found[name]], -1)
            assert got == pytest.approx(brute_force(spec, sequence, levels), abs=1e-12), name
            assert all(np.isnan(part[row, 0]) for part in found[name])


def test_a_rule_that_changes_nothing_is_copied():
    spec = NcaSpec(grid=6, n_states=3, band=None, identity_bias=1e3)
    frames, keys = random_rules(spec, 4, 5)
    found = predictors.counting(spec, frames) | {"oracle": predictors.oracle(spec, frames, keys)}
    for name in ("copy", "cell-mode", "oracle"):
        assert (found[name].cell_accuracy[:, 1:] == 1).all()
        assert (found[name].patch_accuracy[:, 1:] == 1).all()
    assert (found["oracle"].cell_nats[:, 1:] == 0).all()
    assert (found["lookup"].cell_accuracy[:, 2:] == 1).all()  # every neighbourhood of frame 1 was there in frame 0
    assert (found["lookup"].coverage[:, 2:] == 1).all()


def test_a_shift_is_looked_up_once_every_neighbourhood_was_seen():
    spec = NcaSpec(grid=12, n_states=10, band=None)
    start = initial_cells(spec, bits(0, np.arange(4)))
    frames = np.stack([np.roll(start, t, 2) for t in range(5)], 1)
    found = predictors.counting(spec, frames)
    assert found["copy"].cell_accuracy[:, 1:].max() < 0.3
    for name in ("lookup", "backoff"):
        assert (found[name].coverage[:, 1] == 0).all()
        assert (found[name].cell_accuracy[:, 2:] == 1).all()
        assert (found[name].cell_nats[:, 4] < found[name].cell_nats[:, 2]).all()


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 999), dy=st.integers(0, 11), dx=st.integers(0, 11), n_states=st.integers(2, 6))
def test_names_of_states_and_the_origin_of_the_torus_do_not_matter(seed, dy, dx, n_states):
    spec = NcaSpec(grid=6, n_states=n_states, band=None)
    frames, _ = random_rules(spec, 2, 4, seed)
    names = np.random.default_rng(seed).permutation(n_states).astype(np.uint8)
    moved = names[np.roll(frames, (2 * dy, 2 * dx), (2, 3))]
    for one, other in zip(
        predictors.counting(spec, frames).values(), predictors.counting(spec, moved).values(), strict=True
    ):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("variant", ["paper", "release"])
def test_oracle_is_the_softmax_of_the_rule(variant):
    spec = NcaSpec(grid=4, n_states=3, band=None, burn_in=1, tau=0.05, identity_bias=0.1, variant=variant)
    frames, keys = random_rules(spec, 2, 3)
    score = predictors.oracle(spec, frames, keys)
    for row, key in enumerate(keys.tolist()):
        kernel = reference.kernels(spec, key)
        for t in (1, 2):
            hits, nats = np.zeros((4, 4)), []
            for y in range(4):
                for x in range(4):
                    z = reference.logits(spec, kernel, frames[row, t - 1], y, x).astype(float) / spec.tau
                    hits[y, x] = np.argmax(z) == frames[row, t, y, x]
                    nats.append(np.log(np.exp(z - z.max()).sum()) + z.max() - z[frames[row, t, y, x]])
            assert score.cell_accuracy[row, t] == hits.mean()
            assert score.patch_accuracy[row, t] == np.mean(
                [hits[y : y + 2, x : x + 2].all() for y in (0, 2) for x in (0, 2)]
            )
            assert score.cell_nats[row, t] == pytest.approx(np.mean(nats), rel=1e-4)


@pytest.mark.parametrize("dt", [1, 3])
def test_oracle_never_errs_without_noise_and_another_rule_does(dt):
    spec = NcaSpec(grid=6, n_states=4, band=None, tau=0.0, dt=dt)
    frames, keys = random_rules(spec, 12, 5)
    score = predictors.oracle(spec, frames, keys)
    assert (score.cell_accuracy[:, 1:] == 1).all()
    assert (score.patch_accuracy[:, 1:] == 1).all()
    assert (score.cell_nats[:, 1:] == 0).all() if dt == 1 else np.isnan(score.cell_nats).all()
    assert predictors.oracle(spec, frames, keys[::-1]).cell_accuracy[:, 1:].mean() < 0.9


def test_oracle_over_several_steps_is_the_best_guess_of_simulated_futures():
    """Against 2,000 futures of the reference: the chosen state is (nearly) the most probable one."""
    spec = NcaSpec(grid=4, n_states=3, band=None, burn_in=0, tau=0.1, dt=2)
    frames, keys = random_rules(spec, 1, 2)
    rules = make_rules(spec, keys)
    many = predictors._futures(spec, rules, frames[0, :1], 2000)[0]
    share = np.stack([(many == s).mean(0) for s in range(3)])
    truth = np.repeat(many[None, :64], 1, 0)[0]
    best = share.max(0).mean()
    score = np.mean(
        [predictors.oracle(spec, np.stack([frames[0, 0], t])[None], keys).cell_accuracy[0, 1] for t in truth]
    )
    assert best - 0.06 < score < best + 0.05


def test_votes_share_ties():
    votes = np.array([[1, 2, 2, 1, 3]])
    assert [predictors._vote(votes, np.array([s]))[0] for s in (1, 2, 3, 4)] == [0.5, 0.5, 0.0, 0.0]


def test_no_one_beats_the_oracle_and_published_levels_hold():
    """Released dynamics (tau 1e-4, 10 states) in [0.5, 1): copy 0.25, mode 0.35, lookup 0.35 to 0.41 at g = 2 to 26."""
    spec = NcaSpec(variant="release", tau=1e-4)
    made = judge(spec, 0, "test", 0, 384, 27)
    found = predictors.counting(spec, made.frames)
    found["oracle"] = predictors.oracle(spec, made.frames, rule_keys(0, "test", made.candidates))
    mean = {name: score.cell_accuracy.mean(0) for name, score in found.items()}
    assert mean["copy"][1:].mean() == pytest.approx(0.25, abs=0.03)
    assert mean["mode"][1:].mean() == pytest.approx(0.35, abs=0.03)
    assert mean["lookup"][[2, 5, 13, 26]] == pytest.approx([0.35, 0.37, 0.38, 0.41], abs=0.03)
    assert found["lookup"].coverage.mean(0)[[2, 26]] == pytest.approx([0.01, 0.09], abs=0.03)
    assert mean["oracle"][1:].min() > 0.995
    for name in predictors.COUNTING:
        assert (found["oracle"].cell_nats.mean(0)[1:] < found[name].cell_nats.mean(0)[1:]).all()


def test_bad_input():
    spec = NcaSpec(grid=6, n_states=3, band=None)
    frames, keys = random_rules(spec, 1, 3)
    for bad in (frames[:, :1], frames[0], frames[..., :5]):
        with pytest.raises(ValueError, match="legal: .sequence, 2 or more, 6, 6"):
            predictors.counting(spec, bad)
    with pytest.raises(ValueError, match="no oracle"):
        predictors.oracle(spec.model_copy(update={"control": "shuffle_frames"}), frames, keys)
