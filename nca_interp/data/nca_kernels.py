"""The compiled step of the NCA source; strict float32 arithmetic in a fixed order, so results never vary.

Written for LLVM's vectorisers: unsigned indices (no wrap-around code), eight sums before eight stores (no alias
between them), and everything after the hidden layer as loops over all cells.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

BLOCK = 8
"""Hidden units are padded to a multiple of this, one AVX register."""
CUT = 30.0
"""States further than this many temperatures below the best are never drawn (probability below e**-30)."""
U, F = np.uint64, np.float32
U0, U1, U2, U3, U4, U5, U6, U7 = (np.uint64(i) for i in range(8))
ZERO = np.float32(0)


@njit(nogil=True, cache=True)
def mix(x: Any) -> Any:
    """`rng.mix` on one uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(nogil=True, cache=True)
def _unit(t, a, b, c, d, e, f, g, h, i, j):  # type: ignore[no-untyped-def]
    v = t[a + j] + t[b + j] + t[c + j] + t[d + j] + t[e + j] + t[f + j] + t[g + j] + t[h + j] + t[i + j]
    return v if v > ZERO else ZERO


@njit(nogil=True, cache=True)
def _hidden(t, cells, size, width, block, out):  # type: ignore[no-untyped-def]
    """ReLU of the hidden layer, out[cell * width + unit], from bordered cells[(size + 2)**2] = state * width."""
    side = U(size + 2)
    for y in range(size):
        for x in range(size):
            m = U(y + 1) * side + U(x + 1)
            u, w = m - side, m + side
            a, b, c = cells[u - U1], block + cells[u], U2 * block + cells[u + U1]
            d, e, f = U3 * block + cells[m - U1], U4 * block + cells[m], U5 * block + cells[m + U1]
            g, h, i = U6 * block + cells[w - U1], U7 * block + cells[w], (U4 + U4) * block + cells[w + U1]
            o = U(y * size + x) * U(width)
            for _ in range(0, width, BLOCK):
                v0, v1 = _unit(t, a, b, c, d, e, f, g, h, i, U0), _unit(t, a, b, c, d, e, f, g, h, i, U1)
                v2, v3 = _unit(t, a, b, c, d, e, f, g, h, i, U2), _unit(t, a, b, c, d, e, f, g, h, i, U3)
                v4, v5 = _unit(t, a, b, c, d, e, f, g, h, i, U4), _unit(t, a, b, c, d, e, f, g, h, i, U5)
                v6, v7 = _unit(t, a, b, c, d, e, f, g, h, i, U6), _unit(t, a, b, c, d, e, f, g, h, i, U7)
                out[o], out[o + U1], out[o + U2], out[o + U3] = v0, v1, v2, v3
                out[o + U4], out[o + U5], out[o + U6], out[o + U7] = v4, v5, v6, v7
                a, b, c, d, e = a + U(BLOCK), b + U(BLOCK), c + U(BLOCK), d + U(BLOCK), e + U(BLOCK)
                f, g, h, i, o = f + U(BLOCK), g + U(BLOCK), h + U(BLOCK), i + U(BLOCK), o + U(BLOCK)


@njit(nogil=True, cache=True)
def _logits(hidden, readout, out):  # type: ignore[no-untyped-def]
    """out[state, cell] = sum over units of hidden[unit, cell] * readout[unit, state], eight units at a time."""
    for k in range(out.shape[0]):
        z = out[k]
        z[:] = ZERO
        for o in range(0, hidden.shape[0], BLOCK):
            r0, r1, r2, r3 = hidden[o], hidden[o + 1], hidden[o + 2], hidden[o + 3]
            r4, r5, r6, r7 = hidden[o + 4], hidden[o + 5], hidden[o + 6], hidden[o + 7]
            w0, w1, w2, w3 = readout[o, k], readout[o + 1, k], readout[o + 2, k], readout[o + 3, k]
            w4, w5, w6, w7 = readout[o + 4, k], readout[o + 5, k], readout[o + 6, k], readout[o + 7, k]
            for c in range(z.shape[0]):
                s = z[c] + r0[c] * w0 + r1[c] * w1 + r2[c] * w2 + r3[c] * w3
                z[c] = s + r4[c] * w4 + r5[c] * w5 + r6[c] * w6 + r7[c] * w7


