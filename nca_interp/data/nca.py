"""NCA rules, trajectories and their tokens (arXiv 2603.10055): sequence r depends on (spec, seed, split, r) alone.

Candidate rules are numbered 0, 1, 2, ...; those whose gzip ratio lies in the band are, in that order, rules 0, 1, 2, ...
The trajectory a rule was scored on is the first one it gives. Random numbers are counter-based: weights, initial cells
and noise of a candidate have keys of their own, and the split's name is part of them, so splits share no rule.
"""

from __future__ import annotations

from functools import cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nca_interp.data.gzip_score import gzip_ratio
from nca_interp.data.rng import U64, below, bits, mix, stream_key, uniforms
from nca_interp.data.specs import NcaSpec

Cells = npt.NDArray[np.uint8]
Tokens = npt.NDArray[np.uint32]


class Rules(NamedTuple):
    """Weights of some candidates, in the form `nca_kernels.advance` takes."""

    table: npt.NDArray[np.float32]
    """[rules, 9 * n_states, hidden]: both linear maps before the ReLU folded into one lookup."""
    readout: npt.NDArray[np.float32]
    """[rules, hidden, n_states]."""


def score_dtype(spec: NcaSpec) -> np.dtype[Any]:
    """Serialisation that is gzipped: `release` int32; `paper` uint16 (uint32 where the vocabulary needs it)."""
    if spec.variant == "release":
        return np.dtype("<i4")
    return np.dtype("<u2" if spec.vocab_size <= 2**16 else "<u4")


def gzip_scores(spec: NcaSpec, frames: Cells) -> npt.NDArray[np.float64]:
    """gzip ratio [rules] of frames[rules, n, grid, grid]: their patch tokens without delimiters, as `score_dtype`."""
    stored = patch_tokens(spec, frames).astype(score_dtype(spec))
    return np.array([gzip_ratio(row.tobytes()) for row in stored])


