"""Sums of final losses over regimes: exact Shapley shares, interactions, and the share that one sum is of another.

A value v(S) of a set of modules S is a loss of scratch minus that of the regime which carries over S alone, so each share is a sum
of losses of runs of one seed: a value a seed, and an interval over seeds and validation documents, as every contrast has.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from nca_interp.analysis.verdicts.contrasts import Values
from nca_interp.analysis.verdicts.crossed import Items, interval, paired, with_documents
from nca_interp.analysis.verdicts.statistics import ALPHA, Interval

Coalition = frozenset[str]
Weights = Mapping[str, float]
"""Regime -> factor of its loss."""


def shapley_weights(player: str, players: Sequence[str]) -> dict[Coalition, float]:
    """The Shapley share of a player as a sum over coalitions S of factor x v(S) (Shapley 1953): exact, for any number of players."""
    n, found = len(players), {}
    others = [p for p in players if p != player]
    for size in range(n):
        factor = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
        for chosen in map(frozenset, itertools.combinations(others, size)):
            found[chosen | {player}] = factor
            found[chosen] = -factor
    return found


def interaction_weights(pair: Iterable[str], players: Iterable[str]) -> dict[Coalition, float]:
    """N of both - N of one - N of the other, as a sum over v: positive where each can stand in for the other, negative where each
    needs the other."""
    whole, both = frozenset(players), frozenset(pair)
    return {whole: -1.0, whole - both: -1.0, **{whole - {one}: 1.0 for one in both}}


def fieller(top: np.ndarray, bottom: np.ndarray, level: float = 1 - ALPHA) -> Interval:
    """Ratio of the means of paired values with Fieller's interval (1954), exact for normal values; without bounds (NaN) where the mean
    of `bottom` is not certainly other than zero, or of one pair."""
    n, a, b = len(top), float(np.mean(top)), float(np.mean(bottom))
    if n < 2 or b == 0:
        return Interval(a / b if b else math.nan, math.nan, math.nan)
    t2 = float(stats.t.ppf((1 + level) / 2, n - 1)) ** 2 / n
    (aa, ab), (_, bb) = np.cov(top, bottom)
    square, middle, rest = b * b - t2 * bb, a * b - t2 * ab, a * a - t2 * aa
    if square <= 0:
        return Interval(a / b, math.nan, math.nan)
    half = math.sqrt(max(0.0, middle * middle - square * rest))
    return Interval(a / b, (middle - half) / square, (middle + half) / square)


class Losses:
    """Final losses of one domain by regime and seed, and sums of them."""

    def __init__(self, values: Values, domain: str, planned: Mapping[str, int]) -> None:
        rows = values.rows[values.rows.domain == domain]
        rows = rows[np.isfinite(rows.value.astype(float))]
        kept = zip(rows.regime, rows.seed.astype(int), rows.value.astype(float), strict=True)
        self.at = {(r, s): v for r, s, v in kept if s < planned.get(r, 0)}
        self.domain, self.items = domain, values.items

    def seeds(self, *sums: Weights) -> list[int]:
        """Seeds that all regimes of these sums have."""
        names = {name for weights in sums for name in weights}
        own = [{s for r, s in self.at if r == name} for name in names]
        return sorted(set.intersection(*own)) if own else []

    def by_seed(self, weights: Weights, seeds: Sequence[int]) -> np.ndarray:
        """The sum of factor x loss, a value a seed."""
        return np.array([sum(f * self.at[name, s] for name, f in weights.items()) for s in seeds])

    def estimate(self, weights: Weights, seeds: Sequence[int]) -> Interval:
        """Its mean with the interval over seeds, and over validation documents where every run kept them."""
        found = paired(self.by_seed(weights, seeds))
        if (items := self._items(weights, seeds)) and len(seeds) > 1:
            found = with_documents(found, items)
        return interval(found) if found.known else Interval(found.effect, math.nan, math.nan)

    def _items(self, weights: Weights, seeds: Sequence[int]) -> list[Items]:
        found = []
        for seed in seeds:
            own = {name: self.items.get((name, self.domain, seed)) for name in weights}
            kept = [(weights[name], one) for name, one in own.items() if one is not None]
            if len(kept) < len(weights) or any(not np.array_equal(one[1], kept[0][1][1]) for _, one in kept):
                return []
            total = np.sum([factor * one[0] for factor, one in kept], axis=0)
            found.append(Items(total, np.zeros_like(total), kept[0][1][1]))
        alike = all(np.array_equal(one.weights, found[0].weights) for one in found)
        return found if alike else []
