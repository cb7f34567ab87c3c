"""When a curve over training passes a level: what a few checkpoints can say, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
State = Literal["reached", "from start", "never", "unconfirmed"]
STAYS = 2
"""Checkpoints in a row that must be at the level."""


class Crossing(NamedTuple):
    """Between which two checkpoints a level was reached, as indices; None where the curve does not say."""

    state: State
    """reached: interval-censored, after `after` and by `by`. from start: left-censored. never: right-censored after the last.
    unconfirmed: reached at the last checkpoint alone, right-censored after the one before."""
    after: int | None
    by: int | None


def smoothed(values: Sequence[float] | Floats) -> Floats:
    """Running median of three, both ends as they are: one outlier vanishes, a step stays where it is."""
    array = np.asarray(values, dtype=float)
    out = array.copy()
    if len(array) > 2:
        out[1:-1] = np.median(np.stack([array[:-2], array[1:-1], array[2:]]), axis=0)
    return out


def crossing(values: Sequence[float] | Floats, level: float) -> Crossing:
    """The first checkpoint at which the smoothed curve is at or above `level` and stays so for STAYS checkpoints.

    `values`: one or more finite numbers in the order of training. Falling back later does not undo it.
    """
    array = smoothed(values)
    if not len(array) or not np.isfinite(array).all():
        raise ValueError(f"values: {list(array)}; legal: one finite number or more")
    above, last = array >= level, len(array) - 1
    for index in range(len(array) - STAYS + 1):
        if above[index : index + STAYS].all():
            return Crossing("reached", index - 1, index) if index else Crossing("from start", None, 0)
    if above[last]:
        return Crossing("unconfirmed", last - 1 if last else None, None)
    return Crossing("never", last, None)
