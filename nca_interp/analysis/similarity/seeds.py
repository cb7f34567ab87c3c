"""Do two regimes differ more than two seeds of one regime? CKA across both against the seed-to-seed ceiling.

Both sides of the comparison come from two seeds, so that shared initial weights and a shared order of the data cannot make the
regimes look alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

COLUMNS = [
    "domain", "regime_a", "regime_b", "layer", "across", "ceiling", "effect", "low", "high", "margin", "n", "verdict", "sentence",
]  # fmt: skip
MARGIN = 0.05
"""Difference in CKA below which regimes count as alike as seeds are."""
FEWEST = 3
"""Seeds that an interval needs: with one left out there must be a pair."""
ALIKE, DIFFER, MORE = "as alike as seeds", "differ more than seeds", "more alike than seeds"
Vectors = dict[tuple[str, int, str, int], np.ndarray]


def alike(similarity: pd.DataFrame) -> pd.DataFrame:
    """One row (COLUMNS) a domain, pair of regimes and layer, and one without a layer: the mean over all but the embedding.

    `across`: mean CKA of the two regimes over pairs of different seeds; `ceiling`: mean of the two regimes' own seed pairs;
    `effect`: their difference, with the 95 % t-interval of the jackknife over seeds (a pair belongs to two seeds, so that
    pairs are no independent units). `low` and `high` are NaN below FEWEST seeds; regimes with fewer than two seeds in
    common have no row.
    """
    ends = similarity[similarity.comparison.isin(["seeds", "across"]) & (similarity.layer_a == similarity.layer_b)]
    rows = [row for domain, part in ends.groupby("domain", sort=False) for row in _domain(str(domain), part)]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"layer": "Int64"})


def _domain(domain: str, ends: pd.DataFrame) -> Iterator[dict[str, Any]]:
    found: Vectors = {}
    for key, part in ends.groupby(["regime_a", "seed_a", "regime_b", "seed_b"], sort=False):
        a, seed_a, b, seed_b = str(key[0]), int(str(key[1])), str(key[2]), int(str(key[3]))
        values = part.sort_values("layer_a").value.to_numpy()
        values = np.append(values, values[1:].mean())
        found[a, seed_a, b, seed_b] = found[b, seed_b, a, seed_a] = values
    for a, b in combinations(sorted({key[0] for key in found}), 2):
        seeds = sorted({k[1] for k in found if k[0] == k[2] == a} & {k[1] for k in found if k[0] == k[2] == b})
        pairs = ((x, s, y, t) for x, y in ((a, a), (a, b), (b, b)) for s in seeds for t in seeds if s != t)
        if len(seeds) >= 2 and found.keys() >= set(pairs):
            yield from _pair(domain, a, b, found, seeds)


def _pair(domain: str, a: str, b: str, found: Vectors, seeds: list[int]) -> Iterator[dict[str, Any]]:
    across, ceiling = _means(a, b, found, seeds)
    half = np.full_like(across, math.nan)
    n = len(seeds)
    if n >= FEWEST:
        without = np.array([np.subtract(*_means(a, b, found, [s for s in seeds if s != out])) for out in seeds])
        error = np.sqrt((n - 1) / n * ((without - without.mean(0)) ** 2).sum(0))
        half = stats.t.ppf(0.975, n - 1) * error
    for index, (value, most, width) in enumerate(zip(across, ceiling, half, strict=True)):
        layer = index if index < len(across) - 1 else None
        effect = value - most
        word = _verdict(effect - width, effect + width)
        yield {
            "domain": domain, "regime_a": a, "regime_b": b, "layer": layer, "across": value, "ceiling": most, "effect": effect,
            "low": effect - width, "high": effect + width, "margin": MARGIN, "n": n, "verdict": word,
            "sentence": _sentence(a, b, value, most, effect, width, n, word) if layer is None else "",
        }  # fmt: skip


def _means(a: str, b: str, found: Vectors, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """[layer] CKA across regimes and seeds, and within the regimes across seeds."""
    pairs = [(s, t) for s in seeds for t in seeds if s != t]
    across = np.mean([found[a, s, b, t] for s, t in pairs], axis=0)
    return across, np.mean([found[r, s, r, t] for r in (a, b) for s, t in pairs], axis=0)


def _verdict(low: float, high: float) -> str:
    if math.isnan(low):
        return f"no verdict (fewer than {FEWEST} seeds)"
    if low > -MARGIN and high < MARGIN:
        return ALIKE
    if high < 0:
        return DIFFER
    return MORE if low > 0 else "inconclusive"


def _sentence(a: str, b: str, value: float, most: float, effect: float, width: float, n: int, word: str) -> str:
    inside = "" if math.isnan(width) else f" [{effect - width:+z.3f}, {effect + width:+z.3f}]"
    told = {ALIKE: f" are {ALIKE}", MORE: f" are {MORE}", DIFFER: f" {DIFFER}"}.get(word, f", {word}")
    return (
        f"{a} and {b}{told}: CKA {value:.3f} across seeds, two seeds of one of them {most:.3f}; difference {effect:+z.3f}{inside}, "
        f"{n} seeds."
    )
