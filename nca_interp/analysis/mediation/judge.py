"""How much of a gain a set of heads mediates, judged over seeds and against matched random sets (docs/mediation.md).

Of every seed: the gain (what full transfer is better than scratch), what of it moves with the set (lost where the set is
re-initialised, kept where it alone is carried over), and what moves with random sets of the same layers. All are signed so that
more is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from nca_interp.analysis.causes.random_sets import ranked
from nca_interp.analysis.causes.top_sets import p_below
from nca_interp.analysis.verdicts.shares import fieller
from nca_interp.analysis.verdicts.statistics import ALPHA, Interval, benjamini_hochberg, holm, t_interval

MEDIATES, NEGLIGIBLE = "mediates", "mediates, negligibly"
NO_MORE, INCONCLUSIVE = "no more than random heads", "inconclusive"
NO_GAIN, ONE_SEED, NO_SEED = "no gain to mediate", "no verdict (one seed)", "no verdict (no seed)"
REMOVES, LEAVES, RAISES = "removes", "leaves", "raises"
CORRECTIONS = {"declared": holm, "exploration": benjamini_hochberg}
"""How the families are corrected."""


@dataclass(frozen=True)
class Question:
    """One set of heads, one way to take it, one measure; values a seed, the seeds of one question in one order."""

    gain: tuple[float, ...]
    """Full transfer against scratch."""
    moved: tuple[float, ...]
    """Of it with the set."""
    random: tuple[tuple[float, ...], ...]
    """Of each seed, with every matched random set."""
    margin: float
    """In the unit of the gain: more than random sets by less than this is no more."""
    family: str = "declared"
    """declared or exploration."""


class Mediation(NamedTuple):
    """What is said of one question; NaN where there is no number."""

    n: int
    gain: Interval
    """Mean over seeds with its 95 % t-interval."""
    moved: Interval
    random: float
    """Mean over seeds and random sets."""
    excess: Interval
    """`moved` less the mean of the random sets of the seed."""
    share: Interval
    """moved / gain with Fieller's interval; NaN where there is no gain to mediate."""
    random_share: float
    sets: int
    """Random sets of the seed with the fewest."""
    p: float
    """One-sided: chance that as many sets, one of each seed's chosen and random ones, move as much."""
    p_floor: float
    """The least that p can be."""
    p_adjusted: float
    p_none: float
    """One-sided: that the excess is the margin or more (t-test)."""
    p_none_adjusted: float
    verdict: str


def judge_mediation(questions: Sequence[Question]) -> list[Mediation]:
    """Judge questions family by family. The verdict is the first that holds:

    1. "no verdict (no seed)", "no verdict (one seed)";
    2. "no gain to mediate": the 95 % interval of the gain holds 0;
    3. "cannot tell without random sets";
    4. "mediates": corrected p below 0.05 and more than random sets; with ", negligibly" where 5 holds too;
    5. "no more than random heads": corrected p of an excess as large as the margin below 0.05;
    6. "cannot tell with ...": so many sets and seeds could not have given a corrected p below 0.05;
    7. "inconclusive".

    Where full transfer is worse than scratch, the same is asked of the harm. ValueError for values that are not finite, and for
    questions whose parts have not the same seeds.
    """
    found = [_numbers(question) for question in questions]
    for family, correct in CORRECTIONS.items():
        mine = [i for i, question in enumerate(questions) if question.family == family and _asked(found[i])]
        more, none = (correct([getattr(found[i], name) for i in mine]) for name in ("p", "p_none"))
        for i, p, p_none in zip(mine, more, none, strict=True):
            found[i] = found[i]._replace(p_adjusted=p, p_none_adjusted=p_none)
        for i in mine:
            found[i] = found[i]._replace(verdict=_verdict(found[i], len(mine)))
    return found


def _asked(found: Mediation) -> bool:
    """Whether a question is one to correct for."""
    return not found.verdict


