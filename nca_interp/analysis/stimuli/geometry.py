"""Where the causes of an NCA patch stand in the token stream: toroidal stencils as sets of keys.

The token of patch (r, c) of grid t stands at p = start + t * G + 1 + columns * r + c with G = rows * columns + 2, and is
predicted at query q = p - 1. A 3x3 rule moves information one cell a step: at one step a frame the patch depends on its
3x3 patch neighbourhood in grid t - 1 (`Frame.reach` 1), wrapped around the torus, and on nothing else.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from nca_interp.analysis.stimuli.base import Frame


def patch_of_target(frame: Frame, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each query q of `length`: (grid t, row r, column c) of the token q + 1, and whether it is a patch at all."""
    place = np.arange(1, length + 1) - frame.start
    grid, inside = place // frame.tokens, place % frame.tokens - 1
    is_patch = (place >= 0) & (inside >= 0) & (inside < frame.rows * frame.columns)
    row, column = np.where(is_patch, inside, 0) // frame.columns, np.where(is_patch, inside, 0) % frame.columns
    return grid, row, column, is_patch


@lru_cache(maxsize=64)
def stencil(frame: Frame, length: int, back: int = 1, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Bool [query, key]: the toroidal neighbourhood of the predicted patch, `back` grids earlier, moved by `shift` (rows,
    columns) on the torus; 3x3 patches at reach 1, the patches that the rule reads. Empty rows for queries that predict a delimiter or a patch of an earlier grid."""
    grid, row, column, is_patch = patch_of_target(frame, length)
    queries = np.flatnonzero(is_patch & (grid >= back))
    keys = np.zeros((length, length), dtype=bool)
    steps = range(-frame.reach, frame.reach + 1)
    for dr in steps:
        for dc in steps:
            r = (row[queries] + shift[0] + dr) % frame.rows
            c = (column[queries] + shift[1] + dc) % frame.columns
            keys[queries, frame.start + (grid[queries] - back) * frame.tokens + 1 + frame.columns * r + c] = True
    keys.flags.writeable = False
    return keys


def grid_start(frame: Frame, length: int, back: int = 0) -> np.ndarray:
    """For each query [length] the place where the grid of the token it predicts starts, or that `back` grids earlier;
    negative where there is none."""
    grid = (np.arange(1, length + 1) - frame.start) // frame.tokens - back
    return np.where(grid >= 0, frame.start + grid * frame.tokens, -1)


def next_patch(ids: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Who decides what, for ids [batch, position] of patch tokens (negative: no patch): at each query the id of the
    predicted patch one grid earlier, and at each key the id of the same patch one grid earlier; -1 where there is none.

    Where a query and a key have equal ids, the key shows what followed when things looked the same.
    """
    length = ids.shape[1]
    _, _, _, is_patch = patch_of_target(frame, length)
    decides = np.full(ids.shape, -1, dtype=np.int64)
    decides[:, frame.tokens :] = ids[:, : length - frame.tokens]  # of key p: that of p - G
    deciding = np.full(ids.shape, -1, dtype=np.int64)
    deciding[:, frame.tokens - 1 :] = ids[:, : length - frame.tokens + 1]  # of query q = p - 1
    return np.where(is_patch & (deciding >= 0), deciding, -1), decides


@lru_cache(maxsize=16)
def controls(frame: Frame, length: int) -> tuple[np.ndarray, ...]:
    """Key sets of similar size and distance that the rule does not read: the same stencil one grid further back, and
    the stencil at the torus antipode of the previous grid. Keys of the true stencil are left out (small grids overlap);
    a control that is left without keys is dropped."""
    true = stencil(frame, length)
    candidates = [
        stencil(frame, length, back=2),
        stencil(frame, length, shift=(frame.rows // 2, frame.columns // 2)) & ~true,
    ]
    for keys in candidates:
        keys.flags.writeable = False
    return tuple(keys for keys in candidates if keys.any())
