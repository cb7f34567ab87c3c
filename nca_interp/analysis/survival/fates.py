"""What the course of a head says: lost, kept or used, which part of it went first, and no more than the checkpoints allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from nca_interp.analysis.dynamics.threshold_crossing import Crossing, Floats, crossing

FEWEST_OTHERS = 5
"""Heads that the null of an effect needs."""
FEWEST_SEEDS = 6
"""Seeds of which all must agree for a verdict; with fewer a 95 % interval of their share holds one half whatever they say."""
LEAST = {"input": 0.1, "matching": 0.1, "copying": 0.0}
"""A part of the circuit that is not above this at the end of pre-pre-training was not there."""
GONE = ("reached", "from start")
LOST, KEPT, USED, BOTH, UNKNOWN = "lost", "kept", "used", "lost, yet used", "not measured"


def effect_bound(others: Sequence[float] | Floats) -> float:
    """What one more ordinary head's effect stays below with 95 % probability: of the heads that were not chosen, the median and
    `_beyond` times their median absolute deviation. NaN for fewer than FEWEST_OTHERS."""
    known = np.asarray(others, dtype=float)
    known = known[np.isfinite(known)]
    if (n := len(known)) < FEWEST_OTHERS:
        return math.nan
    middle = float(np.median(known))
    spread = 1.4826 * float(np.median(np.abs(known - middle)))
    return middle + _beyond(n) * spread


@lru_cache(maxsize=64)
def _beyond(n: int) -> float:
    """Median absolute deviations (as standard deviations of a normal) above the median of `n` effects that one more stays below
    with 95 %, by simulation of the exponential distribution: most heads cost nothing and a few something, so effects are skewed,
    and a bound for normal ones calls an ordinary head used in one of five cases."""
    drawn = np.random.default_rng(0).exponential(size=(40_000, n + 1))
    seen, more = drawn[:, :n], drawn[:, n]
    middle = np.median(seen, axis=1)
    spread = 1.4826 * np.median(np.abs(seen - middle[:, None]), axis=1)
    return float(np.quantile((more - middle) / spread, 0.95))


def losing(values: Sequence[float], level: float) -> Crossing | None:
    """When a score (median of three) fell to `level` or below and stayed there for two checkpoints; None where it is not known."""
    if not values or not np.isfinite([*values, level]).all():
        return None
    return crossing(-np.asarray(values, dtype=float), -level)


def using(effects: Sequence[float], lows: Sequence[float], bounds: Sequence[float]) -> Crossing | None:
    """When losing the head first cost more than losing an ordinary one (`bounds`), certainly more than nothing (`lows`), for two
    checkpoints; None where it is not known."""
    margin = np.minimum(
        np.asarray(effects, dtype=float) - np.asarray(bounds, dtype=float), np.asarray(lows, dtype=float)
    )
    return crossing(margin, 0.0) if len(margin) and np.isfinite(margin).all() else None


def used_at_end(effects: Sequence[float], lows: Sequence[float], bounds: Sequence[float]) -> bool:
    """Whether it costs so much at both of the last two checkpoints."""
    last = [e > b and low > 0 for e, low, b in zip(effects, lows, bounds, strict=True)][-2:]
    return len(last) == 2 and all(last)


def fate(lost: Crossing | None, used: bool | None) -> str:
    """The word for a head."""
    if lost is None:
        return USED if used else UNKNOWN
    if lost.state in GONE:
        return BOTH if used else LOST
    return USED if used else KEPT


class Span(NamedTuple):
    """Between which two checkpoints a part had lost half of what it was, as indices; -1 is the end of pre-pre-training."""

    after: float
    by: float
    """Infinite where it has not."""


def half_lost(start: float, values: Sequence[float], least: float) -> Span | None:
    """When a part of the circuit fell to half of `start`, its value at the end of pre-pre-training; None where it was not above
    `least` then, or is not known."""
    if not start > least or (found := losing(values, start / 2)) is None:
        return None
    if found.by is None:
        return Span(float(len(values) - 1 if found.after is None else found.after), math.inf)
    return Span(-1.0 if found.after is None else float(found.after), float(found.by))


def first_lost(spans: Mapping[str, Span | None]) -> str:
    """The part that certainly went before all others; else which ones may have, "none" or "" (no part is known)."""
    known = {name: span for name, span in spans.items() if span is not None}
    if not known:
        return ""
    gone = {name: span for name, span in known.items() if math.isfinite(span.by)}
    if not gone:
        return "none"
    for name, span in gone.items():
        if all(span.by <= other.after for o, other in known.items() if o != name):
            return name
    soonest = min(span.by for span in gone.values())
    return "cannot tell: " + " or ".join(name for name, span in gone.items() if span.after < soonest)


class Verdict(NamedTuple):
    """What the seeds say together."""

    word: str
    agree: int
    """Seeds of the commonest fate."""


def over_seeds(fates: Sequence[str]) -> Verdict:
    """The fate of more than half of all seeds there could be, by the exact 95 % interval of its share; else no verdict."""
    n = len(fates)
    word = max(sorted(set(fates)), key=list(fates).count)
    agree = list(fates).count(word)
    low = float(stats.beta.ppf(0.025, agree, n - agree + 1))
    if word not in (UNKNOWN, "mixed") and low > 0.5:
        return Verdict(word, agree)
    if n < FEWEST_SEEDS:
        return Verdict(f"no verdict (fewer than {FEWEST_SEEDS} seeds)", agree)
    return Verdict("no verdict", agree)
