"""Do the same heads carry two things? Rank correlation of what losing each head costs, with a permutation test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

PERMUTATIONS = 9999
AT_ONCE = 1000
"""Permutations that exist at a time."""


class Load(NamedTuple):
    """Do the same heads carry two things?"""

    rho: float
    """Spearman correlation of the harm that losing each head does; NaN where either is the same for all heads."""
    p: float
    """Two-sided, by permutation of the heads."""
    n: int


def cross_load(a: Sequence[float], b: Sequence[float], permutations: int = PERMUTATIONS, seed: int = 0) -> Load:
    """Spearman correlation over heads of two effects (of two metrics, or of one metric on two checkpoints whose heads
    correspond), both signed so that more is more harm. p = (1 + #{|permuted| >= |rho|}) / (1 + permutations)."""
    from scipy.stats import rankdata

    if len(a) != len(b) or len(a) < 3:
        raise ValueError(f"cross_load: {len(a)} and {len(b)} heads; legal: equally many, at least 3")
    x, y = (rankdata(v) - (len(v) + 1) / 2 for v in (a, b))
    size = math.sqrt(float((x @ x) * (y @ y)))
    if size == 0:
        return Load(math.nan, math.nan, len(a))
    rho, rng = float(x @ y) / size, np.random.default_rng(seed)
    beaten = 0
    for part in range(0, permutations, AT_ONCE):
        shuffled = rng.permuted(np.tile(y, (min(AT_ONCE, permutations - part), 1)), axis=1)
        beaten += int((np.abs(shuffled @ x) / size >= abs(rho) - 1e-12).sum())
    return Load(rho, (1 + beaten) / (1 + permutations), len(a))


def checkpoint_load(a: pd.DataFrame, b: pd.DataFrame, metric: str, other: str | None = None) -> Load:
    """`cross_load` of two tables of `causes`: `metric` in a against `other` (default the same metric) in b.

    Heads correspond by index, which means something only where the second model's weights come from the first's.
    Raises ValueError where a table lacks the metric or the models have different heads.
    """
    parts = []
    for frame, name in ((a, metric), (b, other or metric)):
        heads = frame[(frame.probe == "ablation") & (frame.metric == name)].sort_values(["layer", "head"])
        if heads.empty:
            raise ValueError(
                f"metric: {name!r} is not in the table; legal: {', '.join(sorted(set(frame.metric) - {''}))}"
            )
        parts.append(heads)
    places = [list(zip(p.layer, p["head"], strict=True)) for p in parts]
    if places[0] != places[1]:
        raise ValueError("the two models do not have the same heads")
    first, second = ([-float(rank) for rank in p["rank"]] for p in parts)
    return cross_load(first, second)
