"""The NCA source written a second time, one cell at a time, from its definition: slow, and independent of the package."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def word(key: int, counter: int) -> int:
    return mix((key + GOLDEN * (counter + 1)) & MASK)


def unit(key: int, counter: int) -> float:
    return (word(key, counter) >> 11) * 2.0**-53


NORMAL = NormalDist()
LOW, HIGH = NORMAL.cdf(-2), NORMAL.cdf(2)
TABLE = [NORMAL.inv_cdf(LOW + (HIGH - LOW) * i / 4096) / 0.87962566103423978 for i in range(4097)]


def weights(key: int, first: int, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    out = []
    for i in range(math.prod(shape)):
        position = unit(key, first + i) * 4096
        cell = int(position)
        out.append((TABLE[cell] + (TABLE[cell + 1] - TABLE[cell]) * (position - cell)) * fan_in**-0.5)
    return np.array(out).astype(np.float32).reshape(shape)


def kernels(spec, key: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flax kernels: 3x3 [9, inputs, channels], 1x1 [channels, hidden], 1x1 [hidden, n]."""
    n, c, h = spec.n_states, spec.channels, spec.hidden
    inputs = n + 2 if spec.variant == "release" else n
    sizes = 9 * inputs * c, 9 * inputs * c + c * h
    return (
        weights(key, 0, (9, inputs, c), 9 * inputs),
        weights(key, sizes[0], (c, h), c),
        weights(key, sizes[1], (h, n), h),
    )


def initial(spec, key: int) -> np.ndarray:
    cells = np.empty(spec.grid**2, np.uint8)
    n = spec.n_states
    if spec.variant == "release":
        u = [unit(key, spec.grid**2 + i) for i in range(2 * n)]
        levels = np.cumsum(
            [math.exp(math.sqrt(-2 * math.log1p(-u[k])) * math.cos(2 * math.pi * u[n + k])) for k in range(n)]
        )
    for i in range(len(cells)):
        if spec.variant == "paper":
            cells[i] = ((word(key, i) >> 32) * n) >> 32
        else:
            cells[i] = min(sum(level <= unit(key, i) * levels[-1] for level in levels), n - 1)
    return cells.reshape(spec.grid, spec.grid)


def fma(a, b, c) -> np.float32:
    """float32 a * b + c with one rounding: the product is exact in float64, the sum is rounded to odd, then to float32."""
    product, c = np.float64(a) * np.float64(b), np.float64(c)
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    if error != 0 and not int(np.float64(total).view(np.uint64)) & 1:
        total = np.nextafter(total, np.inf if error > 0 else -np.inf)
    return np.float32(total)


def logits(spec, kernel: tuple[np.ndarray, ...], state: np.ndarray, y: int, x: int) -> np.ndarray:
    """float32, in the documented order: channels of an entry, neighbours two by two, then the centre; units one by one."""
    conv, up, out = kernel
    n, grid, f = spec.n_states, spec.grid, np.float32
    entries = []
    for p in range(9):
        s = int(state[(y + p // 3 - 1) % grid, (x + p % 3 - 1) % grid])
        seen = conv[p, s]
        if spec.variant == "release":  # the state axis is wrapped by one on either side
            seen = conv[p, s + 1].copy()
            seen += conv[p, 0] if s == n - 1 else 0
            seen += conv[p, n + 1] if s == 0 else 0
        entry = np.zeros(spec.hidden, np.float32)
        for c in range(spec.channels):
            entry = entry + seen[c] * up[c]
        entries.append(entry)
    pre = entries[0] + entries[1]
    for pair in (entries[2] + entries[5], entries[7] + entries[8], entries[3] + entries[6], entries[4]):
        pre = pre + pair
    hidden = np.maximum(pre, f(0))
    z = np.zeros(n, np.float32)
    z[state[y, x]] = spec.identity_bias
    for j in range(spec.hidden):
        for k in range(n):
            z[k] = fma(hidden[j], out[j, k], z[k])
    return z


def step(spec, kernel: tuple[np.ndarray, ...], state: np.ndarray, key: int, number: int) -> np.ndarray:
    following = np.empty_like(state)
    for y in range(spec.grid):
        for x in range(spec.grid):
            z = logits(spec, kernel, state, y, x)
            best = int(np.argmax(z))  # ties: the lowest
            following[y, x] = best
            if spec.tau > 0:
                distance = [float(z[best] - v) * (1 / spec.tau) for v in z]
                mass = [math.exp(-d) for d in distance]
                total = 0.0
                for m in mass:
                    total += m
                rest = unit(key, number * spec.grid**2 + y * spec.grid + x) * total - mass[best]
                for k in range(spec.n_states):
                    if rest < 0:
                        break
                    if k != best and mass[k] > 0:
                        following[y, x] = k
                        rest -= mass[k]
    return following


def trajectory(spec, rule_key: int, trajectory_number: int, n_frames: int) -> np.ndarray:
    """Frames [n_frames, grid, grid] of one rule, from the key of its weights."""
    noise = word(mix(rule_key), trajectory_number)
    kernel, state, frames = kernels(spec, rule_key), initial(spec, mix(noise)), []
    for number in range(spec.burn_in + (n_frames - 1) * spec.dt + 1):
        if number >= spec.burn_in and (number - spec.burn_in) % spec.dt == 0:
            frames.append(state)
        state = step(spec, kernel, state, noise, number)
    return np.array(frames)
