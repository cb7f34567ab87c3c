"""Text and automata on the same footing: rows of equal span, symbols of the same kind, measures between fixed ends.

Why this footing, and how much a recommendation changes under others: docs/matching.md.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nca_interp.data.complexity import measures
from nca_interp.data.rng import below, stream_key
from nca_interp.data.sample import Sample, Spec, draw, draw_within
from nca_interp.data.specs import NcaSpec, TextSpec, TokenizerSpec

Floats = npt.NDArray[np.float64]
Footing = Literal["symbols", "tokens"]
BYTES = TokenizerSpec(vocab_size=258)
"""A byte-level BPE without merges: a token is a byte, or the end of a document."""
LENGTHS: dict[Footing, int] = {"symbols": 4096, "tokens": 1024}
"""Row lengths. 4,096 cells are what 1,024 patch tokens of 2 x 2 cells show."""
IN_USE = 0.999
"""The alphabet of a sample is the fewest symbols that make up this share of it, so that a stray character does not count."""


class Coordinate(NamedTuple):
    """One measure of a row."""

    name: str
    doc: str
    matched: tuple[Footing, ...]
    """Footings on whose distance it counts; elsewhere it is shown only."""


COORDINATES = (
    Coordinate("gzip", "gzip -9 of the row", ("symbols", "tokens")),
    Coordinate("lempel_ziv", "phrases of the Lempel-Ziv 1976 history", ("symbols", "tokens")),
    Coordinate("conditional_entropy", "entropy of a symbol given the one before", ("symbols",)),
    Coordinate("entropy", "entropy of the symbols whatever their order", ("tokens",)),
    Coordinate("zipf_slope", "minus the slope of ln frequency on ln rank; none for a row of one symbol", ()),
    Coordinate("mutual_information", "information between symbols 1 to 64 apart, share of ln(alphabet)", ()),
)  # fmt: skip
"""The first four are 0 for a constant row and 1 for iid uniform symbols of the same length and alphabet."""
NAMES = tuple(c.name for c in COORDINATES)

MI_LAGS = np.unique(np.geomspace(1, 64, 12).round().astype(np.int64))
ESTIMABLE = 0.8
"""conditional_entropy exists where iid uniform rows show at least this share of ln(alphabet): below, rows are too short
for the alphabet and the estimate is mostly bias."""


def matched(footing: Footing) -> list[int]:
    """Coordinates that count in the distance on a footing."""
    return [i for i, c in enumerate(COORDINATES) if footing in c.matched]


class Rows(NamedTuple):
    """Rows of one source on one footing."""

    symbols: npt.NDArray[np.int64]
    """[n, length] ranks by frequency: the alphabet's are 0 .. alphabet - 1."""
    alphabet: int
    groups: list[str]
    """Unit of resampling of each row: document, rule or string."""
    sample: Sample


def rows_of(
    spec: Spec, footing: Footing, n: int, seed: int = 0, split: str = "match", threads: int | None = None
) -> Rows:
    """At most `n` rows of a source.

    symbols: bytes of a text, cells of an automaton (frames row by row, no delimiters), brackets.
    tokens: what a model would read, the tokens of the text's own tokenizer, patches with delimiters, brackets.
    """
    length = LENGTHS[footing]
    alike: dict[str, Any] = {"n": n, "seed": seed, "split": split, "threads": threads}
    whole = footing == "tokens"
    if isinstance(spec, TextSpec):
        sample = draw_within(spec if whole else spec.model_copy(update={"tokenizer": BYTES}), length=length, **alike)
        return _ranked(sample, sample.tokens, whole)
    if whole or not isinstance(spec, NcaSpec):
        sample = draw(spec, length=length, **alike)
        return _ranked(sample, sample.tokens, whole)
    frames = -(-length // spec.grid**2)
    sample = draw(spec, length=frames * spec.tokens_per_frame, **alike)
    assert sample.frames is not None
    return _ranked(sample, sample.frames.reshape(len(sample.frames), -1)[:, :length], whole)


def _ranked(sample: Sample, symbols: npt.NDArray[Any], whole: bool) -> Rows:
    """Rows of ranks; the alphabet is the `whole` vocabulary or what is in use."""
    kinds, inverse, counts = np.unique(symbols, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(len(kinds), np.int64)
    rank[order] = np.arange(len(kinds))
    alphabet = sample.vocab_size if whole else in_use(counts)
    return Rows(rank[inverse].reshape(symbols.shape), alphabet, sample.groups, sample)


def in_use(counts: npt.NDArray[np.int64]) -> int:
    """The fewest kinds that make up `IN_USE` of all symbols, at least 2."""
    falling = np.sort(counts)[::-1].cumsum()
    return max(2, int(np.searchsorted(falling, IN_USE * falling[-1]) + 1))


def vectors(rows: Rows) -> Floats:
    """[n, coordinates] of each row, in the order of `COORDINATES`; NaN where a coordinate does not exist."""
    symbols, alphabet = rows.symbols, rows.alphabet
    dtype = np.uint8 if symbols.max() < 256 else np.uint16 if symbols.max() < 2**16 else np.uint32
    top = _ceilings(symbols.shape[1], alphabet)
    known = top.conditional >= ESTIMABLE * np.log(alphabet)
    information = measures.mutual_information(symbols, MI_LAGS).value.mean(axis=1)
    return np.stack(
        [
            measures.gzip_rows(symbols, alphabet, dtype).normalised,
            measures.lempel_ziv(symbols, alphabet).normalised,
            measures.row_conditional_entropies(symbols) / (top.conditional if known else np.nan),
            measures.row_entropies(symbols) / top.entropy,
            np.array([_slope(row, alphabet) for row in symbols]),
            information / np.log(alphabet),
        ],
        axis=1,
    )


def _slope(row: npt.NDArray[np.int64], alphabet: int) -> float:
    """Of the symbols in use: the end of a document is one symbol in thousands and would bend the line."""
    common = row[row < alphabet]
    return measures.rank_slope(common[None]) if len(common) and (common != common[0]).any() else np.nan


class Ceilings(NamedTuple):
    """What iid uniform rows of one length and alphabet show, in nats."""

    entropy: float
    conditional: float


@cache
def _ceilings(length: int, alphabet: int) -> Ceilings:
    uniform = below(stream_key(0, "match ceiling"), np.arange(4 * length), alphabet).reshape(4, length)
    return Ceilings(
        float(measures.row_entropies(uniform).mean()), float(measures.row_conditional_entropies(uniform).mean())
    )


def column_means(values: Floats) -> Floats:
    """Means [coordinates] over the rows that have a value; NaN where none has."""
    known = ~np.isnan(values)
    return np.where(known.any(axis=0), np.nansum(values, axis=0) / np.maximum(known.sum(axis=0), 1), np.nan)
