"""Rows of brackets, nested or shuffled (`specs.DyckSpec`): row r depends on (spec, seed, split, r) alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from nca_interp.data.nca.kernels import mix
from nca_interp.data.nca.rows import in_order
from nca_interp.data.rng import GOLDEN, bits, stream_key
from nca_interp.data.specs import DyckSpec

CHUNK = 256
"""Rows made at a time by one thread; changes speed only."""
U = np.uint64


def dyck_rows(
    spec: DyckSpec, seed: int, split: str, n_rows: int, n_tokens: int, threads: int | None = None
) -> Iterator[npt.NDArray[np.uint32]]:
    """Rows [chunk, n_tokens] of a split, `n_rows` of them in all, computed on `threads` threads (null: one a core)."""
    key = stream_key(seed, "dyck", split)
    threshold = U(round(spec.p_open * 2**32))

    def make(first: int) -> npt.NDArray[np.uint32]:
        keys = bits(key, np.arange(first, min(first + CHUNK, n_rows)))
        out = np.empty((len(keys), n_tokens), np.uint32)
        fill_rows(
            keys, spec.k, spec.max_depth, threshold, spec.variant == "shuffle", spec.ending == "balanced", out
        )  # fmt: skip
        return out

    yield from in_order(make, iter(range(0, n_rows, CHUNK)), threads)


@njit(nogil=True, cache=True)
def fill_rows(
    keys: Any, k: int, max_depth: int, threshold: Any, shuffle: bool, balanced: bool, out: Any
) -> None:  # fmt: skip
    """One row of out[row, token] a key. The 64-bit word of a token decides both: its upper half whether the token opens
    (below `threshold`), its lower half which type opens, or which of the open types closes (shuffle)."""
    n_rows, n_tokens = out.shape
    end = n_tokens - n_tokens % 2 if balanced else n_tokens + max_depth
    stack = np.empty(max_depth, np.int64)  # nested: types of the open brackets; shuffle: the different types among them
    counts = np.zeros(k, np.int64)  # shuffle: open brackets of each type
    for row in range(n_rows):
        depth, height, state = 0, 0, keys[row]
        for step in range(n_tokens):
            state += U(GOLDEN)
            word = mix(state)
            low = word & U(0xFFFFFFFF)
            opens = (word >> U(32)) < threshold and depth < max_depth and depth < end - step
            if opens or depth == 0:
                new = np.int64((low * U(k)) >> U(32))
                out[row, step] = new
                depth += 1
                if shuffle:
                    counts[new] += 1
                if not shuffle or counts[new] == 1:
                    stack[height] = new
                    height += 1
                continue
            chosen = np.int64((low * U(height)) >> U(32)) if shuffle else height - 1
            closed = stack[chosen]
            out[row, step] = closed + k
            depth -= 1
            if shuffle:
                counts[closed] -= 1
            if not shuffle or counts[closed] == 0:
                height -= 1
                stack[chosen] = stack[height]
        if shuffle:
            for i in range(height):
                counts[stack[i]] = 0
