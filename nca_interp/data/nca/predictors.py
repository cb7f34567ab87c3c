"""What can be predicted of NCA frame g from the frames before it, without and with knowledge of the rule.

The predictors bound what a model can learn in context: one that is no better than `lookup` need not have inferred the rule,
and none can beat `oracle`. All but the oracle know nothing except the frames 0 .. g-1 of the sequence itself.

copy      the frame before.
mode      the state that was most frequent in all frames so far.
cell-mode the state that this very cell had most often.
lookup    the state that followed this 3x3 neighbourhood most often; `mode` where the neighbourhood is new.
backoff   lookup of the widest of {3x3, von Neumann cross, own cell, nothing} that was seen before.
oracle    the state with the largest logit under the rule itself (dt > 1: the most frequent one of simulated futures).

A tie between k states counts 1/k where one of them is right, as a guess would on average, so no predictor depends on how
states are numbered. Nats are minus the log probability of the true state: of the counting predictors with each context's
counts added to `PRIOR` pseudo-counts shared as the next narrower context predicts (at the end: uniformly), an upper bound
on what counting can reach; of the oracle its softmax, which nothing can beat in the mean.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from nca_interp.data.nca.rules import STENCIL, Cells, Rules, make_rules, patch_tokens, rule_logits, simulate
from nca_interp.data.rng import U64, bits, stream_key
from nca_interp.data.specs import NcaSpec

Floats = npt.NDArray[np.float64]
PRIOR = 0.5
"""Pseudo-counts that a context starts from."""
FUTURES = 32
"""Simulated continuations of a frame from which the oracle takes its guess when frames are several steps apart."""
COUNTING = {
    "mode": ("all",),
    "cell-mode": ("all", "place"),
    "lookup": ("all", "stencil"),
    "backoff": ("all", "own", "cross", "stencil"),
}
"""Contexts of each counting predictor, narrowest first; the widest that was seen decides."""
PARTS = {"own": (4,), "cross": (1, 3, 4, 5, 7), "stencil": tuple(range(9))}
"""Contexts made of the frame before, as positions in STENCIL."""


class Score(NamedTuple):
    """What one predictor reached, [sequence, frame] each; NaN for frame 0 and where the number does not exist."""

    cell_accuracy: Floats
    """Share of cells predicted."""
    patch_accuracy: Floats
    """Share of patches (tokens) of which every cell is predicted."""
    cell_nats: Floats
    """Nats a cell; times patch**2 it is nats a token, cells being independent given the frame before (dt = 1)."""
    coverage: Floats
    """Share of cells whose widest context was seen before."""


def counting(spec: NcaSpec, frames: Cells) -> dict[str, Score]:
    """Scores of copy and of every predictor of COUNTING on frames [sequence, frame, grid, grid], at least 2 frames."""
    _check(spec, frames)
    hits = (frames[:, 1:] == frames[:, :-1]).astype(float)
    unknown, sure = np.full(hits.shape, np.nan), np.ones(hits.shape)
    scores = {"copy": _score(spec, hits, unknown, sure)}
    found = {name: np.empty((3, *hits.shape)) for name in COUNTING}
    for row, sequence in enumerate(frames):
        contexts = _contexts(spec, sequence)
        for name, levels in COUNTING.items():
            numbers, pairs = (np.stack([contexts[level][part] for level in levels]) for part in (0, 1))
            out = _count(numbers, pairs, PRIOR, spec.n_states)
            found[name][:, row] = out.reshape(3, *hits.shape[1:])
    return scores | {name: _score(spec, *values) for name, values in found.items()}


def oracle(spec: NcaSpec, frames: Cells, keys: U64) -> Score:
    """Score of the predictor that knows the rules of `keys` [sequence] (`nca.rule_keys`), the frames being theirs.

    With dt = 1 it is exact; with more it takes the most frequent of FUTURES simulated states (one at tau = 0), which
    errs a little more than the best guess, and has no nats. Raises ValueError for controls: their frames follow no rule.
    """
    _check(spec, frames)
    if spec.control != "none":
        raise ValueError(f"control: {spec.control!r}; shuffled frames follow no rule, so there is no oracle")
    hits, patches = np.empty((len(frames), frames.shape[1] - 1, spec.grid, spec.grid)), []
    nats = np.full(hits.shape, np.nan)
    for row, (sequence, key) in enumerate(zip(frames, keys, strict=True)):
        rules = make_rules(spec, np.array([key], np.uint64))
        before, after = sequence[:-1], sequence[1:]
        if spec.dt == 1:
            hits[row] = _futures(spec.model_copy(update={"tau": 0.0}), rules, before, 1)[:, 0] == after
            nats[row] = _nats(spec, rules, before, after, hits[row])
        else:
            futures = _futures(spec, rules, before, FUTURES if spec.tau else 1)
            hits[row] = _vote(futures, after)
            patches.append(_vote(patch_tokens(spec, futures), patch_tokens(spec, after)).mean(-1))
    score = _score(spec, hits, nats, np.ones(hits.shape))
    return score._replace(patch_accuracy=_framed(np.array(patches))) if patches else score


def _check(spec: NcaSpec, frames: Cells) -> None:
    if frames.ndim != 4 or frames.shape[1] < 2 or frames.shape[2:] != (spec.grid, spec.grid):
        raise ValueError(f"frames: shape {frames.shape}; legal: [sequence, 2 or more, {spec.grid}, {spec.grid}]")


def _score(spec: NcaSpec, hits: Floats, nats: Floats, seen: Floats) -> Score:
    """Per-cell values [sequence, frame - 1, grid, grid] to means a frame."""
    side = spec.grid // spec.patch
    blocks = hits.reshape(*hits.shape[:2], side, spec.patch, side, spec.patch)
    cells = (2, 3)
    return Score(
        _framed(hits.mean(cells)),
        _framed(blocks.prod((3, 5)).mean(cells)),
        _framed(nats.mean(cells)),
        _framed(seen.mean(cells)),
    )


def _framed(values: Floats) -> Floats:
    """With frame 0, of which nothing is predicted, in front."""
    return np.concatenate([np.full((len(values), 1), np.nan), values], axis=1)


def _dense(columns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Number [N] of each distinct row of columns [N, k], all entries below 256 but those of the first."""
    number = columns[:, 0]
    for column in columns.T[1:]:
        number = number * 256 + column
        if number.max() >= 2**48:
            number = np.unique(number, return_inverse=True)[1]
    return np.unique(number, return_inverse=True)[1].astype(np.int64)


