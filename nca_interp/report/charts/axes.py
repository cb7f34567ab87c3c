"""What fits on an axis: points thinned, labels apart, whole ticks."""

from __future__ import annotations

import pandas as pd

LABEL_PIXELS = 14
MAX_POINTS = 160
"""Points a line at most; longer ones are thinned evenly, first and last kept."""


def thin(frame: pd.DataFrame, keys: list[str], x: str, limit: int = MAX_POINTS) -> pd.DataFrame:
    """At most `limit` evenly spaced rows of each group, first and last kept, sorted by `x`."""
    frame = frame.sort_values([*keys, x])
    position = frame.groupby(keys).cumcount()
    size = frame.groupby(keys)[x].transform("size")
    last = (size - 1).clip(lower=1)
    slot = (position * (limit - 1)) // last
    first_of_slot = slot != slot.groupby([frame[k] for k in keys]).shift()
    return frame[(size <= limit) | first_of_slot | (position == size - 1)]


def spread(values: list[float], low: float, high: float, height: int) -> list[float]:
    """Positions near `values` but at least one text line apart within [low, high] on an axis of `height` pixels."""
    gap = (high - low) * LABEL_PIXELS / height
    order = sorted(range(len(values)), key=lambda i: values[i])
    placed: list[float] = []
    for i in order:
        placed.append(max(values[i], placed[-1] + gap) if placed else values[i])
    shift = sum(p - values[i] for p, i in zip(placed, order, strict=True)) / max(len(placed), 1)
    placed = [p - shift for p in placed]
    if placed and placed[0] < low:
        placed = [max(p, low + k * gap) for k, p in enumerate(placed)]
    result = [0.0] * len(values)
    for i, p in zip(order, placed, strict=True):
        result[i] = p
    return result


def whole_ticks(values: pd.Series) -> list[int]:
    """At most nine whole numbers from the least to the greatest, evenly apart: Vega alone repeats "1" at 0.5 and 1 on short axes."""
    if values.empty:
        return []
    low, high = int(values.min()), int(values.max())
    return list(range(low, high + 1, (high - low) // 9 + 1))
