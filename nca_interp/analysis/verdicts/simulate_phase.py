"""Phase diagrams of known truth, seeded by the rule that seeds a real one: how often a sign is false, how often one is found."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from nca_interp.analysis.verdicts.sequential import Looks, Open, Standing, most_doubtful, standing
from nca_interp.analysis.verdicts.statistics import holm, t_interval

SHARE = 3
"""Cells that have one scratch arm, so that their differences are correlated by a half."""


class Truth(NamedTuple):
    """What a simulated phase is like."""

    effects: tuple[float, ...]
    """Of each cell, in standard deviations of a paired difference."""
    looks: Looks
    seeds: int
    """That the budget pays in all cells together, the first seeds included."""
    tails: Literal["normal", "t3"] = "normal"
    """Distribution of the runs' losses."""
    reach: bool = True
    """Whether cells within reach come first, as they do; else the most doubtful come first whatever their reach."""
    margin: float = 1e-9
    """Within which a cell is negligible; nearly 0, so that cells go on."""


class Ended(NamedTuple):
    """How one phase ended."""

    standings: list[Standing]
    naive: list[bool]
    """Whether the ordinary 95 % interval had excluded 0 at one of the looks that the cell had."""

    @property
    def family(self) -> list[bool]:
        """Which cells have a sign with p corrected for all cells together."""
        return [p < 0.05 for p in holm([one.p for one in self.standings])]


def differences(truth: Truth, rng: np.random.Generator) -> np.ndarray:
    """[cell, seed] of standard deviation 1: each treated run against the scratch run of its group."""
    n = len(truth.effects)

    def draw(rows: int) -> np.ndarray:
        shape = (rows, truth.looks.last)
        return rng.standard_normal(shape) if truth.tails == "normal" else rng.standard_t(3, shape) / np.sqrt(3)

    scratch = draw(-(-n // SHARE))[np.arange(n) // SHARE]
    found: np.ndarray = (draw(n) - scratch) / np.sqrt(2) + np.array(truth.effects)[:, None]
    return found


def simulate(truth: Truth, rng: np.random.Generator) -> Ended:
    """One phase: the first seeds of all cells, then one more wherever the sign is least certain, until the seeds are spent."""
    values = differences(truth, rng)
    n = np.full(len(values), truth.looks.first)
    now = [standing(list(row[: truth.looks.first]), truth.looks, truth.margin) for row in values]
    naive = [_ordinary(row[: truth.looks.first]) for row in values]
    left = truth.seeds - int(n.sum())
    while left > 0:
        open_ = [i for i, one in enumerate(now) if one.sign == "uncertain" and n[i] < truth.looks.last]
        order = most_doubtful([Open(now[i].doubt, 1.0, reach=now[i].reach or not truth.reach) for i in open_], left)
        if not order:
            break
        i = open_[order[0]]
        n[i] += 1
        left -= 1
        now[i] = standing(list(values[i, : n[i]]), truth.looks, truth.margin)
        naive[i] |= _ordinary(values[i, : n[i]])
    return Ended(now, naive)


def _ordinary(values: np.ndarray) -> bool:
    found = t_interval(values)
    return found.low > 0 or found.high < 0