def _contexts(spec: NcaSpec, sequence: Cells) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """For each kind of context its number, and the number of (context, state), [frame, cell]; -1 in frame 0 if there is none."""
    cells = sequence.reshape(len(sequence), -1).astype(np.int64)
    kinds = {"all": np.zeros(cells.shape, np.int64), "place": np.broadcast_to(np.arange(cells.shape[1]), cells.shape)}
    around = np.stack([np.roll(sequence[:-1], (-dy, -dx), (1, 2)) for dy, dx in STENCIL], -1).astype(np.int64)
    around = around.reshape(-1, len(STENCIL))
    for name, parts in PARTS.items():
        numbers = _dense(around[:, parts]).reshape(len(cells) - 1, -1)
        kinds[name] = np.concatenate([np.full((1, cells.shape[1]), -1), numbers])
    return {
        name: (kind, _dense(np.stack([kind.ravel() + 1, cells.ravel()], -1)).reshape(cells.shape))
        for name, kind in kinds.items()
    }


@njit(cache=True, nogil=True)
def _count(contexts: Any, pairs: Any, prior: float, n_states: int) -> Any:
    """Predict every frame from the counts of the frames before it: (hit, nats, seen) [3, frame - 1, cell].

    contexts, pairs [level, frame, cell]: number of the context (-1: none) and of (context, state), narrowest level first
    """
    levels, frames, cells = contexts.shape
    total = np.zeros((levels, contexts.max() + 1), np.int64)
    count = np.zeros((levels, pairs.max() + 1), np.int64)
    best, ties = np.zeros_like(total), np.zeros_like(total)
    out = np.empty((3, frames - 1, cells))
    for t in range(frames):
        if t > 0:
            for c in range(cells):
                p, hit, seen = 1.0 / n_states, 0.0, 0
                for level in range(levels):
                    context, had = contexts[level, t, c], count[level, pairs[level, t, c]]
                    n = total[level, context]
                    p = (had + prior * p) / (n + prior)
                    if n > 0:
                        seen = level
                        hit = 1.0 / ties[level, context] if had == best[level, context] else 0.0
                out[0, t - 1, c], out[1, t - 1, c], out[2, t - 1, c] = hit, -np.log(p), seen == levels - 1
        for c in range(cells):
            for level in range(levels):
                context, pair = contexts[level, t, c], pairs[level, t, c]
                if context < 0:
                    continue
                total[level, context] += 1
                count[level, pair] += 1
                if count[level, pair] > best[level, context]:
                    best[level, context], ties[level, context] = count[level, pair], 1
                elif count[level, pair] == best[level, context]:
                    ties[level, context] += 1
    return out


def _futures(spec: NcaSpec, rules: Rules, frames: Cells, n: int) -> Cells:
    """`n` simulated recordings [frame, n, grid, grid] that follow each of `frames` under one rule."""
    m = len(frames) * n
    many = Rules(*(np.repeat(part, m, 0) for part in rules))
    noise = bits(stream_key(0, "oracle"), np.arange(m))
    after = simulate(spec, many, noise, 2, after=np.repeat(frames, n, 0))[:, 1]
    return after.reshape(len(frames), n, spec.grid, spec.grid)


def _vote(votes: npt.NDArray[Any], truth: npt.NDArray[Any]) -> Floats:
    """1 where truth [frame, ...] is the most frequent of votes [frame, n, ...], 1/k where it is one of k such, else 0."""
    same = (votes[:, :, None] == votes[:, None]).sum(1)
    top = same == same.max(1, keepdims=True)
    winners = (top / same).sum(1)
    return np.asarray((top & (votes == truth[:, None])).any(1) / winners, dtype=float)


def _nats(spec: NcaSpec, rules: Rules, before: Cells, after: Cells, hits: Floats) -> Floats:
    """Minus the log probability [frame, grid, grid] of `after` given `before` under one rule, one step apart."""
    if spec.tau == 0:
        return np.where(hits > 0, 0.0, np.inf)
    logits = rule_logits(spec, rules, 0, before)
    top = logits.max(-1)
    true = np.take_along_axis(logits, after[..., None].astype(np.int64), -1)[..., 0]
    return np.asarray(np.log(np.exp(logits - top[..., None]).sum(-1)) + top - true)