def _numbers(q: Question) -> Mediation:
    if not len(q.gain) == len(q.moved) == len(q.random):
        raise ValueError(
            f"moved: {len(q.moved)} seeds, gain {len(q.gain)}, random {len(q.random)}; legal: the same seeds"
        )
    gain, moved = np.array(q.gain, dtype=float), np.array(q.moved, dtype=float)
    sets = min((len(values) for values in q.random), default=0)
    if not all(np.isfinite(v).all() for v in (gain, moved, *map(np.asarray, q.random))):
        raise ValueError("gain, moved, random: legal: finite numbers")
    nothing, nan = Interval(math.nan, math.nan, math.nan), math.nan
    if not len(gain):
        return Mediation(0, nothing, nothing, nan, nothing, nothing, nan, sets, nan, nan, nan, nan, nan, NO_SEED)
    whole, own = t_interval(gain), t_interval(moved)
    means = np.array([np.mean(values) if values else nan for values in q.random])
    random = float(means.mean())
    excess = t_interval(moved - means) if sets else nothing
    plain = Mediation(len(gain), whole, own, random, excess, nothing, nan, sets, nan, nan, nan, nan, nan, "")
    if len(gain) < 2:
        return plain._replace(verdict=ONE_SEED)
    if whole.low <= 0 <= whole.high:
        return plain._replace(verdict=NO_GAIN)
    shown = plain._replace(share=fieller(moved, gain), random_share=random / whole.value)
    if not sets:
        return shown._replace(verdict="cannot tell without random sets")
    sign = math.copysign(1.0, whole.value)
    others = [[sign * value for value in values] for values in q.random]
    found = ranked((sign * moved).tolist(), others)
    return shown._replace(p=found.p, p_floor=found.floor, p_none=p_below(sign * (moved - means), q.margin))


def _verdict(found: Mediation, comparisons: int) -> str:
    sign = math.copysign(1.0, found.gain.value)
    more, none = found.p_adjusted < ALPHA and sign * found.excess.value > 0, found.p_none_adjusted < ALPHA
    if more:
        return NEGLIGIBLE if none else MEDIATES
    if none:
        return NO_MORE
    if found.p_floor * comparisons >= ALPHA or found.p <= found.p_floor:
        plural = "s" * (found.sets != 1)
        return f"cannot tell with {found.sets} random set{plural} and {found.n} seeds"
    return INCONCLUSIVE


class Removal(NamedTuple):
    """What hindering a mechanism in training does to a gain."""

    n: int
    gain: Interval
    """Full transfer against scratch, unhindered, with its 95 % t-interval."""
    hindered: Interval
    """The same where both are hindered alike."""
    removed: Interval
    """gain - hindered."""
    share: Interval
    """removed / gain with Fieller's interval; NaN where there is no gain."""
    p: float
    """Two-sided, paired t-test of removed = 0."""
    p_adjusted: float
    """Corrected over all such questions of the study (Holm)."""
    p_none_adjusted: float
    """Of removed = margin or more, likewise."""
    verdict: str


def judge_removal(cases: Sequence[tuple[Sequence[float], Sequence[float], float]]) -> list[Removal]:
    """Judge cases of (gain, gain where hindered, margin), a value a seed each, together. Verdicts: those without a test as
    `judge_mediation`; "removes" or "raises" (corrected p of no change below 0.05; how much of the gain: `share`); "leaves"
    (corrected p of removing the margin or more below 0.05); "inconclusive". Where full transfer is worse than scratch, of the harm.
    """
    found = [_removal(*case) for case in cases]
    tested = [i for i, one in enumerate(found) if not one.verdict]
    differ, none = holm([found[i].p for i in tested]), holm([found[i].p_none_adjusted for i in tested])
    for i, p, p_none in zip(tested, differ, none, strict=True):
        one = found[i]
        up = one.removed.value * math.copysign(1.0, one.gain.value) > 0
        word = (REMOVES if up else RAISES) if p < ALPHA else LEAVES if p_none < ALPHA else INCONCLUSIVE
        found[i] = one._replace(p_adjusted=p, p_none_adjusted=p_none, verdict=word)
    return found


def _removal(gain: Sequence[float], hindered: Sequence[float], margin: float) -> Removal:
    whole, left = np.asarray(gain, dtype=float), np.asarray(hindered, dtype=float)
    if whole.shape != left.shape or not (np.isfinite(whole).all() and np.isfinite(left).all()):
        raise ValueError("gain, hindered: legal: finite numbers of the same seeds")
    nothing = Interval(math.nan, math.nan, math.nan)
    if not len(whole):
        return Removal(0, nothing, nothing, nothing, nothing, math.nan, math.nan, math.nan, NO_SEED)
    gone = whole - left
    plain = Removal(
        len(whole), t_interval(whole), t_interval(left), t_interval(gone), nothing, math.nan, math.nan, math.nan, ""
    )
    if len(whole) < 2:
        return plain._replace(verdict=ONE_SEED)
    if plain.gain.low <= 0 <= plain.gain.high:
        return plain._replace(verdict=NO_GAIN)
    if np.ptp(gone) <= 1e-12 * np.abs(gone).max():
        return plain._replace(verdict="cannot tell: the seeds do not differ")
    sign = math.copysign(1.0, plain.gain.value)
    p = float(stats.ttest_1samp(gone, 0.0).pvalue)
    return plain._replace(share=fieller(gone, whole), p=p, p_none_adjusted=p_below(sign * gone, margin))
