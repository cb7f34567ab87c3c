"""How complex is a token source? gzip with its reach and its order-blindness, entropies, change rate, Zipf exponent.

gzip measures depend on serialisation, length and alphabet: here tokens as little-endian uint16 (uint32 above 65,536
tokens), one row of the token file (`seq_len` tokens, delimiters included) at a time, zlib level 9 with the gzip header.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from nca_interp.data.gzip_score import gzip_floor_ceiling, gzip_ratio

MAX_WINDOWS = 128
MAX_TOKENS = 2**19
"""Tokens that pooled statistics are counted on."""
MAX_RANK = 1000


class Measure(NamedTuple):
    """One number on a source; `n` windows (or rows) and the standard deviation between them where there is one."""

    measure: str
    value: float
    unit: str
    n: int
    sd: float | None


def measures(val: np.ndarray, train: np.ndarray, vocab_size: int, seq_len: int, spec: dict[str, Any]) -> list[Measure]:
    """All measures of a token file: windows from its validation rows, pooled counts from its training rows."""
    windows = np.asarray(val[:MAX_WINDOWS, :seq_len], dtype=np.int64)
    pooled = np.asarray(train[: max(1, MAX_TOKENS // train.shape[1])], dtype=np.int64)
    found = [*_gzip(windows, vocab_size), *_entropies(pooled, vocab_size), _zipf(pooled, vocab_size)]
    if spec.get("kind") == "nca":
        found += _change(windows, spec)
    return found


def _over_windows(name: str, values: np.ndarray, unit: str) -> Measure:
    sd = float(values.std(ddof=1)) if len(values) > 1 else None
    return Measure(name, float(values.mean()), unit, len(values), sd)


def _gzip(windows: np.ndarray, vocab_size: int) -> Iterator[Measure]:
    """gzip_ratio: compressed / raw bytes. gzip_ratio_normalised: 0 = a constant row, 1 = iid uniform tokens of the same
    length and alphabet. gzip_ratio_shuffled: the same after permuting each row; where it equals gzip_ratio, the measure
    saw nothing of the order."""
    dtype = np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")
    reach = gzip_floor_ceiling(windows.shape[1], vocab_size, dtype)
    rng = np.random.default_rng(0)
    ratio = np.array([gzip_ratio(row.astype(dtype).tobytes()) for row in windows])
    shuffled = np.array([gzip_ratio(rng.permutation(row).astype(dtype).tobytes()) for row in windows])
    yield _over_windows(
        "gzip_ratio_normalised", (ratio - reach.floor) / (reach.ceiling - reach.floor), "0 constant, 1 iid uniform"
    )
    yield _over_windows("gzip_ratio", ratio, "compressed / raw bytes")
    yield _over_windows("gzip_ratio_shuffled", shuffled, "compressed / raw bytes")


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of observed counts with the Miller-Madow correction, (kinds seen - 1) / (2 n)."""
    seen = counts[counts > 0].astype(float)
    n = seen.sum()
    share = seen / n
    return float(-(share * np.log(share)).sum() + (len(seen) - 1) / (2 * n))


def conditional_entropy(rows: np.ndarray, vocab_size: int) -> float:
    """H(x[t] | x[t-1]) in nats over rows [n, length]: pair entropy minus that of the first members, both Miller-Madow."""
    first, second = rows[:, :-1].ravel(), rows[:, 1:].ravel()
    _, pairs = np.unique(first * vocab_size + second, return_counts=True)
    return entropy(pairs) - entropy(np.bincount(first))


def _entropies(rows: np.ndarray, vocab_size: int) -> Iterator[Measure]:
    """unigram_entropy: of pooled tokens / ln V (1 = all tokens equally frequent). conditional_entropy: given the token
    before, nats; an underestimate where most pairs were never seen."""
    unigram = entropy(np.bincount(rows.ravel(), minlength=vocab_size))
    yield Measure("unigram_entropy", unigram / float(np.log(vocab_size)), "share of ln V", len(rows), None)
    yield Measure("conditional_entropy", conditional_entropy(rows, vocab_size), "nats per token", len(rows), None)


def _zipf(rows: np.ndarray, vocab_size: int) -> Measure:
    """zipf_exponent: minus the least-squares slope of ln frequency on ln rank, ranks 1 to 1000 that occur (language: about 1)."""
    counts = np.sort(np.bincount(rows.ravel(), minlength=vocab_size))[::-1][:MAX_RANK]
    counts = counts[counts > 0]
    if len(counts) < 2:
        return Measure("zipf_exponent", 0.0, "minus slope of ln f on ln rank", len(rows), None)
    slope = np.polyfit(np.log(np.arange(1, len(counts) + 1)), np.log(counts), 1)[0]
    return Measure("zipf_exponent", float(-slope), "minus slope of ln f on ln rank", len(rows), None)


def _change(windows: np.ndarray, spec: dict[str, Any]) -> Iterator[Measure]:
    """cell_change_rate: share of cells that differ from the recorded frame before. Conditional entropy of a cell given
    itself one frame earlier (own_cell_entropy), pooled within a row: one rule a row."""
    from nca_interp.data.nca import tokens_to_frames
    from nca_interp.data.specs import NcaSpec

    nca = NcaSpec.model_validate(spec)
    frames = [tokens_to_frames(nca, row).reshape(-1, nca.grid**2).astype(np.int64) for row in windows]
    if len(frames[0]) < 2:
        return
    yield _over_windows(
        "cell_change_rate", np.array([(f[1:] != f[:-1]).mean() for f in frames]), "share of cells a frame"
    )
    own = [conditional_entropy(np.stack([f[:-1].ravel(), f[1:].ravel()], 1), nca.n_states) for f in frames]
    yield _over_windows("own_cell_entropy", np.array(own), "nats per cell")
