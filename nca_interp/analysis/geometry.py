"""Where the causes of an NCA patch stand in the token stream: 3x3 toroidal stencils as sets of keys.

The token of patch (r, c) of grid t stands at p = t * G + 1 + columns * r + c with G = rows * columns + 2, and is
predicted at query q = p - 1. With a 3x3 rule and patches of at least one cell it depends on its 3x3 patch neighbourhood
in grid t - 1, wrapped around the torus, and on nothing else.
"""

from __future__ import annotations

import numpy as np

from nca_interp.analysis.stimuli import Frame


def patch_of_target(frame: Frame, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each query q of `length`: (grid t, row r, column c) of the token q + 1, and whether it is a patch at all."""
    place = np.arange(1, length + 1)
    grid, inside = place // frame.tokens, place % frame.tokens - 1
    is_patch = (inside >= 0) & (inside < frame.rows * frame.columns)
    row, column = np.where(is_patch, inside, 0) // frame.columns, np.where(is_patch, inside, 0) % frame.columns
    return grid, row, column, is_patch


def stencil(frame: Frame, length: int, back: int = 1, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Bool [query, key]: the 3x3 toroidal neighbourhood of the predicted patch, `back` grids earlier, moved by `shift`
    (rows, columns) on the torus. Empty rows for queries that predict a delimiter or a patch of an earlier grid."""
    grid, row, column, is_patch = patch_of_target(frame, length)
    queries = np.flatnonzero(is_patch & (grid >= back))
    keys = np.zeros((length, length), dtype=bool)
    for dr in (-1, 0, 1):
        for dc in (-1, 0, 1):
            r = (row[queries] + shift[0] + dr) % frame.rows
            c = (column[queries] + shift[1] + dc) % frame.columns
            keys[queries, (grid[queries] - back) * frame.tokens + 1 + frame.columns * r + c] = True
    return keys


def controls(frame: Frame, length: int) -> list[np.ndarray]:
    """Key sets of similar size and distance that the rule does not read: the same stencil one grid further back, and
    the stencil at the torus antipode of the previous grid. Keys of the true stencil are left out (small grids overlap);
    a control that is left without keys is dropped."""
    true = stencil(frame, length)
    candidates = [
        stencil(frame, length, back=2),
        stencil(frame, length, shift=(frame.rows // 2, frame.columns // 2)) & ~true,
    ]
    return [keys for keys in candidates if keys.any()]
