# mypy: ignore-errors
"""The compiled step of the NCA source; strict float32 arithmetic in a fixed order, so results never vary.

A cell's hidden layer is the sum of nine rows of a table, one a neighbour; rows of two neighbours are added beforehand
where all pairs of states fit the cache. Then LANES cells at a time: transpose, matrix product, two best states. Noise is
drawn only where it can decide.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nca_interp.data.compiled import inner, outer
from nca_interp.data.nca.vectors import (
    GROUP,
    LANES,
    add_logits,
    add_rows,
    best_two,
    hidden_of_pairs,
    hidden_of_singles,
    lowest_bit,
    undecided,
)
from nca_interp.data.nca.work import BATCH, PAIRS, Noise, Rule
from nca_interp.data.rng import GOLDEN

NEAR = np.uint8(255)
"""Entry of that table where the noise may decide."""
U = np.uint64


@inner
def mix(x: Any) -> Any:
    """`rng.mix` on one uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@inner
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
    for i in range(n * width):
        out[at + U(i)] = table[U(4) * size + U(i)]


@inner
def _neighbours(state, size, left, right):
    """Close the torus: state, left and right neighbours [(size + 2) * size], in the first row the grid's last one, and so on."""
    for x in range(size):
        state[x], state[(size + 1) * size + x] = state[size * size + x], state[size + x]
    for i in range(1, (size + 2) * size):
        left[i], right[U(i) - U(1)] = state[U(i) - U(1)], state[i]
    for i in range(0, (size + 2) * size, size):
        left[i], right[i + size - 1] = state[i + size - 1], state[i]


@inner
def _index_pairs(state, left, right, row, n, width, cell, indices, i):
    """indices[term, i] of one cell: where the rows of its pairs (in the order of PAIRS) and its own row begin."""
    here, down = cell + row, cell + row + row
    indices[0, i] = (n * left[cell] + state[cell]) * width
    indices[1, i] = (n * right[cell] + right[here]) * width
    indices[2, i] = (n * state[down] + right[down]) * width
    indices[3, i] = (n * left[here] + left[down]) * width
    indices[4, i] = state[here] * width


@inner
def _index(state, left, right, size, rule, indices):
    """indices[term, cell]: where the terms of a cell begin in their part of `rows`."""
    n, width, row = U(rule.n), U(rule.readout.shape[1]), U(size)
    if rule.pairs:
        for i in range(size * size):
            _index_pairs(state, left, right, row, n, width, U(i), indices, U(i))
        return
    for i in range(size * size):
        up, here, down = U(i), U(i) + row, U(i) + row + row
        indices[0, i], indices[1, i], indices[2, i] = left[up] * width, state[up] * width, right[up] * width
        indices[3, i], indices[4, i], indices[5, i] = right[here] * width, state[down] * width, right[down] * width
        indices[6, i], indices[7, i], indices[8, i] = left[here] * width, left[down] * width, state[here] * width


@inner
def _draw(scratch, first, lane, n, best, noise, word):
    """State of a cell: its softmax at temperature tau by inverse CDF (float64), best state first, then in order.

    States `limit` or more below the best weigh less than half a unit in the last place of the sum, and are left out.
    """
    logits, states, weights = scratch.logits, scratch.states, scratch.weights
    top, rate, total, count = logits[first + best, lane], 1.0 / noise.tau, 0.0, U(0)
    for k in range(n):
        states[count] = k
        count += U(top - logits[first + k, lane] < noise.limit)
    for i in range(count):
        weights[i] = math.exp(-np.float64(top - logits[first + states[U(i)], lane]) * rate)
        total += weights[i]
    rest, chosen = np.float64(word >> U(11)) * 2.0**-53 * total - 1.0, best
    for i in range(count):
        if rest < 0.0:
            break
        if states[i] != best:
            chosen = states[i]
            rest -= weights[i]
    return chosen


