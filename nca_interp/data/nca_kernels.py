# mypy: ignore-errors
"""The compiled step of the NCA source; strict float32 arithmetic in a fixed order, so results never vary.

A cell's hidden layer is the sum of nine rows of a table, one a neighbour; rows of two neighbours are added beforehand
where all pairs of states fit the cache. Then LANES cells at a time: transpose, matrix product, two best states. Noise is
drawn only where it can decide.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from nca_interp.data.nca_vectors import (
    GROUP,
    LANES,
    LOWEST,
    add_logits,
    add_rows,
    best_two,
    hidden_of_pairs,
    hidden_of_singles,
    lowest_bit,
    undecided,
)
from nca_interp.data.rng import GOLDEN

PAIR_STATES = 24
"""Largest alphabet whose pairs are tabulated: 4 * n**2 rows of 64 bytes, 147 kB."""
TABLE_STATES = 3
"""Largest alphabet whose neighbourhoods may all be tabulated: n**9 bytes."""
PAIRS = ((0, 1), (2, 5), (7, 8), (3, 6))
"""Neighbours (row-major, 4 the centre) whose rows are added first; then these sums in this order, then the centre's row."""
NEAR = np.uint8(255)
"""Entry of that table where the noise may decide."""
U = np.uint64


@njit(nogil=True, cache=True)
def mix(x: Any) -> Any:
    """`rng.mix` on one uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Rule(NamedTuple):
    """One rule as the step needs it."""

    rows: Any
    """Flat float32: rows of pairs of states and of the centre, or of single states."""
    readout: Any
    """[groups, width, GROUP] float32."""
    n: Any
    pairs: Any
    """Whether `rows` are those of pairs."""
    bias: Any


class Noise(NamedTuple):
    """Noise of one step."""

    stream: Any
    """Cell c has the random number u of word mix(stream + GOLDEN * c)."""
    hold: Any
    """Nothing is drawn, near ties become NEAR."""
    tau: Any
    limit: Any
    """Leads below this are near ties, which the noise may decide; 0: none are."""
    sure: Any
    step: Any
    """With u < 1 - 2**-b, a lead above sure + step * b wins: the others together weigh less than 1 - u of the best."""


class Scratch(NamedTuple):
    """Work space of one thread."""

    hidden: Any
    """[LANES units, LANES cells]."""
    logits: Any
    """[states, LANES cells]."""
    start: Any
    """Like logits: what their sums start from, 0 or LOWEST for padding."""
    gap: Any
    states: Any
    weights: Any


@njit(nogil=True, cache=True)
def _aligned(size):
    """`size` float32 that begin at a multiple of 64 bytes: a vector load across two cache lines costs twice."""
    raw = np.empty(size + LANES, np.float32)
    skip = (-raw.ctypes.data // 4) % LANES
    return raw[skip : skip + size]


@njit(nogil=True, cache=True)
def _scratch(states, n):
    start = _aligned(states * LANES).reshape((states, LANES))
    start[:n], start[n:] = np.float32(0), np.float32(LOWEST)
    hidden, logits = _aligned(LANES * LANES).reshape((LANES, LANES)), _aligned(states * LANES).reshape((states, LANES))
    return Scratch(hidden, logits, start, np.empty(LANES, np.float32), np.empty(n + 1, np.int64), np.empty(n))


@njit(nogil=True, cache=True)
def _add_pairs(table, n, width, out):
    """Rows of all pairs of states, in the order of PAIRS, then those of the centre."""
    at, size = U(0), U(n) * U(width)
    for first, second in PAIRS:
        for s in range(n):
            for t in range(n):
                for j in range(0, width, LANES):
                    row, other = U(first) * size + U(s * width + j), U(second) * size + U(t * width + j)
                    add_rows(table, row, other, out, at)
                    at += U(LANES)
    out[at : at + size] = table[U(4) * size : U(5) * size]


@njit(nogil=True, cache=True)
def _neighbours(state, size, left, right):
    """Close the torus: state, left and right neighbours [(size + 2) * size], in the first row the grid's last one, and so on."""
    for x in range(size):
        state[x], state[(size + 1) * size + x] = state[size * size + x], state[size + x]
    for i in range(1, (size + 2) * size):
        left[i], right[U(i) - U(1)] = state[U(i) - U(1)], state[i]
    for i in range(0, (size + 2) * size, size):
        left[i], right[i + size - 1] = state[i + size - 1], state[i]


