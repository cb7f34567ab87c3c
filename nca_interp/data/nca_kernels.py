# mypy: ignore-errors
"""The compiled step of the NCA source; strict float32 arithmetic in a fixed order, so results never vary.

Written for LLVM: the sum over the stencil is one vector instruction a term (numba leaves straight-line code scalar), and
everything after the hidden layer is a loop over all cells in float32, which its loop vectoriser takes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

BLOCK = 8
"""Hidden units are padded to a multiple of this, one AVX register."""
CUT = 24.0
"""States further than this many temperatures below the best are never drawn (probability below e**-24 = 4e-11)."""
U, F = np.uint64, np.float32
ZERO, LOWEST = np.float32(0), np.float32(-3e38)


@njit(nogil=True, cache=True)
def mix(x: Any) -> Any:
    """`rng.mix` on one uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@intrinsic
def _add_block(typing: Any, table: Any, rows: Any, out: Any, at: Any) -> Any:
    """out[at : at + BLOCK] = ReLU of the sum, in order, of table[row : row + BLOCK] for the nine uint64 of `rows`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.FloatType(), BLOCK)

        def pointer(array: Any, kind: Any, index: Any) -> Any:
            data = context.make_array(kind)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())

        total = None
        for term in range(9):
            value = builder.load(pointer(args[0], table, builder.extract_value(args[1], term)), align=4)
            total = value if total is None else builder.fadd(total, value)
        zero = ir.Constant(vector, [0.0] * BLOCK)
        relu = builder.select(builder.fcmp_ordered(">", total, zero), total, zero)
        builder.store(relu, pointer(args[2], out, args[3]), align=4)
        return context.get_dummy_value()

    return types.void(table, rows, out, at), codegen


@njit(nogil=True, cache=True)
def _hidden(table, cells, size, out):
    """ReLU of the hidden layer, out[cell, unit], from bordered cells[(size + 2)**2] = state * units and table[9 * n, units]."""
    side, width, block = U(size + 2), U(table.shape[1]), U(table.size // 9)
    flat, into = table.reshape(-1), out.reshape(-1)
    for y in range(size):
        for x in range(size):
            m = U(y + 1) * side + U(x + 1)
            u, d = m - side, m + side
            o = U(y * size + x) * width
            for unit in range(0, out.shape[1], BLOCK):
                j = U(unit)
                rows = (
                    cells[u - U(1)] + j,
                    cells[u] + block + j,
                    cells[u + U(1)] + U(2) * block + j,
                    cells[m - U(1)] + U(3) * block + j,
                    cells[m] + U(4) * block + j,
                    cells[m + U(1)] + U(5) * block + j,
                    cells[d - U(1)] + U(6) * block + j,
                    cells[d] + U(7) * block + j,
                    cells[d + U(1)] + U(8) * block + j,
                )
                _add_block(flat, rows, into, o + j)  # numba passes `typing`


@njit(nogil=True, cache=True)
def _logits(hidden, readout, out):
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
def _best(logits, top, second, index):
    """Per cell: the largest logit, the second largest, and the lowest state that has the largest (all float32)."""
    top[:] = logits[0]
    second[:] = LOWEST
    index[:] = ZERO
    for k in range(1, logits.shape[0]):
        z, state = logits[k], F(k)
        for c in range(top.shape[0]):
            value, most = z[c], top[c]
            second[c] = max(second[c], min(value, most))
            index[c] = state if value > most else index[c]
            top[c] = max(value, most)


@njit(nogil=True, cache=True)
def _draw(logits, cell, best, tau, sure, word, weights):
    """State of one cell: its softmax at temperature tau by inverse CDF (float64), best state first, then in order.

    Without any exponential where u < 15/16 and all other logits are more than `sure` = tau * ln(15 * (n - 1)) below the
    best: together they have less than 1/15 of its weight, so u * total < 1.
    """
    n, top = logits.shape[0], logits[best, cell]
    u = np.float64(word >> np.uint64(11)) * 2.0**-53
    close = 0
    for k in range(n):
        close += top - logits[k, cell] < sure
    if close <= 1 and u < 0.9375:
        return best
    total, rate = 0.0, 1.0 / tau
    for k in range(n):
        distance = np.float64(top - logits[k, cell]) * rate
        weights[k] = math.exp(-distance) if distance < CUT else 0.0
        total += weights[k]
    rest, chosen = u * total - weights[best], best
    for k in range(n):
        if rest < 0.0:
            break
        if k != best and weights[k] > 0.0:
            chosen = k
            rest -= weights[k]
    return chosen


@njit(nogil=True, cache=True)
def advance(table, readout, states, keys, first_step, n_steps, every, frames, tau, bias):
    """Run every simulation `n_steps` steps in place; record the state before each step with step % every == 0.

    table    [sims, 9 * n, H] float32: contribution of state s at stencil position p to the hidden layer, row p * n + s
    readout  [sims, H, n] float32: hidden layer to logits; H is padded with zeros to a multiple of BLOCK
    states   [sims, grid, grid] uint8; keys [sims] uint64: noise of a cell is word step * cells + cell of that stream
    frames   [sims, >= ceil(n_steps / every), grid, grid] uint8, written; every = 0 records nothing
    """
    size, width, n = states.shape[1], table.shape[2], readout.shape[2]
    cells = size * size
    bordered, source = np.empty((size + 2) * (size + 2), np.uint64), np.empty((size + 2) * (size + 2), np.uint64)
    for y in range(size + 2):
        for x in range(size + 2):
            source[y * (size + 2) + x] = ((y - 1) % size) * size + (x - 1) % size
    units, hidden = np.empty((cells, width), np.float32), np.empty((width, cells), np.float32)
    logits, top = np.empty((n, cells), np.float32), np.empty(cells, np.float32)
    second, index = np.empty(cells, np.float32), np.empty(cells, np.float32)
    weights, cut, sure = np.empty(n, np.float64), F(CUT * tau * 1.001), F(math.log(15.0 * (n - 1)) * tau * 1.001)
    for sim in range(states.shape[0]):
        state = states[sim].reshape(-1)
        for step in range(n_steps):
            if every and step % every == 0:
                frames[sim, step // every] = states[sim]
            for i in range(len(source)):
                bordered[i] = U(state[source[i]]) * U(width)
            _hidden(table[sim], bordered, size, units)
            for c in range(cells):
                for j in range(width):
                    hidden[j, c] = units[c, j]
            _logits(hidden, readout[sim], logits)
            if bias != ZERO:
                for c in range(cells):
                    logits[state[c], c] += bias
            _best(logits, top, second, index)
            for c in range(cells):
                state[c] = np.uint8(index[c])
            counter = U(first_step + step) * U(cells) + U(1)
            for c in range(cells):
                if top[c] - second[c] < cut:
                    word = mix(keys[sim] + np.uint64(0x9E3779B97F4A7C15) * (counter + U(c)))
                    state[c] = _draw(logits, c, int(index[c]), tau, sure, word, weights)