@inner
def _follow(rule, noise, indices, cells, count, following, first, scratch):
    """following[first + i] = next state of the cell whose indices are indices[:, i], cell number cells[i]; i < count.

    BATCH blocks go through each stage together, so that the latency of one hides behind the next.
    """
    hidden, logits, zero, gap, _, _ = scratch
    rows, readout, n, pairs, bias = rule
    w, p = U(readout.shape[1]), U(n) * U(readout.shape[1])
    stride, states = U(indices.shape[1]), readout.shape[0] * GROUP
    for batch in range(0, count, BATCH * LANES):
        blocks, source, own = min(BATCH, (count - batch + LANES - 1) // LANES), zero, len(indices) - 1
        if bias != 0:
            for i in range(min(blocks * LANES, count - batch)):
                zero[i // LANES * states + indices[own, batch + i] // w, i % LANES] = bias
        for unit in range(0, readout.shape[1], LANES):
            u = U(unit)
            for b in range(blocks):
                block, row = U(batch + b * LANES), U(b * LANES)
                if pairs:
                    starts = (u, u + U(n) * p, u + U(2 * n) * p, u + U(3 * n) * p, u + U(4 * n) * p)
                    hidden_of_pairs(rows, starts, indices, stride, block, hidden, row)
                else:
                    row1, row2 = u + U(3) * p, u + U(6) * p
                    starts = (u, u + p, u + p + p, row1 + p + p, row2 + p, row2 + p + p, row1, row2, row1 + p)
                    hidden_of_singles(rows, starts, indices, stride, block, hidden, row)
            for b in range(blocks):
                for k in range(0, states, GROUP):
                    at, row = U(k) * w + u * U(GROUP), U(b * states + k)
                    add_logits(hidden, U(b * LANES), readout, at, source, logits, row)
            source = logits
        for b in range(blocks):
            block = U(batch + b * LANES)
            near = best_two(logits, U(b * states), U(n), noise.limit, following, U(first) + block, gap)
            if near and not noise.hold:
                near &= undecided(noise.stream, cells, block, gap, noise.sure, noise.step)
            while near:
                lane = lowest_bit(near)
                near &= near - U(1)
                i = block + lane
                if noise.hold:
                    following[U(first) + i] = NEAR
                elif i < U(count):
                    best, word = np.int64(following[U(first) + i]), mix(noise.stream + U(GOLDEN) * U(cells[i]))
                    following[U(first) + i] = _draw(scratch, b * states, lane, n, best, noise, word)
        if bias != 0:
            for i in range(min(blocks * LANES, count - batch)):
                zero[i // LANES * states + indices[own, batch + i] // w, i % LANES] = 0


@inner
def _look_up(state, left, right, codes, size, n, best_of, following, near):
    """following[size + c] by the table of all neighbourhoods; returns how many cells, listed in `near`, are near ties."""
    found, n1, n2, n3, n6, row = 0, U(n), U(n * n), U(n * n * n), U(n * n * n) * U(n * n * n), U(size)
    for i in range((size + 2) * size):
        codes[i] = left[i] + n1 * state[i] + n2 * right[i]
    for i in range(size * size):
        codes[i] += n3 * codes[U(i) + row] + n6 * codes[U(i) + row + row]
    for i in range(size * size):
        best = best_of[codes[i]]
        following[U(i) + row] = best
        near[found] = i
        found += best == NEAR
    return found


@outer
def advance(table, readout, states, keys, first_step, start, every, frames, tau, bias, work):
    """frames[sim, f] = the state start + f * every steps after states[sim].

    table    [sims, 9 * n * width] float32: contribution of state s at stencil position p to the hidden layer, row p * n + s
    readout  [sims, groups, width, GROUP] float32: hidden layer to logits, padded with zeros
    states   [sims, cells] uint8; keys [sims] uint64: noise of a cell is word step * cells + cell of that stream,
             steps counted from `first_step`
    frames   [sims, n_frames, cells] uint8, written
    work     `nca_work.Work`
    """
    lanes, rows, state, following, left, right, codes, indices, cells, near, drawn, all_indices, best_of = work
    n, width, n_cells = len(lanes.weights), readout.shape[2], states.shape[1]
    size, known, pairs = np.int64(math.sqrt(n_cells)), len(best_of) - LANES, len(rows) > 0
    sure, step = np.float32(tau * math.log(n - 1) * 1.001), np.float32(tau * math.log(2.0) * 1.001)
    limit = sure + np.float32(54) * step
    for sim in range(len(states)):
        if pairs:
            _add_pairs(table[sim], n, width, rows)
        else:
            rows = table[sim]
        rule = Rule(rows, readout[sim], n, pairs, bias)
        if known:
            unknown = Noise(keys[sim], True, tau, limit, sure, step)
            _follow(rule, unknown, all_indices, cells, known, best_of, np.int64(0), lanes)
        for c in range(n_cells):
            state[size + c] = states[sim, c]
        for number in range(start + (frames.shape[1] - 1) * every + 1):
            if number > 0:
                stream = keys[sim] + U(GOLDEN) * (U(first_step + number - 1) * U(n_cells) + U(1))
                noise = Noise(stream, False, tau, limit, sure, step)
                _neighbours(state, size, left, right)
                if known:
                    count = _look_up(state, left, right, codes, size, n, best_of, following, near)
                    for i in range(count):
                        _index_pairs(state, left, right, U(size), U(n), U(width), U(near[i]), indices, U(i))
                    if count:
                        _follow(rule, noise, indices, near, count, drawn, np.int64(0), lanes)
                    for i in range(count):
                        following[size + near[i]] = drawn[i]
                else:
                    _index(state, left, right, size, rule, indices)
                    _follow(rule, noise, indices, cells, n_cells, following, size, lanes)
                state, following = following, state
            if number >= start and (number - start) % every == 0:
                for c in range(n_cells):
                    frames[sim, (number - start) // every, c] = state[size + c]
