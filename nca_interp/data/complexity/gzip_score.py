"""The gzip ratio, the paper's measure of complexity, and what it can reach.

The ratio depends on the serialisation, the length and the alphabet, and hardly on the order of the tokens; compare only
scores of one serialisation and length, or normalise with `gzip_floor_ceiling`.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nca_interp.data.rng import below, stream_key


class GzipReach(NamedTuple):
    """Ratios of the simplest and of the most complex sequence of one length, alphabet and dtype."""

    floor: float
    """A constant sequence."""
    ceiling: float
    """Independent uniform tokens (one fixed draw)."""


def gzip_ratio(data: bytes) -> float:
    """len(gzip(data)) / len(data) at level 9 with the 18 bytes of header and trailer; at least one byte is needed."""
    if not data:
        raise ValueError("data: empty; a ratio needs at least one byte")
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    return (len(compressor.compress(data)) + len(compressor.flush())) / len(data)


def gzip_ratios(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """`gzip_ratio` of each of rows[rows, bytes], as zlib computes it (not a substitute that the system has for it)."""
    from nca_interp.data.complexity.gzip_kernel import MAX_BYTES, gzip_lengths, work_space

    n_bytes = rows.shape[1]
    if n_bytes > MAX_BYTES:
        return np.array([gzip_ratio(row.tobytes()) for row in rows])
    lengths = np.empty(len(rows), np.int64)
    gzip_lengths(rows, lengths, work_space(n_bytes))
    return lengths / n_bytes


def gzip_floor_ceiling(n_tokens: int, vocab: int, dtype: npt.DTypeLike = np.uint16) -> GzipReach:
    """Reach of `gzip_ratio` for `n_tokens` tokens in [0, vocab) stored little-endian as `dtype`."""
    stored = np.dtype(dtype).newbyteorder("<")
    uniform = below(stream_key(0, "gzip ceiling"), np.arange(n_tokens), vocab).astype(stored)
    return GzipReach(gzip_ratio(np.zeros(n_tokens, stored).tobytes()), gzip_ratio(uniform.tobytes()))
