"""The batch at step k is a function of (seed, k) alone: no loader state exists that could be lost."""

from __future__ import annotations

import numpy as np

from nca_interp.base import stream_seed

_U = np.uint64


def permute(index: np.ndarray, n: int, seed: int, rounds: int = 6) -> np.ndarray:
    """Image of `index` (integers in [0, n)) under a keyed bijection of [0, n): a Feistel network with cycle walking.

    Pure 64-bit arithmetic, so identical on every platform and NumPy version, in O(1) memory.
    """
    assert n >= 1
    assert np.all((index >= 0) & (index < n))
    half = max(1, (int(n - 1).bit_length() + 1) // 2)
    mask, shift = _U((1 << half) - 1), _U(half)
    keys = [_U(stream_seed(seed, "permute", r)) for r in range(rounds)]
    out = np.asarray(index, dtype=np.uint64).copy()
    todo = np.ones(out.shape, dtype=bool)
    while todo.any():
        value = out[todo]
        left, right = value >> shift, value & mask
        for key in keys:
            left, right = right, left ^ (_mix(right, key) & mask)
        value = (left << shift) | right
        out[todo] = value
        todo[todo] = value >= _U(n)
    return out.astype(np.int64)


def _mix(x: np.ndarray, key: np.uint64) -> np.ndarray:
    """The splitmix64 finaliser of x + key."""
    with np.errstate(over="ignore"):
        x = x + key
        x = (x ^ (x >> _U(30))) * _U(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> _U(27))) * _U(0x94D049BB133111EB)
    return x ^ (x >> _U(31))


def batch_rows(n_rows: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Row numbers of the global batch at `step`, shape [batch_size]; each epoch visits every row once."""
    position = step * batch_size + np.arange(batch_size, dtype=np.int64)
    epoch, index = position // n_rows, position % n_rows
    rows = np.empty(batch_size, dtype=np.int64)
    for e in np.unique(epoch):
        of_epoch = epoch == e
        rows[of_epoch] = permute(index[of_epoch], n_rows, stream_seed(seed, "epoch", int(e)))
    return rows


def learning_rate(step: int, *, steps: int, lr: float, warmup: float, schedule: str, min_lr_ratio: float) -> float:
    """Learning rate of the update that makes `step` + 1 steps: linear warm-up, then cosine to `min_lr_ratio` or constant."""
    rise = round(warmup * steps)
    if step < rise:
        return lr * (step + 1) / rise
    if schedule == "constant":
        return lr
    progress = min(1.0, (step - rise) / max(1, steps - 1 - rise))
    return lr * (min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + float(np.cos(np.pi * progress))))
