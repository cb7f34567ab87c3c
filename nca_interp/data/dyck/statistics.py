"""What Dyck rows look like: how deep, how far an opener is from its closer, how much of it is forced or cut off."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from nca_interp.data.specs import DyckSpec

Counts = npt.NDArray[np.int64]


class DyckStats(NamedTuple):
    """Counts of each row; `pooled` adds the rows."""

    depth: Counts
    """[rows, max_depth + 1] tokens after which this many brackets are open."""
    distance: Counts
    """[rows, n_tokens] closers by the number of tokens back to their opener (0 is never used). A closer belongs to the
    nearest open bracket of its type: the brackets of one type form a nested string of their own, shuffled or not."""
    unclosed: Counts
    """[rows] brackets that the end of the row leaves open: what truncation cut off."""
    forced_by_end: Counts
    """[rows] closers of a `balanced` row where the open brackets filled the rest of the row; 0 for `truncate`."""
    forced_by_depth: Counts
    """[rows] other closers, where max_depth brackets were open."""
    illegal: Counts
    """[rows] tokens that the language does not allow there (all are left out of the other counts): a closer whose type
    is not open, or not innermost (nested), an opener beyond max_depth, a number above 2 k. Generated rows have none."""

    def pooled(self) -> DyckStats:
        """The sums over rows, as a single row."""
        return DyckStats(*(part.sum(axis=0, keepdims=True) for part in self))

    def shares(self) -> dict[str, npt.NDArray[np.float64]]:
        """[rows] `forced_by_end`, `forced_by_depth` as shares of the closers, `unclosed` as a share of the openers."""
        closers = np.maximum(self.distance.sum(axis=1), 1)
        openers = np.maximum(self.distance.sum(axis=1) + self.unclosed, 1)
        return {
            "forced_by_end": self.forced_by_end / closers,
            "forced_by_depth": self.forced_by_depth / closers,
            "unclosed": self.unclosed / openers,
        }


def dyck_stats(rows: npt.NDArray[Any], spec: DyckSpec) -> DyckStats:
    """Statistics of token rows [rows, n_tokens] read as strings of `spec` (generated rows, or a model's continuations)."""
    n_rows, n_tokens = rows.shape
    stats = DyckStats(
        np.zeros((n_rows, spec.max_depth + 1), np.int64),
        np.zeros((n_rows, n_tokens), np.int64),
        *(np.zeros(n_rows, np.int64) for _ in range(4)),
    )
    _count(
        np.ascontiguousarray(rows, np.int64), spec.k, spec.max_depth, spec.variant == "nested",
        spec.ending == "balanced", *stats,
    )  # fmt: skip
    return stats


@njit(nogil=True, cache=True)
def _count(
    rows: Any, k: int, max_depth: int, nested: bool, balanced: bool, depths: Any, distances: Any, unclosed: Any,
    by_end: Any, by_depth: Any, illegal: Any,
) -> None:  # fmt: skip
    n_rows, n_tokens = rows.shape
    end = n_tokens - n_tokens % 2
    last = np.full(k, -1, np.int64)  # position of the innermost open bracket of each type
    outer = np.empty(n_tokens, np.int64)  # the one of that type around it
    stack = np.empty(max_depth, np.int64)  # nested: types of the open brackets
    for row in range(n_rows):
        depth = 0
        for step in range(n_tokens):
            token = rows[row, step]
            kind = token - k
            if 0 <= token < k and depth < max_depth:
                outer[step] = last[token]
                last[token] = step
                stack[depth] = token
                depth += 1
            elif 0 <= kind < k and last[kind] >= 0 and (not nested or stack[depth - 1] == kind):
                distances[row, step - last[kind]] += 1
                last[kind] = outer[last[kind]]
                if balanced and depth == end - step:
                    by_end[row] += 1
                elif depth == max_depth:
                    by_depth[row] += 1
                depth -= 1
            else:
                illegal[row] += 1
                continue
            depths[row, depth] += 1
        unclosed[row] = depth
        for step in range(n_tokens):
            if 0 <= rows[row, step] < k:
                last[rows[row, step]] = -1
