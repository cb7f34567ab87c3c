"""Looking again after each further seed, without paying for it in errors: tests that hold over all looks together.

A paired t-test repeated after seeds `first`, `first` + 1, ... `last` at 5 % each says a false sign in far more than 5 % of cases.
Here all looks have one smaller level, chosen so that over all of them together a sign is false in 5 % (Pocock 1977, with t instead
of normal quantiles; the t of all looks have one joint distribution whatever the spread is, so it is found by drawing). The bound
holds for every rule by which seeding is stopped or goes elsewhere, as long as seeds are taken in their order: a sign that is false
when one stops is false at one of the looks. Assumes differences of seeds that are independent and normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from nca_interp.analysis.verdicts.statistics import ALPHA, Interval, t_interval

DRAWS = 2**18
"""Studies without an effect that the level of a look is found from."""
ENOUGH = 200
"""Draws in a tail below which its quantile is not trusted, but the level divided by the number of looks, which is never too large."""
DULL = 0.2
"""Two-sided p above which nobody asks how often it is reached (it is set to 1 in the drawn studies)."""
Sign = Literal["helps", "harms", "negligible", "uncertain"]


class Looks(NamedTuple):
    """After which seeds one looks."""

    first: int
    """Seeds at the first look, at least 2."""
    last: int
    """Seeds at the last one."""

    @property
    def n(self) -> int:
        """Number of looks."""
        return self.last - self.first + 1


class Standing(NamedTuple):
    """What the seeds so far say of one comparison, treated minus control."""

    n: int
    effect: float
    """Mean difference; NaN without a seed."""
    low: float
    high: float
    """95 % over all looks together; NaN before the first look."""
    p: float
    """Of no effect, over all looks together; 1 before the first look."""
    sign: Sign
    doubt: float
    """Half of the two-sided p of the t-test of these seeds alone, 0 to 0.5: by which cells are put in order, no error rate."""
    reach: bool
    """Whether the last look would show a sign if mean and spread stayed what they are."""


def standing(differences: Sequence[float], looks: Looks, margin: float) -> Standing:
    """Judge the differences of losses of the seeds so far, in their order; those beyond the last look do not count.

    `helps` (lower loss) or `harms`: the interval excludes 0. `negligible`: it lies within plus and minus `margin` and holds 0.
    """
    values = list(differences[: looks.last])
    n = len(values)
    if n < 2:
        return Standing(n, values[0] if values else math.nan, math.nan, math.nan, 1.0, "uncertain", 0.5, False)
    nominal = _two_sided(values)
    reach = _reach(values, looks)
    if n < looks.first:
        return Standing(n, float(np.mean(values)), math.nan, math.nan, 1.0, "uncertain", nominal / 2, reach)
    found = interval(values, looks)
    return Standing(n, *found, spent(nominal, looks), _sign(found, margin), nominal / 2, reach)


def _reach(values: Sequence[float], looks: Looks) -> bool:
    half = float(stats.t.isf(level(looks) / 2, looks.last - 1)) * float(np.std(values, ddof=1)) / math.sqrt(looks.last)
    return 0 < half < abs(float(np.mean(values)))


def _sign(found: Interval, margin: float) -> Sign:
    if found.high < 0:
        return "helps"
    if found.low > 0:
        return "harms"
    return "negligible" if -margin < found.low and found.high < margin else "uncertain"


def _two_sided(values: Sequence[float]) -> float:
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    if error == 0.0:  # seeds without any spread: nothing to test by
        return 1.0
    return float(2 * stats.t.sf(abs(float(np.mean(values))) / error, len(values) - 1))


def interval(differences: Sequence[float], looks: Looks, alpha: float = ALPHA) -> Interval:
    """Mean with an interval that holds the truth at all looks together with probability 1 - alpha. Seeds without any spread
    give no interval (NaN)."""
    found = t_interval(differences, 1 - level(looks, alpha))
    return found if found.low < found.high else Interval(found.value, math.nan, math.nan)


@lru_cache
def level(looks: Looks, alpha: float = ALPHA) -> float:
    """Two-sided level of each look at which all of them together have the error `alpha`."""
    least = _least(looks)
    safe = alpha / looks.n
    return max(safe, float(np.quantile(least, alpha))) if alpha * len(least) >= ENOUGH else safe


def spent(nominal: float, looks: Looks) -> float:
    """The p over all looks together of a look whose own two-sided p is `nominal`."""
    if nominal > DULL:
        return min(1.0, looks.n * nominal)
    least = _least(looks)
    drawn = (1 + int(np.searchsorted(least, nominal, side="right"))) / (1 + len(least))
    return min(1.0, looks.n * nominal, drawn if drawn * len(least) >= ENOUGH else 1.0)


@lru_cache
def _least(looks: Looks) -> np.ndarray:
    """Ascending: the smallest two-sided p of all looks, of `DRAWS` studies of normal differences without an effect."""
    values = np.random.default_rng(0).standard_normal((DRAWS, looks.last))
    n = np.arange(1, looks.last + 1)
    total, squares = values.cumsum(1), (values**2).cumsum(1)
    seen = slice(looks.first - 1, None)
    mean = (total / n)[:, seen]
    variance = (squares[:, seen] - n[seen] * mean**2) / (n[seen] - 1)
    t = np.abs(mean) / np.sqrt(variance / n[seen])
    least = np.ones(DRAWS)
    for look, df in enumerate(n[seen] - 1):
        near = np.flatnonzero(t[:, look] > stats.t.isf(DULL / 2, df))
        least[near] = np.minimum(least[near], 2 * stats.t.sf(t[near, look], df))
    return np.sort(least)


class Open(NamedTuple):
    """A comparison that may get one more seed."""

    doubt: float
    """See `Standing`."""
    cost: float
    """Of that seed, in any unit: what is trained already costs nothing."""
    begun: bool = False
    """Whether something of that seed has been trained, but not all."""
    reach: bool = True
    """See `Standing`."""


def most_doubtful(cells: Sequence[Open], left: float) -> list[int]:
    """Which comparisons deserve the next seed, best first: those that were begun, then those whose sign is within reach of the last
    look, then the others; among each, most doubt for its cost. A seed that costs more than is `left` is left out."""
    affordable = [i for i, cell in enumerate(cells) if cell.cost <= left]
    return sorted(
        affordable,
        key=lambda i: (not cells[i].begun, not cells[i].reach, -cells[i].doubt / max(cells[i].cost, 1e-300), i),
    )