@njit(nogil=True, cache=True)
def _index(state, left, right, size, rule, indices):
    """indices[term, cell]: where the terms of a cell begin in their part of `rows`."""
    n, width, row = U(rule.n), U(rule.readout.shape[1]), U(size)
    if rule.pairs:
        for i in range(size * size):
            up, here = U(i), U(i) + row
            down = here + row
            indices[0, i] = (n * left[up] + state[up]) * width
            indices[1, i] = (n * right[up] + right[here]) * width
            indices[2, i] = (n * state[down] + right[down]) * width
            indices[3, i] = (n * left[here] + left[down]) * width
            indices[4, i] = state[here] * width
        return
    for i in range(size * size):
        up, here = U(i), U(i) + row
        down = here + row
        indices[0, i], indices[1, i], indices[2, i] = left[up] * width, state[up] * width, right[up] * width
        indices[3, i], indices[4, i], indices[5, i] = right[here] * width, state[down] * width, right[down] * width
        indices[6, i], indices[7, i], indices[8, i] = left[here] * width, left[down] * width, state[here] * width


@njit(nogil=True, cache=True)
def _draw(scratch, lane, n, best, noise, word):
    """State of a cell: its softmax at temperature tau by inverse CDF (float64), best state first, then in order.

    States `limit` or more below the best weigh less than half a unit in the last place of the sum, and are left out.
    """
    logits, states, weights = scratch.logits, scratch.states, scratch.weights
    top, rate, total, count = logits[best, lane], 1.0 / noise.tau, 0.0, U(0)
    for k in range(n):
        states[count] = k
        count += U(top - logits[k, lane] < noise.limit)
    for i in range(count):
        weights[i] = math.exp(-np.float64(top - logits[states[U(i)], lane]) * rate)
        total += weights[i]
    rest, chosen = np.float64(word >> U(11)) * 2.0**-53 * total - 1.0, best
    for i in range(count):
        if rest < 0.0:
            break
        if states[i] != best:
            chosen = states[i]
            rest -= weights[i]
    return chosen


