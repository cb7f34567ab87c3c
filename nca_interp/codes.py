"""Small numbers as bytes: attention weights, probabilities and scores, how they are quantised and thinned, and how far what is read back
lies from them. What the player keeps beside a checkpoint and what a page of a report holds are both made of these."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
ATTENTION_ERROR = 0.00393
"""Largest difference between an attention weight and what is read back from its byte: sqrt is rounded to 1 / 510, so 1 / 255 at
most, less at small weights (0.0004 at 0.01)."""
SHARE_ERROR = 1 / 510
"""The same of a probability."""
LEVEL = 8
"""Bytes of attention are rounded to multiples of this in a page: 33 levels."""
LEVEL_ERROR = 0.036
"""Largest difference between a weight and what is read back from its level: the square root is off by at most 4.5 / 255. At a weight of
0.01 it is 0.004."""


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


def levels(codes: npt.ArrayLike) -> Bytes:
    """uint8 codes of attention as uint8 levels 0 to 32; a level v reads back as (8 v / 255)^2, at most 1."""
    return np.rint(np.asarray(codes, dtype=np.float64) / LEVEL).astype(np.uint8)


def weights_of(found: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """What `levels` read back as."""
    return np.asarray(np.minimum(1.0, (LEVEL * np.asarray(found, dtype=np.float64) / 255) ** 2))


def linear(values: npt.NDArray[np.floating], low: float, high: float) -> Bytes:
    """uint8 codes 0 to 254 of values between `low` and `high`, 255 for NaN: read back at most (high - low) / 508 off."""
    span = (high - low) or 1.0
    codes = np.rint(np.clip((values - low) / span, 0, 1) * 254)
    return np.asarray(np.where(np.isnan(values), 255, codes), dtype=np.uint8)


def changes(values: Bytes) -> Bytes:
    """uint8 values [checkpoint, ...], each checkpoint as its difference from the one before, modulo 256."""
    found = values.copy()
    found[1:] = values[1:] - values[:-1]
    return found


def triangle(maps: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """[..., query, key] without the keys after the query: [..., n (n + 1) / 2], query by query. No causal model attends to the others."""
    query, key = np.tril_indices(maps.shape[-1])
    return np.ascontiguousarray(maps[..., query, key])


def evenly(n: int, most: int) -> list[int]:
    """At most `most` of 0 .. n - 1, evenly chosen, the first and the last among them (of one: the last)."""
    if n <= most:
        return list(range(n))
    if most < 2:
        return [n - 1]
    return sorted({round(x) for x in np.linspace(0, n - 1, most).tolist()})
