"""Bytes of the player as text in a page: coarser levels, differences from checkpoint to checkpoint, zlib, base64; and a budget of it.

player.js reads them back: inflate, add up over the checkpoints, square.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

LEVEL = 8
"""Codes of attention (255 times the square root of a weight) are rounded to multiples of this: 33 levels."""
ATTENTION_ERROR = 0.036
"""Largest difference between a weight and what the page shows of it: the square root is off by at most 4.5 / 255. At a weight of 0.01 it
is 0.004."""
COUNTS = (60, 30, 15, 8, 4)
"""Checkpoints of a stage at which patterns are kept: the most with which the first heads fit."""
FIRST_HEADS = 4


def packed(values: np.ndarray) -> str:
    """uint8 values as text: zlib, base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values, dtype=np.uint8).tobytes(), 9)).decode()


def packed_changes(values: np.ndarray) -> str:
    """uint8 values [checkpoint, ...] as text, each checkpoint as its difference from the one before, modulo 256."""
    changes = values.copy()
    changes[1:] = values[1:] - values[:-1]
    return packed(changes)


def levels(codes: np.ndarray) -> np.ndarray:
    """uint8 codes of attention as uint8 levels 0 to 32; a level v reads back as (8 v / 255)^2, at most 1."""
    return np.rint(np.asarray(codes, dtype=np.float64) / LEVEL).astype(np.uint8)


def weights_of(found: np.ndarray) -> np.ndarray:
    """What `levels` read back as."""
    return np.asarray(np.minimum(1.0, (LEVEL * found.astype(np.float64) / 255) ** 2))


def evenly(n: int, most: int) -> list[int]:
    """At most `most` of 0 .. n - 1, evenly chosen, the first and the last among them (of one: the last)."""
    if n <= most:
        return list(range(n))
    if most < 2:
        return [n - 1]
    return sorted({round(x) for x in np.linspace(0, n - 1, most).tolist()})


class Pattern(NamedTuple):
    """One head in one stage of a model."""

    at: list[int]
    """Checkpoints of the stage, by their place among the shown ones."""
    data: str


Head = tuple[int, int]
Codes = Callable[[int, Head], np.ndarray]
"""function(stage, head) -> codes [checkpoint, ...]."""


def fit(
    stages: Sequence[int], ranked: Iterable[Head], codes: Codes, first: int, allowance: int
) -> dict[tuple[int, Head], Pattern]:
    """Patterns of `stages` (each so many checkpoints) that fit into `allowance` characters: of every head the last checkpoint, then all
    of COUNTS checkpoints, heads in the order `ranked`, the stages before number `first` before the others."""
    heads, found, left = list(ranked), dict[tuple[int, Head], Pattern](), allowance
    groups = (range(first), range(first, len(stages)))

    @cache
    def place(stage: int, head: Head, most: int) -> Pattern:
        n = stages[stage]
        at = evenly(n, most)
        return Pattern(at, packed_changes(levels(codes(stage, head)[at])))

    for head in heads:  # two fifths for the ends of all stages at most
        for stage in range(len(stages)):
            one = place(stage, head, 1)
            if allowance - left + len(one.data) <= 0.4 * allowance:
                found[stage, head] = one
                left -= len(one.data)
    trial = [(stage, head) for head in heads[:FIRST_HEADS] for stage in groups[0]]
    count = next((c for c in COUNTS if sum(len(place(s, h, c).data) for s, h in trial) <= left), COUNTS[-1])
    for group in groups:
        for head in heads:
            for stage in group:
                whole, before = place(stage, head, count), found.get((stage, head))
                more = len(whole.data) - (len(before.data) if before else 0)
                if more <= left:
                    found[stage, head] = whole
                    left -= more
    return found


def linear(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 codes 0 to 254 of values between `low` and `high`, 255 for NaN: read back at most (high - low) / 508 off."""
    span = (high - low) or 1.0
    codes = np.rint(np.clip((values - low) / span, 0, 1) * 254)
    return np.asarray(np.where(np.isnan(values), 255, codes), dtype=np.uint8)


def number(value: Any, digits: int = 4) -> float | None:
    """A float of so many significant digits; None for what is none."""
    return None if value is None or not np.isfinite(value) else float(f"{float(value):.{digits}g}")
