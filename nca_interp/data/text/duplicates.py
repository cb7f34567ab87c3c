"""The set of document hashes met so far, in 16 to 32 bytes a document (a Python set needs about 90)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit


class Seen:
    """A set of 64-bit hashes that only grows: open addressing in one array, at most half full."""

    def __init__(self) -> None:
        self._table = np.zeros(1 << 12, np.uint64)
        self.count = 0

    def add(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Add keys in order; True for each that was not there. (0 marks an empty place: the keys 0 and 1 count as one.)"""
        keys = np.maximum(keys, np.uint64(1))
        while 2 * (self.count + len(keys)) > len(self._table):
            old, self._table = self._table, np.zeros(2 * len(self._table), np.uint64)
            _insert(self._table, old[old > 0])
        fresh = _insert(self._table, keys)
        self.count += int(fresh.sum())
        return fresh


@njit(nogil=True, cache=True)
def _insert(table: Any, keys: Any) -> Any:
    fresh = np.zeros(len(keys), np.bool_)
    last = np.uint64(len(table) - 1)
    for i in range(len(keys)):
        place = keys[i] & last
        while table[place] != 0 and table[place] != keys[i]:
            place = (place + np.uint64(1)) & last
        if table[place] == 0:
            table[place] = keys[i]
            fresh[i] = True
    return fresh
