# mypy: ignore-errors
"""Compiled counting behind `measures`: Lempel-Ziv phrases and mutual information of one sequence."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

TABLE = 2**20
"""Largest table of pairs that is counted in place; above, pairs are sorted."""
FEW = 8
"""Pairs that there may be for each that occurs, up to which all of them are looked at."""


@njit(nogil=True, cache=True)
def lz76_phrases(s):
    """Phrases of the exhaustive history of s[n] (Lempel, Ziv 1976), by the scan of Kaspar and Schuster (1987): O(n^2)."""
    n = len(s)
    if n < 2:
        return n
    phrases, start, back, length, longest = 1, 1, 0, 1, 1
    while True:
        if s[back + length - 1] == s[start + length - 1]:
            length += 1
            if start + length > n:
                return phrases + 1
            continue
        longest = max(longest, length)
        back, length = back + 1, 1
        if back == start:
            phrases += 1
            start += longest
            if start + 1 > n:
                return phrases
            back, longest = 0, 1


@njit(nogil=True, cache=True)
def phrases_of_rows(rows, out):
    """out[row] = lz76_phrases(rows[row])."""
    for i in range(len(rows)):
        out[i] = lz76_phrases(rows[i])


@njit(nogil=True, cache=True)
def _self_information(counts):
    """Sum of c ln c."""
    total = 0.0
    for c in counts:
        if c > 1:
            total += c * math.log(c)
    return total


@njit(nogil=True, cache=True)
def lagged_information(rows, kinds, lags, out):
    """out[row, lag] = plug-in mutual information in nats of rows[row, t] and rows[row, t + lag], tokens in [0, kinds[row])."""
    longest = rows.shape[1]
    table = np.zeros(max(TABLE, FEW * longest), np.int64)
    often = np.empty(longest, np.int64)
    cost = np.zeros(longest + 1)
    for c in range(2, longest + 1):
        cost[c] = c * math.log(c)
    for i in range(len(rows)):
        row, k = rows[i], kinds[i]
        first, second = np.zeros(k, np.int64), np.zeros(k, np.int64)
        for j in range(len(lags)):
            d = lags[j]
            m = len(row) - d
            first[:] = 0
            second[:] = 0
            for t in range(m):
                first[row[t]] += 1
                second[row[t + d]] += 1
            joint = 0.0
            if k * k <= FEW * m:
                pairs = table[: k * k]
                for t in range(m):
                    pairs[row[t] * k + row[t + d]] += 1
                for c in pairs:
                    joint += cost[c]
                pairs[:] = 0
            elif k * k <= TABLE:
                n = 0  # pairs that occur more than once: few of all that there may be
                for t in range(m):
                    code = row[t] * k + row[t + d]
                    table[code] += 1
                    if table[code] == 2:
                        often[n] = code
                        n += 1
                for code in np.sort(often[:n]):  # summed in order, whatever comes first in the row
                    joint += cost[table[code]]
                for t in range(m):
                    table[row[t] * k + row[t + d]] = 0
            else:
                codes = np.sort(row[:m] * k + row[d:])
                run = 1
                for t in range(1, m + 1):
                    if t < m and codes[t] == codes[t - 1]:
                        run += 1
                    else:
                        joint += cost[run]
                        run = 1
            out[i, j] = math.log(m) + (joint - _self_information(first) - _self_information(second)) / m
