# mypy: ignore-errors
"""What surrounds the NCA step, compiled: weights, initial cells, patch tokens."""

from __future__ import annotations

import math

import numpy as np

from nca_interp.data.compiled import inner, outer
from nca_interp.data.nca.kernels import mix
from nca_interp.data.nca.vectors import GROUP
from nca_interp.data.rng import GOLDEN

U = np.uint64


@inner
def _uniform(key, counter):
    """`rng.uniforms` of one key and counter."""
    return np.float64(mix(key + U(GOLDEN) * (U(counter) + U(1))) >> U(11)) * 2.0**-53


@inner
def _draw_weights(key, first, quantiles, scale, out):
    """Fill the flat float32 `out` from counters first, first + 1, ...: scale * the quantile function, interpolated."""
    for i in range(len(out)):
        position = _uniform(key, first + i) * (len(quantiles) - 1)
        cell = U(position)
        low, high = quantiles[cell], quantiles[cell + U(1)]
        out[i] = np.float32((low + (high - low) * (position - np.float64(cell))) * scale)


@outer
def draw_rules(keys, quantiles, scales, wrapped, conv, up, out, table, readout):
    """Draw the kernels of every rule and fold them: table[rule, 9 * n, width], readout[rule, groups, width, GROUP], zeroed.

    conv [9, inputs, channels], up [channels, hidden], out [hidden, n] are work space and hold the last rule's kernels;
    `wrapped`: the first and the last input are states n - 1 and 0 once more.
    """
    n, channels, hidden = out.shape[1], up.shape[0], up.shape[1]
    flat = conv.reshape(-1), up.reshape(-1), out.reshape(-1)
    for rule in range(len(keys)):
        first = 0
        for kernel, scale in zip(flat, scales):  # noqa: B905 (numba has no strict)
            _draw_weights(keys[rule], first, quantiles, scale, kernel)
            first += len(kernel)
        if wrapped:
            for p in range(9):
                for c in range(channels):
                    conv[p, n, c] += conv[p, 0, c]
                    conv[p, 1, c] += conv[p, n + 1, c]
        for p in range(9):
            for s in range(n):
                row, seen = table[rule, p * n + s], conv[p, s + wrapped]
                for c in range(channels):
                    for j in range(hidden):
                        row[j] += seen[c] * up[c, j]
        for j in range(hidden):
            for k in range(n):
                readout[rule, k // GROUP, j, k % GROUP] = out[j, k]


@outer
def draw_cells(keys, n, skewed, states):
    """First states [keys, grid, grid]: uniform, or iid from the softmax of n N(0,1) logits a key (`skewed`)."""
    levels = np.empty(n, np.float64)
    for sim in range(len(keys)):
        cells = states[sim].reshape(-1)
        if not skewed:
            for i in range(len(cells)):
                word = mix(keys[sim] + U(GOLDEN) * (U(i) + U(1)))
                cells[i] = ((word >> U(32)) * U(n)) >> U(32)
            continue
        total = 0.0
        for k in range(n):
            radius = math.sqrt(-2 * math.log1p(-_uniform(keys[sim], len(cells) + k)))
            total += math.exp(radius * math.cos(2 * math.pi * _uniform(keys[sim], len(cells) + n + k)))
            levels[k] = total
        for i in range(len(cells)):
            drawn, state = _uniform(keys[sim], i) * total, 0
            for k in range(n - 1):
                state += drawn >= levels[k]
            cells[i] = state


@outer
def fill_tokens(frames, patch, n, tokens, margin):
    """tokens[sim, frame, margin + patch number] of frames[sim, frame, grid, grid]: sum of cell_j * n**j, j row-major."""
    blocks = frames.shape[2] // patch
    for sim in range(frames.shape[0]):
        for frame in range(frames.shape[1]):
            cells, out = frames[sim, frame], tokens[sim, frame]
            for y in range(blocks):
                for x in range(blocks):
                    token = U(0)
                    for i in range(patch - 1, -1, -1):
                        for j in range(patch - 1, -1, -1):
                            token = token * U(n) + U(cells[U(y * patch + i), U(x * patch + j)])
                    out[U(margin + y * blocks + x)] = token
