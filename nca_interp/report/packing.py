"""Bytes of the player (codes.py) as text in a page: whole or as differences from checkpoint to checkpoint, zlib, base64; and a budget of it.

player.js reads them back: inflate, add up over the checkpoints where they are differences, square.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from nca_interp.codes import changes, evenly

COUNTS = (60, 30, 15, 8, 4)
"""Checkpoints of a stage at which patterns are kept: the most with which the first heads fit."""
FIRST_HEADS = 4
ENDS, LEADING = 0.4, 0.9
"""Shares of the allowance up to which the last checkpoints, and all checkpoints, of the leading models go."""


def packed(values: np.ndarray) -> str:
    """uint8 values as text: zlib, base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values, dtype=np.uint8).tobytes(), 9)).decode()


class Pattern(NamedTuple):
    """One head in one stage of a model."""

    at: list[int]
    """Checkpoints of the stage, by their place among the shown ones."""
    data: str
    changed: bool
    """Whether each checkpoint stands as its `changes` from the one before: what is shorter."""

    @property
    def size(self) -> int:
        """Characters in a page."""
        return len(self.data) + 40 + 3 * len(self.at)


Head = tuple[int, int]
Codes = Callable[[int, Head], np.ndarray]
"""function(stage, head) -> bytes [checkpoint, ...] as they stand in the page."""


def fit(
    stages: Sequence[int], ranked: Iterable[Head], codes: Codes, first: int, allowance: int
) -> dict[tuple[int, Head], Pattern]:
    """Patterns of `stages` (each so many checkpoints) that fit into `allowance` characters, heads in the order `ranked`.

    In turn, each as far as its part of the allowance goes: of the `first` stages the last checkpoint of every head, then all of COUNTS
    checkpoints; of the other stages the last checkpoint, then all; then what is still missing of the first.
    """
    heads, found, spent = list(ranked), dict[tuple[int, Head], Pattern](), 0

    @cache
    def place(stage: int, head: Head, most: int) -> Pattern:
        at = evenly(stages[stage], most)
        found = codes(stage, head)[at]
        whole, changed = packed(found), packed(changes(found))
        return Pattern(at, min(whole, changed, key=len), len(changed) < len(whole))

    def take(group: range, most: int, limit: float) -> None:
        nonlocal spent
        tried = [(stage, head) for head in heads for stage in group]
        with ThreadPoolExecutor() as pool:  # zlib works without the interpreter's lock
            patterns = pool.map(lambda one: place(*one, most), tried)
        for key, one in zip(tried, patterns, strict=True):
            before = found.get(key)
            more = one.size - (before.size if before else 0)
            if (before is None or len(before.at) < len(one.at)) and spent + more <= limit:
                found[key] = one
                spent += more

    leading, others = range(min(first, len(stages))), range(min(first, len(stages)), len(stages))
    take(leading, 1, ENDS * allowance)
    trial = [(stage, head) for head in heads[:FIRST_HEADS] for stage in leading]
    room = allowance - spent
    count = next((c for c in COUNTS if sum(place(s, h, c).size for s, h in trial) <= room), COUNTS[-1])
    take(leading, count, (LEADING if others else 1.0) * allowance)
    take(others, 1, allowance)
    take(others, count, allowance)
    take(leading, count, allowance)
    return found


def number(value: Any, digits: int = 4) -> float | None:
    """A float of so many significant digits; None for what is none."""
    return None if value is None or not np.isfinite(value) else float(f"{float(value):.{digits}g}")
