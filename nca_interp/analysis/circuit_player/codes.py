"""Numbers of the player as bytes: how they are quantised and thinned, and how far that is from the numbers themselves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
ATTENTION_ERROR = 0.00393
"""Largest difference between an attention weight and what is read back from its byte: sqrt is rounded to 1 / 510, so 1 / 255 at
most, less at small weights (0.0004 at 0.01)."""
SHARE_ERROR = 1 / 510
"""The same of a probability."""


def attention_bytes(weights: npt.ArrayLike) -> Bytes:
    """uint8 v = round(255 sqrt(p)) of attention weights from 0 to 1; read back as (v / 255)^2."""
    values = np.clip(np.nan_to_num(np.asarray(weights, dtype=np.float64)), 0.0, 1.0)
    return np.rint(255 * np.sqrt(values)).astype(np.uint8)


def attention_of(codes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """What `attention_bytes` reads back as."""
    return np.asarray((np.asarray(codes, dtype=np.float64) / 255) ** 2)


def share_bytes(shares: npt.ArrayLike) -> Bytes:
    """uint8 v = round(255 p) of probabilities; read back as v / 255."""
    values = np.clip(np.nan_to_num(np.asarray(shares, dtype=np.float64)), 0.0, 1.0)
    return np.rint(255 * values).astype(np.uint8)


def triangle(maps: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """[..., query, key] without the keys after the query: [..., n (n + 1) / 2], query by query. No causal model attends to the others."""
    query, key = np.tril_indices(maps.shape[-1])
    return np.ascontiguousarray(maps[..., query, key])


def spread(n: int, most: int) -> list[int]:
    """At most `most` of 0 .. n - 1, evenly chosen, the first and the last among them (of one: the last)."""
    if n <= most:
        return list(range(n))
    if most < 2:
        return [n - 1]
    return sorted({round(x) for x in np.linspace(0, n - 1, most).tolist()})
