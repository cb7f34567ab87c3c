"""The one compiled function of the NCA source; strict float32 arithmetic in a fixed order, so results never vary."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

BLOCK = 8
"""Hidden units and states are padded to multiples of this, so that inner loops have a constant length (one AVX register)."""
CUT = 30.0
"""States further than this many temperatures below the best are never drawn (probability below e**-30)."""


@njit(nogil=True, cache=True, inline="always")
def mix(x: Any) -> Any:
    """`rng.mix` on one uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(nogil=True, cache=True)
def advance(table, readout, states, keys, first_step, n_steps, every, frames, n, tau, bias):  # type: ignore[no-untyped-def]
    """Run every simulation `n_steps` steps in place; record the state before each step with step % every == 0.

    table    [sims, 9 * n, H] float32: contribution of state s at stencil position p to the hidden layer, row p * n + s
    readout  [sims, H, N] float32: hidden layer to logits; H and N padded with zeros to multiples of BLOCK
    states   [sims, grid, grid] uint8, keys [sims] uint64: noise of (key, step * cells + cell)
    frames   [sims, >= ceil(n_steps / every), grid, grid] uint8, written; every = 0 records nothing
    """
    size = states.shape[1]
    width, outputs = table.shape[2], readout.shape[2]
    hidden = np.empty(width, np.float32)
    logits = np.empty(outputs, np.float32)
    following = np.empty((size, size), np.uint8)
    for sim in range(states.shape[0]):
        lookup, weights, current = table[sim], readout[sim], states[sim]
        for step in range(n_steps):
            if every and step % every == 0:
                frames[sim, step // every] = current
            counter = np.uint64(first_step + step) * np.uint64(size * size)
            for y in range(size):
                up, down = (y - 1 if y else size - 1), (y + 1 if y + 1 < size else 0)
                for x in range(size):
                    left, right = (x - 1 if x else size - 1), (x + 1 if x + 1 < size else 0)
                    a = lookup[current[up, left]]
                    b = lookup[n + current[up, x]]
                    c = lookup[2 * n + current[up, right]]
                    d = lookup[3 * n + current[y, left]]
                    e = lookup[4 * n + current[y, x]]
                    f = lookup[5 * n + current[y, right]]
                    g = lookup[6 * n + current[down, left]]
                    h = lookup[7 * n + current[down, x]]
                    i = lookup[8 * n + current[down, right]]
                    for o in range(0, width, BLOCK):
                        for j in range(o, o + BLOCK):
                            v = a[j] + b[j] + c[j] + d[j] + e[j] + f[j] + g[j] + h[j] + i[j]
                            hidden[j] = max(v, np.float32(0.0))
                    for k in range(outputs):
                        logits[k] = np.float32(0.0)
                    for o in range(0, width, BLOCK):
                        for k in range(outputs):
                            v = logits[k]
                            for j in range(BLOCK):
                                v += hidden[o + j] * weights[o + j, k]
                            logits[k] = v
                    logits[current[y, x]] += bias
                    best = 0
                    for k in range(1, n):
                        if logits[k] > logits[best]:
                            best = k
                    near = 0
                    limit = logits[best] - tau * CUT
                    for k in range(n):
                        near += logits[k] > limit
                    if tau > 0.0 and near > 1:
                        total = 0.0
                        for k in range(n):
                            if logits[k] > limit:
                                total += math.exp((np.float64(logits[k]) - np.float64(logits[best])) / tau)
                        word = mix(keys[sim] + np.uint64(0x9E3779B97F4A7C15) * (counter + np.uint64(y * size + x + 1)))
                        left_over = np.float64(word >> np.uint64(11)) * 2.0**-53 * total
                        for k in range(n):
                            if logits[k] > limit:
                                best = k
                                left_over -= math.exp((np.float64(logits[k]) - np.float64(logits[best])) / tau)
                                if left_over < 0.0:
                                    break
                    following[y, x] = best
            current[:, :] = following
