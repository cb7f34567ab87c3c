"""The batch at step k is a function of (seed, k) alone: no loader state exists that could be lost."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from nca_interp.base import stream_seed
from nca_interp.data.tokens import TokenFile
from nca_interp.model.loss import IGNORE

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


class Batch(NamedTuple):
    """One process's share of a global batch."""

    inputs: torch.Tensor
    """Tokens [rows, n_ctx]."""
    targets: torch.Tensor
    """The tokens after them, IGNORE where they are no targets [rows, n_ctx]."""
    n_targets: int
    """Targets in the whole global batch, over all processes."""


class Loader:
    """Batches by step, the next one read ahead in a thread. `waited`: seconds that training has waited for data."""

    def __init__(
        self, tokens: TokenFile, batch_size: int, seed: int, prefix: int, rank: int, world: int, device: torch.device
    ) -> None:
        assert batch_size % world == 0
        self.tokens, self.batch_size, self.seed, self.prefix = tokens, batch_size, seed, prefix
        self.device, share = device, batch_size // world
        self.share = slice(rank * share, (rank + 1) * share)
        self.waited = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._next: tuple[int, Future[Batch]] | None = None

    def get(self, step: int) -> Batch:
        """The batch of `step`: a function of (seed, step) alone, whatever was asked before."""
        begin = time.perf_counter()
        if self._next is None or self._next[0] != step:
            self._next = step, self._thread.submit(self._read, step)
        batch = self._next[1].result()
        self._next = step + 1, self._thread.submit(self._read, step + 1)
        blocking = self.device.type == "cpu"
        batch = batch._replace(
            inputs=batch.inputs.to(self.device, non_blocking=not blocking),
            targets=batch.targets.to(self.device, non_blocking=not blocking),
        )
        self.waited += time.perf_counter() - begin
        return batch

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _read(self, step: int) -> Batch:
        rows = batch_rows(len(self.tokens.train), self.batch_size, self.seed, step)
        mask = self.tokens.train_mask
        if mask is None:
            n_targets = self.batch_size * (self.tokens.meta.seq_len + 1 - max(1, self.prefix))
        else:
            n_targets = int(np.count_nonzero(mask[rows][:, max(1, self.prefix) :]))
        mine = rows[self.share]
        x, y = to_tensors(self.tokens.train[mine], self.prefix, None if mask is None else mask[mine])
        if self.device.type == "cuda":
            x, y = x.pin_memory(), y.pin_memory()
        return Batch(x, y, n_targets)


def to_tensors(rows: np.ndarray, prefix: int, mask: np.ndarray | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of n_ctx + 1 tokens to (inputs, targets); the first `prefix` tokens of a row, and masked ones, are no targets."""
    tokens = torch.from_numpy(np.ascontiguousarray(rows).astype(np.int64))
    targets = tokens.clone()
    targets[:, :prefix] = IGNORE
    if mask is not None:
        targets[torch.from_numpy(np.ascontiguousarray(mask)) == 0] = IGNORE
    return tokens[:, :-1].contiguous(), targets[:, 1:].contiguous()
