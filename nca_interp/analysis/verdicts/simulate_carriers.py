"""Simulated studies of known mediation: final losses of every set of {attention, MLP, norms} that is carried over."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from nca_interp.analysis.verdicts.contrasts import Values
from nca_interp.analysis.verdicts.shares import Coalition, Losses, shapley_weights
from nca_interp.config import MODULES

SETS: tuple[Coalition, ...] = tuple(frozenset(s) for n in range(4) for s in itertools.combinations(MODULES, n))
FULL: Coalition = frozenset(MODULES)
NONE: Coalition = frozenset()


def name_of(chosen: Coalition) -> str:
    """The regime that carries over a set."""
    return "+".join(sorted(chosen)) or "scratch"


class Mediation(NamedTuple):
    """What each set brings, in nats, and how much runs differ."""

    attn: float = 0.0
    """Gain of attention alone; of all sets that hold it."""
    mlp: float = 0.0
    both: float = 0.0
    """What attention and MLP bring together in addition."""
    own: float = 0.004
    """Standard deviation of each run."""
    effects: float = 0.0
    """Standard deviation over seeds of the factor by which all gains of a seed differ."""
    level: float = 0.02
    """Standard deviation over seeds of what all runs of a seed share."""

    def gain(self, chosen: Coalition) -> float:
        """v(S)."""
        attn, mlp = "attn" in chosen, "mlp" in chosen
        return self.attn * attn + self.mlp * mlp + self.both * (attn and mlp)

    @property
    def shares(self) -> dict[str, float]:
        """The true Shapley shares."""
        return {m: sum(f * self.gain(s) for s, f in shapley_weights(m, MODULES).items()) for m in MODULES}

    def draw(self, n: int, rng: np.random.Generator) -> Losses:
        """Losses of a study of `n` seeds."""
        rows = []
        for seed in range(n):
            level, factor = 3 + rng.normal(0, self.level), 1 + rng.normal(0, self.effects)
            rows += [(name_of(s), "web", seed, level - factor * self.gain(s) + rng.normal(0, self.own)) for s in SETS]
        frame = pd.DataFrame(rows, columns=["regime", "domain", "seed", "value"])
        return Losses(Values(frame, "val_loss", 0.01), "web", {name_of(s): n for s in SETS})


def sum_of(of_values: Mapping[Coalition, float]) -> dict[str, float]:
    """A sum over v(S) = L(scratch) - L(S), with factors that sum to zero, as a sum of losses."""
    return {name_of(s): -factor for s, factor in of_values.items()}


GAP = sum_of({FULL: 1.0, NONE: -1.0})
