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

from nca_interp.data.complexity.gzip_score import gzip_ratios
from nca_interp.data.rng import U64, bits, mix, stream_key
from nca_interp.data.specs import NcaSpec

Cells = npt.NDArray[np.uint8]
Tokens = npt.NDArray[np.uint32]


class Rules(NamedTuple):
    """Weights of some candidates, in the form `nca_kernels.advance` takes."""

    table: npt.NDArray[np.float32]
    """[rules, 9 * n_states, hidden]: both linear maps before the ReLU folded into one lookup, hidden padded to LANES."""
    readout: npt.NDArray[np.float32]
    """[rules, groups, hidden, GROUP]: state s is column s % GROUP of group s // GROUP."""


def score_dtype(spec: NcaSpec) -> np.dtype[Any]:
    """Serialisation that is gzipped: `release` int32; `paper` uint16 (uint32 where the vocabulary needs it)."""
    if spec.variant == "release":
        return np.dtype("<i4")
    return np.dtype("<u2" if spec.vocab_size <= 2**16 else "<u4")


def gzip_scores(spec: NcaSpec, frames: Cells) -> npt.NDArray[np.float64]:
    """gzip ratio [rules] of frames[rules, n, grid, grid]: their patch tokens without delimiters, as `score_dtype`."""
    stored = patch_tokens(spec, frames).reshape(len(frames), -1).astype(score_dtype(spec))
    return gzip_ratios(stored.view(np.uint8))


def patch_tokens(spec: NcaSpec, frames: Cells) -> Tokens:
    """Tokens [..., patches_per_frame] of frames [..., grid, grid]: sum of cell_j * n**j, j row-major in the patch."""
    return _fill_tokens(spec, frames, 0).reshape(*frames.shape[:-2], spec.patches_per_frame)


def frames_to_tokens(spec: NcaSpec, frames: Cells) -> Tokens:
    """Tokens [..., n * tokens_per_frame] of frames [..., n, grid, grid]: `<grid>`, patches row-major, `</grid>`, repeated."""
    framed = _fill_tokens(spec, frames, 1)
    framed[..., 0] = spec.vocab_size - 2
    framed[..., -1] = spec.vocab_size - 1
    return framed.reshape(*frames.shape[:-3], frames.shape[-3] * spec.tokens_per_frame)


def _fill_tokens(spec: NcaSpec, frames: Cells, margin: int) -> Tokens:
    """Tokens [rows, frames, margin + patches + margin]; the margins are left unset."""
    from nca_interp.data.nca.draws import fill_tokens

    cells = np.ascontiguousarray(frames).reshape(-1, *frames.shape[-3:]) if frames.ndim > 3 else frames[None]
    tokens = np.empty((*cells.shape[:2], spec.patches_per_frame + 2 * margin), np.uint32)
    fill_tokens(cells, spec.patch, spec.n_states, tokens, margin)
    return tokens


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


def make_rules(spec: NcaSpec, keys: U64) -> Rules:
    """The rules of `keys`: lecun_normal kernels, folded and padded for the kernel; float32, summed in channel order.

    The 3x3 kernel [9, n or n + 2, channels] is in Flax's layout, stencil row-major from (-1, -1); `release` has the
    wrapped states n-1 and 0 as first and last input. The 1x1 kernels [channels, hidden] and [hidden, n] follow it.
    """
    from nca_interp.data.nca.draws import draw_rules
    from nca_interp.data.nca.vectors import GROUP, LANES

    n, c, h = spec.n_states, spec.channels, spec.hidden
    inputs, width = n + 2 * (spec.variant == "release"), -(-h // LANES) * LANES
    conv, up, out = (np.empty(shape, np.float32) for shape in ((9, inputs, c), (c, h), (h, n)))
    scales = (9 * inputs) ** -0.5, c**-0.5, h**-0.5
    table = np.zeros((len(keys), 9 * n, width), np.float32)
    readout = np.zeros((len(keys), -(-n // GROUP), width, GROUP), np.float32)
    draw_rules(keys, _truncated_normal(), scales, int(inputs > n), conv, up, out, table, readout)
    return Rules(table, readout)


def initial_cells(spec: NcaSpec, keys: U64) -> Cells:
    """First states [keys, grid, grid]: uniform (`paper`), or iid from the softmax of N(0,1) logits (`release`)."""
    from nca_interp.data.nca.draws import draw_cells

    states = np.empty((len(keys), spec.grid, spec.grid), np.uint8)
    draw_cells(keys, spec.n_states, spec.variant == "release", states)
    return states


def simulate(spec: NcaSpec, rules: Rules, keys: U64, n_frames: int, after: Cells | None = None, done: int = 0) -> Cells:
    """Frames [keys, n_frames, grid, grid] of one trajectory of each rule: states burn_in, burn_in + dt, ...

    With `after`, trajectories continue from their recorded frame number `done`, which comes first in the result.
    """
    from nca_interp.data.nca.kernels import advance
    from nca_interp.data.nca.work import work_space

    states = initial_cells(spec, mix(keys)) if after is None else np.ascontiguousarray(after)
    frames = np.empty((len(keys), n_frames, spec.grid**2), np.uint8)
    start, first = (spec.burn_in, 0) if after is None else (0, spec.burn_in + done * spec.dt)
    work = work_space(spec.n_states, rules.table.shape[2], spec.grid, start + (n_frames - 1) * spec.dt)
    table = rules.table.reshape(len(keys), rules.table.shape[1] * rules.table.shape[2])
    cells = states.reshape(len(keys), spec.grid**2)
    bias = np.float32(spec.identity_bias)
    advance(table, rules.readout, cells, keys, first, start, spec.dt, frames, spec.tau, bias, work)
    return frames.reshape(len(keys), n_frames, spec.grid, spec.grid)


STENCIL = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
"""Places of the 3x3 neighbourhood, row-major, in the order of `Rules.table`."""


def rule_logits(spec: NcaSpec, rules: Rules, rule: int, cells: Cells) -> npt.NDArray[np.float64]:
    """Logits [..., grid, grid, n_states] of the next state of cells[..., grid, grid] under rules[rule], over tau if that is not 0.

    For analysis, in float64; `simulate` computes the same compiled and draws from their softmax.
    """
    table = rules.table[rule].astype(np.float64)
    units = np.zeros((*cells.shape, table.shape[1]))
    for place, (dy, dx) in enumerate(STENCIL):
        units += table[place * spec.n_states + np.roll(cells, (-dy, -dx), (-2, -1)).astype(np.int64)]
    readout = rules.readout[rule].astype(np.float64).swapaxes(0, 1).reshape(table.shape[1], -1)[:, : spec.n_states]
    logits = np.maximum(units, 0) @ readout
    logits[np.arange(spec.n_states) == cells[..., None]] += spec.identity_bias
    return np.asarray(logits / spec.tau if spec.tau else logits)


def rule_keys(seed: int, split: str, candidates: npt.ArrayLike) -> U64:
    """Key of each candidate's weights."""
    return bits(stream_key(seed, "nca", split), candidates)


def trajectory_keys(rules: U64, trajectory: npt.ArrayLike) -> U64:
    """Key of the initial cells and the noise of each rule's trajectory number `trajectory` (0 is the scored one)."""
    return bits(mix(rules), trajectory)
