"""Rows of balanced brackets, nested or shuffled (`specs.DyckSpec`): row r depends on (spec, seed, split, r) alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from nca_interp.data.rng import U64, below, bits, stream_key, uniforms
from nca_interp.data.specs import DyckSpec

CHUNK = 2048
"""Rows made at a time; changes speed only."""


def dyck_rows(spec: DyckSpec, seed: int, split: str, n_rows: int, n_tokens: int) -> Iterator[npt.NDArray[np.uint32]]:
    """Rows [chunk, n_tokens] of a split, `n_rows` of them in all."""
    key = stream_key(seed, "dyck", split)
    for first in range(0, n_rows, CHUNK):
        yield _strings(spec, bits(key, np.arange(first, min(first + CHUNK, n_rows))), n_tokens)


def _strings(spec: DyckSpec, keys: U64, n_tokens: int) -> npt.NDArray[np.uint32]:
    """One string a key. Open brackets stand in a stack; nested closes its top, shuffle a uniformly drawn entry."""
    rows = np.arange(len(keys))
    stack = np.zeros((len(keys), spec.max_depth + 1), np.int64)
    depth = np.zeros(len(keys), np.int64)
    out = np.empty((len(keys), n_tokens), np.uint32)
    balanced = n_tokens - n_tokens % 2
    for step in range(n_tokens):
        room = balanced - step if step < balanced else spec.max_depth
        opens = (uniforms(keys, 3 * step) < spec.p_open) & (depth < spec.max_depth)
        opens = (opens | (depth == 0)) & (depth < room)
        new = below(keys, 3 * step + 1, spec.k)
        top = np.maximum(depth - 1, 0)
        chosen = top if spec.variant == "nested" else below(keys, 3 * step + 2, np.maximum(depth, 1))
        closed = stack[rows, chosen]
        out[:, step] = np.where(opens, new, closed + spec.k)
        stack[rows, np.where(opens, spec.max_depth, chosen)] = stack[rows, top]
        stack[rows, np.where(opens, depth, spec.max_depth)] = new
        depth += np.where(opens, 1, -1)
    return out
