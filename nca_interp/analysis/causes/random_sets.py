"""Random sets of heads that a chosen set is held against, and how likely chance alone does as much.

The null: within every layer the chosen heads are any heads. A *round* is the chosen set and random sets with as many heads in
each layer, no head in two of them; under the null the chosen one is equally likely to be each of them, so its rank among
them is exact. More sets that avoid the chosen heads sharpen the mean, but not the rank: they overlap each other, and where one
head carries everything the chosen set holds it more often than their number says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations, islice, product
from typing import NamedTuple

import numpy as np

from nca_interp.base import stream_seed

Head = tuple[int, int]
"""Layer and head."""
Sets = tuple[frozenset[Head], ...]
EXACT_UP_TO = 2**17
"""Combinations of a set of each model up to which all are counted."""
DRAWS = 99_999


class RandomSets(NamedTuple):
    """Sets with as many heads in each layer as the chosen one, none of its heads among them."""

    round: Sets
    """Disjoint from each other: what the chosen set is ranked among. Empty where a layer has too few heads."""
    sets: Sets
    """All different ones, the round first: what its effect is compared with in the mean."""
    complete: bool
    """Whether there are no others."""


class Ranked(NamedTuple):
    """The summed harm of the chosen sets of several models among all ways to choose a set of each round."""

    p: float
    floor: float
    """The smallest value that p can have with these rounds."""


def random_sets(chosen: Iterable[Head], n_heads: int, n: int) -> RandomSets:
    """At least a round and, where there are so many, `n` sets for `chosen` of a model with `n_heads` heads a layer; every one
    where there are at most `n`. The same for the same heads in every call."""
    layers: dict[int, set[int]] = {}
    for layer, head in sorted(chosen):
        layers.setdefault(layer, set()).add(head)
    others = {layer: sorted(set(range(n_heads)) - heads) for layer, heads in layers.items()}
    sizes = {layer: len(heads) for layer, heads in layers.items()}
    rng = np.random.default_rng(
        stream_seed("random_sets", [(n, h) for n, heads in layers.items() for h in sorted(heads)])
    )
    first = _round(others, sizes, rng)
    if not first:
        return RandomSets((), (), True)
    there = math.prod(math.comb(len(others[layer]), size) for layer, size in sizes.items())
    found = dict.fromkeys(first)
    if there <= n:
        found |= dict.fromkeys(_every(others, sizes))
    while len(found) < min(n, there):
        found |= dict.fromkeys(islice(_round(others, sizes, rng), n - len(found)))
    return RandomSets(first, tuple(found), len(found) == there)


def _round(others: dict[int, list[int]], sizes: dict[int, int], rng: np.random.Generator) -> Sets:
    """As many disjoint sets as the layer with the fewest heads allows."""
    count = min((len(heads) // sizes[layer] for layer, heads in others.items()), default=0)
    mixed = {layer: rng.permutation(heads) for layer, heads in others.items()}
    return tuple(
        frozenset((layer, int(h)) for layer, k in sizes.items() for h in mixed[layer][i * k : (i + 1) * k])
        for i in range(count)
    )


def _every(others: dict[int, list[int]], sizes: dict[int, int]) -> Iterable[frozenset[Head]]:
    parts = [[[(layer, h) for h in some] for some in combinations(others[layer], k)] for layer, k in sizes.items()]
    return (frozenset(head for part in whole for head in part) for whole in product(*parts))


def ranked(chosen: Sequence[float], rounds: Sequence[Sequence[float]]) -> Ranked:
    """One-sided: the share of all ways to take one set of each model's round whose summed harm is at least that of the
    chosen sets. `chosen` [model]: their harm; `rounds` [model][set]: that of the other sets of each round.

    Counted exactly up to EXACT_UP_TO ways, else of DRAWS random ways and the chosen one. ValueError for no model, or harm that is
    not finite.
    """
    options = [np.array([own, *others], dtype=float) for own, others in zip(chosen, rounds, strict=True)]
    if not options or not all(np.isfinite(o).all() for o in options):
        raise ValueError("harm: legal: finite numbers of one model or more")
    observed, ways = float(sum(o[0] for o in options)), math.prod(len(o) for o in options)
    edge = observed - 1e-9 * sum(float(np.abs(o).max()) for o in options)
    if ways <= EXACT_UP_TO:
        sums = np.zeros(1)
        for option in options:
            sums = np.add.outer(sums, option).ravel()
        return Ranked(float((sums >= edge).mean()), 1 / ways)
    rng = np.random.default_rng(0)
    drawn = np.sum([rng.choice(option, DRAWS) for option in options], axis=0)
    return Ranked((1 + int((drawn >= edge).sum())) / (1 + DRAWS), 1 / (1 + DRAWS))


def heads_by_layer(heads: Iterable[Head]) -> str:
    """`1.2 3.0`, in order."""
    return " ".join(f"{layer}.{head}" for layer, head in sorted(heads))
