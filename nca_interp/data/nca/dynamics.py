"""Dynamics of cellular automata: pure functions of trajectories [n, frames, grid, grid] and of rules (docs/measures.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nca_interp.data.complexity.measures import entropy
from nca_interp.data.nca.rules import Cells, make_rules, rule_logits, simulate, trajectory_keys
from nca_interp.data.rng import U64, below, mix
from nca_interp.data.specs import NcaSpec

Floats = npt.NDArray[np.float64]
OWN, ROW = ((0, 0),), ((0, -1), (0, 0), (0, 1))
"""What the next cell is conditioned on: itself, itself and its two row neighbours; (rows, columns) on the torus."""
FLIPS, DAMAGE_STEPS, SLOPE_STEPS = 8, 12, 4
"""Copies with one flipped cell each, steps they are followed, steps of the slope."""


def activity(frames: Cells) -> Floats:
    """Share of cells [n] that differ from the frame before."""
    return (frames[:, 1:] != frames[:, :-1]).mean(axis=(1, 2, 3))


def cell_entropies(frames: Cells) -> Floats:
    """Entropy in nats [n] of the states of all cells of all frames."""
    return np.array([entropy(np.bincount(f.ravel())) for f in frames])


class CellEntropy(NamedTuple):
    """How uncertain a cell is once some cells of the frame before are known."""

    value: Floats
    """[n] H(cell[t] | context[t-1]) in nats, Miller-Madow."""
    coverage: Floats
    """[n] share of the transitions whose context occurs at least twice: near 0, `value` says nothing."""


def cell_conditional_entropies(frames: Cells, context: Sequence[tuple[int, int]]) -> CellEntropy:
    """Conditional entropy of each trajectory's next cell given the cells at `context` one frame before.

    Given the whole stencil and dt = 1 what is left is the sampling noise, 0 for tau -> 0; rules of n_states > 4 repeat
    too few stencils in a sequence to estimate it (see `coverage`).
    """
    found = [_conditional(f, context) for f in frames]
    return CellEntropy(*(np.array(column) for column in zip(*found, strict=True)))


def _conditional(frames: Cells, context: Sequence[tuple[int, int]]) -> tuple[float, float]:
    before = frames[:-1].astype(np.int64)
    contexts = np.zeros(before.size, np.int64)
    for y, x in context:
        contexts = contexts * 256 + np.roll(before, (-y, -x), axis=(1, 2)).ravel()
        contexts = np.unique(contexts, return_inverse=True)[1]
    counts = np.bincount(contexts)
    joint = np.unique(contexts * 256 + frames[1:].ravel(), return_counts=True)[1]
    return entropy(joint) - entropy(counts), float((counts[contexts] > 1).mean())


class Recurrence(NamedTuple):
    """When trajectories come back to a grid they have shown."""

    transient: Floats
    """[n] frames before the first grid that is shown again; NaN: none is (censored)."""
    period: Floats
    """[n] frames until it is shown again; 1 is a fixed point; NaN: censored."""


def recurrence(frames: Cells) -> Recurrence:
    """First repeated grid of each trajectory. At tau > 0 a repeat need not be a cycle."""
    out = np.full((2, len(frames)), np.nan)
    for i, trajectory in enumerate(frames):
        last: dict[bytes, int] = {}
        for t, grid in enumerate(trajectory):
            before = last.setdefault(grid.tobytes(), t)
            if before < t:
                out[:, i] = before, t - before
                break
    return Recurrence(*out)


class Damage(NamedTuple):
    """Spread of one flipped cell between two copies under the same noise."""

    curve: Floats
    """[rules, steps + 1] share of differing cells, mean over the flips; the first is 1 / cells."""
    slope: Floats
    """[rules] of ln D over steps 1 to 4, until half of saturation; a dead copy counts half a cell over all flips."""
    spread: Floats
    """[rules] D(12) / saturation: 0 healed, 1 as different as independent grids."""
    speed: Floats
    """[rules] cells a step by which the farthest differing cell moves away (Chebyshev, on the torus), at most 1."""


def damage(spec: NcaSpec, keys: U64, flips: int = FLIPS, steps: int = DAMAGE_STEPS, trajectory: int = 0) -> Damage:
    """Damage of the rules of `keys`, from the state after burn-in of one trajectory, every step looked at (dt = 1).

    Saturation is the share of cells in which two grids of independent cells with the trajectory's own state
    frequencies differ, 1 - sum p^2.
    """
    rules, noise = make_rules(spec, keys), trajectory_keys(keys, trajectory)
    single = spec.model_copy(update={"dt": 1})
    intact = simulate(single, rules, noise, steps + 1)
    n, cells, each = spec.n_states, spec.grid**2, np.arange(len(keys))
    choice = mix(mix(noise))  # a stream of its own: noise has `noise`, initial cells `mix(noise)`
    where = np.stack([below(choice, 2 * k, cells) for k in range(flips)])
    differs = np.empty((flips, len(keys), steps + 1, cells), bool)
    for k in range(flips):
        start = intact[:, 0].reshape(len(keys), cells).copy()
        start[each, where[k]] = (start[each, where[k]] + 1 + below(choice, 2 * k + 1, n - 1)) % n
        harmed = simulate(single, rules, noise, steps + 1, after=start.reshape(intact[:, 0].shape))
        differs[k] = (harmed != intact).reshape(len(keys), steps + 1, cells)
    curve = differs.mean(axis=(0, 3))
    states = intact.reshape(len(keys), -1)
    saturation = np.array([1 - ((np.bincount(s, minlength=n) / s.size) ** 2).sum() for s in states])
    return Damage(
        curve,
        _slopes(curve, saturation, 0.5 / (flips * cells)),
        curve[:, min(DAMAGE_STEPS, steps)] / np.maximum(saturation, 1 / cells),
        _speeds(differs, where, spec.grid),
    )


def _slopes(curve: Floats, saturation: Floats, least: float) -> Floats:
    """Least-squares slope of ln D over steps 1 to 4, no further than the first one above half of saturation (two at least)."""
    logs = np.log(np.maximum(curve[:, 1 : SLOPE_STEPS + 1], least))
    out = np.empty(len(curve))
    for i, values in enumerate(logs):
        high = np.flatnonzero(curve[i, 1 : SLOPE_STEPS + 1] > saturation[i] / 2)
        last = max(2, high[0] if len(high) else len(values))
        out[i] = np.polyfit(np.arange(last), values[:last], 1)[0]
    return out


def _speeds(differs: npt.NDArray[np.bool_], where: npt.NDArray[np.int64], grid: int) -> Floats:
    """Slope through the origin of the mean distance of the farthest differing cell, steps 1 to 4 before it can wrap."""
    last = max(1, min(SLOPE_STEPS, grid // 2, differs.shape[2] - 1))
    along = np.abs(np.stack([where // grid, where % grid])[..., None] - np.arange(grid))  # [2, flips, rules, grid]
    along = np.minimum(along, grid - along)
    distance = np.maximum(along[0][..., :, None], along[1][..., None, :]).reshape(*where.shape, grid**2)
    steps = np.arange(1, last + 1)
    radius = np.stack([(differs[:, :, t] * distance).max(axis=2).mean(axis=0) for t in steps], axis=-1)
    return np.asarray((radius * steps).sum(axis=1) / (steps**2).sum())


def noise_entropies(spec: NcaSpec, keys: U64, frames: Cells) -> Floats:
    """Entropy in nats [rules] of the rule's own distribution of the next cell, mean over all cells of frames[rules, n, ...].

    What the conditional entropy given the stencil would be with endless data (at dt = 1); it needs no repeats.
    """
    if spec.tau == 0:
        return np.zeros(len(frames))
    rules = make_rules(spec, keys)
    entropies = np.empty(len(frames))
    for i, trajectory in enumerate(frames):
        logits = rule_logits(spec, rules, i, trajectory)
        logits -= logits.max(axis=-1, keepdims=True)
        weights = np.exp(logits)
        total = weights.sum(axis=-1)
        entropies[i] = (np.log(total) - (weights * logits).sum(axis=-1) / total).mean()
    return entropies
