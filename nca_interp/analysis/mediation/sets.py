"""Random sets of heads that a chosen set is ranked among: exact, whether they share heads with it or not.

The null: within every layer the chosen heads are any heads. Where so many disjoint sets fit into the layers, they are parts of one
random division of the heads, of which the chosen set is another; else they are drawn without replacement from all other sets of as
many heads in each layer, and may share heads with the chosen one and with each other. Either way the chosen set is, under the null,
equally likely to be each of them, which it would not be among sets that overlap each other but all avoid it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import combinations, product

import numpy as np

from nca_interp.analysis.causes.random_sets import Head, random_sets
from nca_interp.base import stream_seed

LISTED = 20_000
"""Sets of a profile up to which all of them are listed."""


def matched_sets(chosen: Iterable[Head], n_heads: int, n: int) -> tuple[frozenset[Head], ...]:
    """`n` sets with as many heads in each layer as `chosen`, of a model with `n_heads` heads a layer, none of them `chosen` itself;
    fewer where there are not so many. The same for the same heads in every call."""
    own = frozenset(chosen)
    if not own:
        return ()
    round_ = random_sets(own, n_heads, 1).round
    if len(round_) >= n:
        return round_[:n]
    sizes = {layer: sum(at == layer for at, _ in own) for layer, _ in sorted(own)}
    rng = np.random.default_rng(stream_seed("matched_sets", sorted(own), n_heads))
    there = math.prod(math.comb(n_heads, size) for size in sizes.values())
    if there <= max(LISTED, n + 1):
        every = [frozenset(h for part in whole for h in part) for whole in product(*(
            [tuple((layer, h) for h in some) for some in combinations(range(n_heads), size)] for layer, size in sizes.items()
        ))]  # fmt: skip
        others = [one for one in every if one != own]
        return tuple(others[i] for i in rng.permutation(len(others))[:n])
    found: dict[frozenset[Head], None] = {}
    while len(found) < n:
        drawn = frozenset(
            (layer, int(h)) for layer, size in sizes.items() for h in rng.choice(n_heads, size, replace=False)
        )
        if drawn != own:
            found[drawn] = None
    return tuple(found)
