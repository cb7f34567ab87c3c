"""Rows of a control source: row r depends on (specification, seed, split, r, length) alone, on no chunk or thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nca_interp.base import UserError
from nca_interp.data.controls.base import Control
from nca_interp.data.controls.counting import LARGEST_COUNTED, RIVALS
from nca_interp.data.nca.rows import in_order
from nca_interp.data.rng import bits, stream_key, uniforms

CHUNK = 256
"""Rows made at a time by one thread; changes speed only."""
SCORED = 512
"""Rows on which the ideal losses of a split are measured."""
Nats = npt.NDArray[np.float64]


class Drawn(NamedTuple):
    """Some rows, and what each token costs an informed predictor."""

    tokens: npt.NDArray[np.uint32]
    """[rows, n_tokens]."""
    nats: Nats
    """[rows, n_tokens], 0 where the generator left no choice."""


def check_row(spec: Control, n_tokens: int) -> None:
    """UserError if rows of `n_tokens` tokens cannot show the task."""
    if lack := spec.lacks(n_tokens):
        raise UserError(f"{spec.kind}.{lack}")


def control_rows(
    spec: Control, seed: int, split: str, n_rows: int, n_tokens: int, threads: int | None = None
) -> Iterator[Drawn]:
    """The first `n_rows` rows of a split in chunks, computed on `threads` threads (null: one a core).

    A longer row begins with the shorter one. UserError as `check_row`.
    """
    check_row(spec, n_tokens)
    yield from _rows(spec, seed, split, n_rows, n_tokens, threads)


def _rows(spec: Control, seed: int, split: str, n_rows: int, n_tokens: int, threads: int | None) -> Iterator[Drawn]:
    key = stream_key(seed, spec.kind, split)
    counters = np.arange(spec.n_draws(n_tokens))

    def make(first: int) -> Drawn:
        keys = bits(key, np.arange(first, min(first + CHUNK, n_rows)))
        found = Drawn(np.empty((len(keys), n_tokens), np.uint32), np.empty((len(keys), n_tokens)))
        spec.fill(uniforms(keys[:, None], counters), *found)
        return found

    yield from in_order(make, iter(range(0, n_rows, CHUNK)), threads)


def chosen(spec: Control, tokens: npt.NDArray[Any], seed: int, split: str) -> Nats:
    """Nats [rows, n_tokens] that the generator chose at each token of the first rows of a split (`Control.fill`)."""
    n, shown = tokens.shape
    rows = list(_rows(spec, seed, split, n, shown, None))
    assert np.array_equal(np.concatenate([chunk.tokens for chunk in rows]), tokens)
    return np.concatenate([chunk.nats for chunk in rows])


def ideal_losses(spec: Control, tokens: npt.NDArray[Any], seed: int, split: str) -> dict[str, Nats]:
    """Nats [rows, n_tokens] that each ideal predictor pays for the first rows of a split (or their first tokens).

    `bayes` is the best that a reader of the row can do, `informed` knows what the row hides, if anything; then others of
    `spec.ideals`, and the rivals `bigram` and `unigram`, which count what the row has shown, where the vocabulary is
    small enough to count.
    """
    ids = np.ascontiguousarray(tokens, np.int64)
    known = {"informed" if spec.hides else "bayes": chosen(spec, tokens, seed, split)}
    found = dict(sorted({**known, **spec.ideals(ids)}.items()))
    if spec.vocab_size <= LARGEST_COUNTED:
        for name, rival in RIVALS.items():
            found.setdefault(name, rival(ids, spec.vocab_size))
    return found


def ideal_nats(spec: Control, seed: int, split: str, n_rows: int, n_tokens: int) -> dict[str, float]:
    """Mean loss in nats a target (all tokens of a row but its first) of each ideal predictor on the first rows of a split."""
    tokens = np.concatenate([c.tokens for c in control_rows(spec, seed, split, min(n_rows, SCORED), n_tokens)])
    return {name: float(nats[:, 1:].mean()) for name, nats in ideal_losses(spec, tokens, seed, split).items()}