def patch_tokens(spec: NcaSpec, frames: Cells) -> Tokens:
    """Tokens [..., patches_per_frame] of frames [..., grid, grid]: sum of cell_j * n**j, j row-major in the patch."""
    p = spec.patch
    tokens = np.zeros((*frames.shape[:-2], spec.grid // p, spec.grid // p), np.uint32)
    for j in range(p * p):
        tokens += frames[..., j // p :: p, j % p :: p] * np.uint32(spec.n_states**j)
    return tokens.reshape(*frames.shape[:-2], spec.patches_per_frame)


def frames_to_tokens(spec: NcaSpec, frames: Cells) -> Tokens:
    """Tokens [..., n * tokens_per_frame] of frames [..., n, grid, grid]: `<grid>`, patches row-major, `</grid>`, repeated."""
    patches = patch_tokens(spec, frames)
    framed = np.empty((*patches.shape[:-1], spec.tokens_per_frame), np.uint32)
    framed[..., 0] = spec.vocab_size - 2
    framed[..., 1:-1] = patches
    framed[..., -1] = spec.vocab_size - 1
    return framed.reshape(*framed.shape[:-2], -1)


def tokens_to_frames(spec: NcaSpec, tokens: npt.ArrayLike) -> Cells:
    """Inverse of `frames_to_tokens` for one sequence [tokens]: its whole frames [n, grid, grid]."""
    sequence = np.asarray(tokens, dtype=np.int64)
    n, p, side = len(sequence) // spec.tokens_per_frame, spec.patch, spec.grid // spec.patch
    framed = sequence[: n * spec.tokens_per_frame].reshape(n, spec.tokens_per_frame)
    patches = framed[:, 1:-1].reshape(n, side, side)
    frames = np.empty((n, spec.grid, spec.grid), np.uint8)
    for j in range(p * p):
        frames[:, j // p :: p, j % p :: p] = patches // spec.n_states**j % spec.n_states
    return frames


@cache
def _truncated_normal() -> npt.NDArray[np.float64]:
    """Quantiles of a unit normal cut at +-2, rescaled to unit variance (as Flax): 4097 points, read by interpolation."""
    normal = NormalDist()
    low, high = normal.cdf(-2), normal.cdf(2)
    return np.array([normal.inv_cdf(low + (high - low) * i / 4096) / 0.87962566103423978 for i in range(4097)])


def lecun_normal(keys: U64, first: int, shape: tuple[int, ...], fan_in: int) -> npt.NDArray[np.float32]:
    """Weights [keys, *shape] drawn as Flax's lecun_normal: standard deviation sqrt(1 / fan_in), cut at 2 sigma."""
    table = _truncated_normal()
    position = uniforms(keys[:, None], first + np.arange(int(np.prod(shape)))) * 4096
    cell = position.astype(np.int64)
    drawn = table[cell] + (table[cell + 1] - table[cell]) * (position - cell)
    return (drawn * fan_in**-0.5).astype(np.float32).reshape(len(keys), *shape)


def draw_weights(spec: NcaSpec, keys: U64) -> tuple[npt.NDArray[np.float32], ...]:
    """Kernels of the rules of `keys`: [rules, 9, n or n + 2, channels], [rules, channels, hidden], [rules, hidden, n].

    The 3x3 kernel is in Flax's layout, stencil row-major from (-1, -1); `release` has the wrapped states n-1 and 0 as
    first and last input.
    """
    n, c, h = spec.n_states, spec.channels, spec.hidden
    inputs = n + 2 if spec.variant == "release" else n
    conv = lecun_normal(keys, 0, (9, inputs, c), 9 * inputs)
    up = lecun_normal(keys, 9 * inputs * c, (c, h), c)
    out = lecun_normal(keys, 9 * inputs * c + c * h, (h, n), h)
    return conv, up, out


def make_rules(spec: NcaSpec, keys: U64) -> Rules:
    """The rules of `keys`, folded and padded for the kernel; float32, summed in the order of the channels."""
    from nca_interp.data.nca_kernels import BLOCK

    conv, up, out = draw_weights(spec, keys)
    if spec.variant == "release":
        first, last = conv[:, :, 0], conv[:, :, -1]
        conv = conv[:, :, 1:-1].copy()
        conv[:, :, -1] += first
        conv[:, :, 0] += last
    n, h = spec.n_states, spec.hidden
    table = np.zeros((len(keys), 9 * n, -(-h // BLOCK) * BLOCK), np.float32)
    flat = conv.reshape(len(keys), 9 * n, spec.channels)
    for channel in range(spec.channels):
        table[:, :, :h] += flat[:, :, channel, None] * up[:, None, channel]
    readout = np.zeros((len(keys), table.shape[2], n), np.float32)
    readout[:, :h] = out
    return Rules(table, readout)


def initial_cells(spec: NcaSpec, keys: U64) -> Cells:
    """First states [keys, grid, grid]: uniform (`paper`), or iid from the softmax of N(0,1) logits (`release`)."""
    counters = np.arange(spec.grid**2)
    if spec.variant == "paper":
        cells = below(keys[:, None], counters, spec.n_states)
    else:
        u = uniforms(keys[:, None], spec.grid**2 + np.arange(2 * spec.n_states))
        radius = np.sqrt(-2 * np.log1p(-u[:, : spec.n_states]))
        logits = radius * np.cos(2 * np.pi * u[:, spec.n_states :])
        levels = np.exp(logits).cumsum(axis=1)
        drawn = uniforms(keys[:, None], counters) * levels[:, -1:]
        cells = np.stack([np.searchsorted(level, row, side="right") for level, row in zip(levels, drawn, strict=True)])
        cells = np.minimum(cells, spec.n_states - 1)
    return cells.astype(np.uint8).reshape(len(keys), spec.grid, spec.grid)


def simulate(spec: NcaSpec, rules: Rules, keys: U64, n_frames: int, after: Cells | None = None, done: int = 0) -> Cells:
    """Frames [keys, n_frames, grid, grid] of one trajectory of each rule: states burn_in, burn_in + dt, ...

    With `after`, trajectories continue from their recorded frame number `done`, which comes first in the result.
    """
    from nca_interp.data.nca_kernels import advance

    states = initial_cells(spec, mix(keys)) if after is None else after.copy()
    frames = np.empty((len(keys), n_frames, spec.grid, spec.grid), np.uint8)
    physics = (spec.tau, np.float32(spec.identity_bias))
    if after is None:
        advance(*rules, states, keys, 0, spec.burn_in, 0, frames, *physics)
    first = spec.burn_in + done * spec.dt
    advance(*rules, states, keys, first, (n_frames - 1) * spec.dt, spec.dt, frames, *physics)
    frames[:, -1] = states
    return frames


def rule_keys(seed: int, split: str, candidates: npt.ArrayLike) -> U64:
    """Key of each candidate's weights."""
    return bits(stream_key(seed, "nca", split), candidates)


def trajectory_keys(rules: U64, trajectory: npt.ArrayLike) -> U64:
    """Key of the initial cells and the noise of each rule's trajectory number `trajectory` (0 is the scored one)."""
    return bits(mix(rules), trajectory)