@njit(nogil=True, cache=True)
def _best(logits, top, index, near, cut):  # type: ignore[no-untyped-def]
    """Per cell: the largest logit, its lowest state, and how many logits are above it less `cut`."""
    top[:] = logits[0]
    for k in range(1, logits.shape[0]):
        z = logits[k]
        for c in range(top.shape[0]):
            top[c] = z[c] if z[c] > top[c] else top[c]
    near[:] = 0
    for k in range(logits.shape[0] - 1, -1, -1):
        z, state = logits[k], np.int32(k)
        for c in range(top.shape[0]):
            index[c] = state if z[c] == top[c] else index[c]
            near[c] += np.int32(1) if z[c] > top[c] - cut else np.int32(0)


@njit(nogil=True, cache=True)
def _draw(logits, cell, top, tau, word):  # type: ignore[no-untyped-def]
    """State of one cell by inverse CDF of its softmax at temperature tau (float64), from 64 random bits."""
    total, chosen = 0.0, 0
    for k in range(logits.shape[0]):
        distance = (np.float64(logits[k, cell]) - np.float64(top)) / tau
        total += math.exp(distance) if distance > -CUT else 0.0
    rest = np.float64(word >> np.uint64(11)) * 2.0**-53 * total
    for k in range(logits.shape[0]):
        distance = (np.float64(logits[k, cell]) - np.float64(top)) / tau
        if distance > -CUT:
            chosen = k
            rest -= math.exp(distance)
            if rest < 0.0:
                break
    return chosen


@njit(nogil=True, cache=True)
def advance(table, readout, states, keys, first_step, n_steps, every, frames, tau, bias):  # type: ignore[no-untyped-def]
    """Run every simulation `n_steps` steps in place; record the state before each step with step % every == 0.

    table    [sims, 9 * n, H] float32: contribution of state s at stencil position p to the hidden layer, row p * n + s
    readout  [sims, H, n] float32: hidden layer to logits; H is padded with zeros to a multiple of BLOCK
    states   [sims, grid, grid] uint8; keys [sims] uint64: noise of a cell is word step * cells + cell of that stream
    frames   [sims, >= ceil(n_steps / every), grid, grid] uint8, written; every = 0 records nothing
    """
    size, width, n = states.shape[1], table.shape[2], readout.shape[2]
    cells = size * size
    bordered = np.empty((size + 2) * (size + 2), np.uint64)
    flat, hidden = np.empty(cells * width, np.float32), np.empty((width, cells), np.float32)
    logits, top = np.empty((n, cells), np.float32), np.empty(cells, np.float32)
    index, near = np.empty(cells, np.int32), np.empty(cells, np.int32)
    cut = F(CUT * tau * 1.001)
    for sim in range(states.shape[0]):
        lookup, state = table[sim].reshape(-1), states[sim].reshape(-1)
        for step in range(n_steps):
            if every and step % every == 0:
                frames[sim, step // every] = states[sim]
            for y in range(size + 2):
                row = ((y - 1) % size) * size
                for x in range(size + 2):
                    bordered[y * (size + 2) + x] = U(state[row + (x - 1) % size]) * U(width)
            _hidden(lookup, bordered, size, width, U(n * width), flat)
            for c in range(cells):
                for j in range(width):
                    hidden[j, c] = flat[c * width + j]
            _logits(hidden, readout[sim], logits)
            if bias != ZERO:
                for c in range(cells):
                    logits[state[c], c] += bias
            _best(logits, top, index, near, cut)
            counter = U(first_step + step) * U(cells) + U1
            for c in range(cells):
                if tau > 0.0 and near[c] > 1:
                    word = mix(keys[sim] + np.uint64(0x9E3779B97F4A7C15) * (counter + U(c)))
                    state[c] = _draw(logits, c, top[c], tau, word)
                else:
                    state[c] = index[c]