@njit(nogil=True, cache=True)
def _follow(rule, noise, indices, cells, count, following, first, scratch):
    """following[first + i] = next state of the cell whose indices are indices[:, i], cell number cells[i]; i < count."""
    hidden, logits, zero, gap, _, _ = scratch
    rows, readout, n, pairs, bias = rule
    w, p, stride = U(readout.shape[1]), U(n) * U(readout.shape[1]), U(indices.shape[1])
    for at in range(0, count, LANES):
        block, lanes, source = U(at), min(LANES, count - at), zero
        if bias != 0:
            for lane in range(lanes):
                zero[indices[len(indices) - 1, at + lane] // w, lane] = bias
        for unit in range(0, readout.shape[1], LANES):
            u = U(unit)
            if pairs:
                starts = (u, u + U(n) * p, u + U(2 * n) * p, u + U(3 * n) * p, u + U(4 * n) * p)
                hidden_of_pairs(rows, starts, indices, stride, block, hidden)
            else:
                row1, row2 = u + U(3) * p, u + U(6) * p
                starts = (u, u + p, u + p + p, row1 + p + p, row2 + p, row2 + p + p, row1, row2, row1 + p)
                hidden_of_singles(rows, starts, indices, stride, block, hidden)
            for k in range(0, logits.shape[0], GROUP):
                add_logits(hidden, readout, U(k) * w + u * U(GROUP), source, logits, U(k))
            source = logits
        near = best_two(logits, U(n), noise.limit, following, U(first) + block, gap)
        if bias != 0:
            zero[:n] = 0
        if near and not noise.hold:
            near &= undecided(noise.stream, cells, block, gap, noise.sure, noise.step)
        while near:
            lane = lowest_bit(near)
            near &= near - U(1)
            i = block + lane
            best = np.int64(following[U(first) + i])
            if noise.hold:
                following[U(first) + i] = NEAR
            elif i < U(count):
                word = mix(noise.stream + U(GOLDEN) * U(cells[i]))
                following[U(first) + i] = _draw(scratch, lane, n, best, noise, word)


@njit(nogil=True, cache=True)
def _index_all(n, width, count):
    """Like `_index` for cells with neighbourhood 0, 1, ..., count - 1 (base-n digits, row-major from the lowest)."""
    indices, digit = np.zeros((len(PAIRS) + 1, count + LANES), np.uint32), np.empty(9, np.uint32)
    for i in range(count):
        rest = i
        for p in range(9):
            digit[p], rest = rest % n, rest // n
        for term, (first, second) in enumerate(PAIRS):
            indices[term, i] = (n * digit[first] + digit[second]) * width
        indices[4, i] = digit[4] * width
    return indices


@njit(nogil=True, cache=True)
def _look_up(state, left, right, size, n, best_of, rows, following, near):
    """following[size + c] by the table of all neighbourhoods; returns how many cells, listed in `near`, are near ties."""
    found, n1, n2, n3, n6, row = 0, U(n), U(n * n), U(n**3), U(n**6), U(size)
    for i in range(len(rows)):
        rows[i] = left[i] + n1 * state[i] + n2 * right[i]
    for c in range(size * size):
        i = U(c)
        best = best_of[rows[i] + n3 * rows[i + row] + n6 * rows[i + row + row]]
        following[i + row] = best
        near[found] = c
        found += best == NEAR
    return found


@njit(nogil=True, cache=True)
def advance(table, readout, states, keys, first_step, start, every, frames, tau, bias):
    """frames[sim, f] = the state start + f * every steps after states[sim].

    table    [sims, 9 * n, width] float32: contribution of state s at stencil position p to the hidden layer, row p * n + s
    readout  [sims, groups, width, GROUP] float32: hidden layer to logits, padded with zeros
    states   [sims, grid, grid] uint8; keys [sims] uint64: noise of a cell is word step * cells + cell of that stream,
             steps counted from `first_step`
    frames   [sims, n_frames, grid, grid] uint8, written
    """
    size, width, n = states.shape[1], table.shape[2], table.shape[1] // 9
    n_cells, n_steps, length = size * size, start + (frames.shape[1] - 1) * every, (size + 2) * size
    pairs, known = n <= PAIR_STATES, n**9 if n <= TABLE_STATES and 2 * n**9 < n_cells * n_steps else 0
    scratch, paired = _scratch(readout.shape[1] * GROUP, n), _aligned((4 * n * n + n) * width if pairs else 0)
    state, following = np.empty(length + LANES, np.uint8), np.empty(length + LANES, np.uint8)
    left, right, rows = np.empty(length, np.uint8), np.empty(length, np.uint8), np.empty(length, np.uint32)
    indices, cells = np.zeros((5 if pairs else 9, n_cells + LANES), np.uint32), np.arange(max(n_cells, known) + LANES)
    near, drawn = np.zeros(n_cells + LANES, np.int64), np.empty(n_cells + LANES, np.uint8)
    all_indices, best_of = _index_all(n, width, known), np.empty(known + LANES, np.uint8)
    sure, step = np.float32(tau * math.log(n - 1) * 1.001), np.float32(tau * math.log(2.0) * 1.001)
    limit = sure + np.float32(54) * step
    for sim in range(len(states)):
        weights = table[sim].reshape(-1)
        if pairs:
            _add_pairs(weights, n, width, paired)
            weights = paired
        rule = Rule(weights, readout[sim], n, pairs, bias)
        if known:
            unknown = Noise(keys[sim], True, tau, limit, sure, step)
            _follow(rule, unknown, all_indices, cells, known, best_of, 0, scratch)
        state[size : length - size] = states[sim].reshape(-1)
        for number in range(n_steps + 1):
            if number >= start and (number - start) % every == 0:
                frames[sim, (number - start) // every].reshape(-1)[:] = state[size : length - size]
            if number == n_steps:
                break
            stream = keys[sim] + U(GOLDEN) * (U(first_step + number) * U(n_cells) + U(1))
            noise = Noise(stream, False, tau, limit, sure, step)
            _neighbours(state, size, left, right)
            if known:
                found = _look_up(state, left, right, size, n, best_of, rows, following, near)
                if found:
                    _index(state, left, right, size, rule, indices)
                    for i in range(found):
                        for term in range(len(indices)):
                            indices[term, i] = indices[term, near[i]]
                    _follow(rule, noise, indices, near, found, drawn, 0, scratch)
                    for i in range(found):
                        following[size + near[i]] = drawn[i]
            else:
                _index(state, left, right, size, rule, indices)
                _follow(rule, noise, indices, cells, n_cells, following, size, scratch)
            state, following = following, state
