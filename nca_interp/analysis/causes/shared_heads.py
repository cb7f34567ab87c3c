"""Do the same heads carry two things? Rank correlations over the heads of a layer, with permutation tests within layers and models."""

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
    """Spearman correlation, within layers, of the harm that losing each head does; NaN where either is the same for all heads of
    every layer."""
    p: float
    """Two-sided, by permutation of the heads within layers."""
    n: int


def cross_load(
    a: Sequence[float],
    b: Sequence[float],
    layers: Sequence[int] | np.ndarray | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Load:
    """Rank correlation over heads of two effects (of two metrics, or of one metric on two checkpoints whose heads
    correspond), both signed so that more is more harm; `layers` of the heads: see `associate`."""
    if len(a) != len(b) or len(a) < 3:
        raise ValueError(f"cross_load: {len(a)} and {len(b)} heads; legal: equally many, at least 3")
    pair = (np.asarray(a, dtype=float)[:, None], np.asarray(b, dtype=float)[:, None])
    found = associate([pair], None if layers is None else [np.asarray(layers)], permutations, seed)
    return Load(float(found.rho[0, 0]), float(found.p[0, 0]), len(a))


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
    return cross_load(first, second, parts[0].layer.to_numpy(int))


class Association(NamedTuple):
    """Spearman correlation, within layers, over the heads of each model, and what the models say together."""

    rhos: np.ndarray
    """[model, x, y]; NaN where a variable is the same for all heads or missing."""
    rho: np.ndarray
    """[x, y]: mean over the models that have one."""
    low: np.ndarray
    high: np.ndarray
    """Two models or more: 95 % t-interval over models; one: Bonett and Wright's (2000) over its heads."""
    p: np.ndarray
    """Two-sided, by permutation of the heads within the layers of each model."""


def associate(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    layers: Sequence[np.ndarray] | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Association:
    """Every column of x against every column of y over heads: `pairs` holds (x [head, columns], y [head, columns]) of each
    model, `layers` the layer [head] of its heads (None: all of one).

    Ranks are those within a layer: heads of one layer resemble each other, so that two scores which differ by layer alone
    correlate over all heads of every model, and say nothing about heads.
    p = (1 + #{|mean rho of permuted heads| >= |mean rho|}) / (1 + permutations); all columns share the permutations.
    Raises ValueError for no model or one of fewer than 3 heads.
    """
    if not pairs or min(len(x) for x, _ in pairs) < 3:
        raise ValueError(f"associate: {[len(x) for x, _ in pairs]} heads; legal: at least one model, at least 3 heads")
    of = [np.zeros(len(x), dtype=int) for x, _ in pairs] if layers is None else layers
    standard = [(_standard_ranks(x, own), _standard_ranks(y, own)) for (x, y), own in zip(pairs, of, strict=True)]
    rhos = np.stack([x.T @ y for x, y in standard]).round(12)
    known = np.isfinite(rhos).sum(0)
    rho = np.where(known > 0, np.nansum(rhos, 0) / np.maximum(known, 1), math.nan).round(12)
    beaten, rng = np.zeros(rho.shape), np.random.default_rng(seed)
    for start in range(0, permutations, AT_ONCE):
        count = min(AT_ONCE, permutations - start)
        drawn = np.zeros((count, *rho.shape))
        for (x, y), own in zip(standard, of, strict=True):
            drawn += np.nan_to_num(x.T @ y[_within(own, count, rng)])
        beaten += (np.abs(drawn) / np.maximum(known, 1) >= np.abs(rho) - 1e-9).sum(0)
    p = np.where(known > 0, (1 + beaten) / (1 + permutations), math.nan)
    free = len(of[0]) - len(np.unique(of[0])) + 1
    return Association(rhos, rho, *_association_interval(rhos, rho, free), p)


def _within(layers: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random orders [count, head] that leave every head in its layer."""
    order = np.empty((count, len(layers)), dtype=int)
    for layer in np.unique(layers):
        inside = np.flatnonzero(layers == layer)
        order[:, inside] = rng.permuted(np.tile(inside, (count, 1)), axis=1)
    return order


def _standard_ranks(values: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """Ranks of each column within layers, centred there and of length 1; NaN for a column without variation or with gaps."""
    from scipy.stats import rankdata

    centred = np.empty(np.shape(values))
    for layer in np.unique(layers):
        inside = layers == layer
        ranks = rankdata(values[inside], axis=0, nan_policy="propagate") / (1 + inside.sum())
        centred[inside] = ranks - ranks.mean(0)
    size = np.sqrt((centred**2).sum(0))
    return centred / np.where(size > 1e-9, size, math.nan)


def _association_interval(rhos: np.ndarray, rho: np.ndarray, free: int) -> tuple[np.ndarray, np.ndarray]:
    from scipy.stats import t

    n = np.isfinite(rhos).sum(0)
    spread = np.sqrt(np.nansum((rhos - rho) ** 2, 0) / np.maximum(n - 1, 1))
    half = t.ppf(0.975, np.maximum(n - 1, 1)) * spread / np.sqrt(np.maximum(n, 1))
    error = 1.959964 * np.sqrt((1 + rho**2 / 2) / (free - 3)) if free > 3 else np.full(rho.shape, math.nan)
    with np.errstate(divide="ignore"):
        z = np.arctanh(rho)
    low, high = np.where(n >= 2, rho - half, np.tanh(z - error)), np.where(n >= 2, rho + half, np.tanh(z + error))
    return np.clip(low, -1, 1), np.clip(high, -1, 1)
