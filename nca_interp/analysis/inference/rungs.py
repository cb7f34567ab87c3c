"""How far a model came on NCA frames: a ladder of predictors, climbed one test at a time.

1. no better than the mode (or copy, or cell-mode): one of them is certainly as good.
2. uses its context: another rule's frames in it cost, and the loss falls over frames.
3. beats mode and copy: more cells than mode, cell-mode and copy.
4. beats lookup: than what followed the same neighbourhood.
5. beats back-off: than counting with back-off, the best of the rivals that know no rule. Only here, and only where the context
   is used, was the rule inferred.
6. near the oracle: certainly less than NEAR below the rule itself.

Rungs 3 to 6 are tested in this order, each only where the one before holds and each by 95 % intervals over rules (all of them, where
a rung has several), so that in at most 2.5 % of cases any rung is claimed wrongly; rung 2 is a test of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nca_interp.analysis.verdicts.statistics import ALPHA, Interval, cluster_interval

Floats = npt.NDArray[np.float64]
ORACLE = "oracle"
RUNGS = {
    "beats mode and copy": ("mode", "cell-mode", "copy"),
    "beats lookup": ("lookup",),
    "beats back-off": ("backoff",),
}
"""Rung -> predictors without the rule (data/nca/predictors.py) that it takes to be beaten."""
RIVALS = tuple(name for names in RUNGS.values() for name in names)
NEAR_ORACLE, CONTEXT, OPEN = "near the oracle", "uses its context", "inconclusive"
NEAR = 0.02
"""Share of cells by which a model may lie below the oracle and be near it."""


class Context(NamedTuple):
    """What the frames before are worth, in nats a patch token at the last frame; NaN where not measured."""

    swap: Interval
    """What another rule's frames add to the loss."""
    gain: Interval
    """Loss of the last frame minus that of the first one predicted."""

    @property
    def used(self) -> bool:
        """Whether both are certain: the swap costs, the loss falls."""
        return bool(self.swap.low > 0 and self.gain.high < 0)


class Rung(NamedTuple):
    """How far a model came, and what it was not shown to beat."""

    verdict: str
    """The highest rung that holds."""
    inferred: bool
    """Whether it beats every predictor without the rule, and another rule's frames in its context cost."""
    rival: str
    """The predictor of the next rung that is least surely beaten (near the oracle: the oracle; at the bottom: who is as good)."""
    gap: Interval
    """Model minus this predictor, in share of cells."""
    n: int
    """Rules."""


def climb(model: Floats, others: dict[str, Floats], groups: list[str], context: Context) -> Rung:
    """The rung from accuracies [row] of a model, of all RIVALS and, on the first rows or all, the oracle; paired by row, the
    unit is the group (a rule)."""
    n, reached = len(set(groups)), ""
    for rung, names in RUNGS.items():
        rival, gap = least_beaten(model, {name: others[name] for name in names}, groups)
        if not gap.low > 0:
            return Rung(*_stopped(model, others, groups, context, reached, rival, gap), n)
        reached = rung
    inferred = bool(context.swap.low > 0)
    if ORACLE not in others:
        return Rung(reached, inferred, rival, gap, n)
    seen = len(others[ORACLE])
    gap = cluster_interval(model[:seen] - others[ORACLE], groups[:seen])
    return Rung(NEAR_ORACLE if gap.low > -NEAR else reached, inferred, ORACLE, gap, n)


def _stopped(
    model: Floats,
    others: dict[str, Floats],
    groups: list[str],
    context: Context,
    reached: str,
    rival: str,
    gap: Interval,
) -> tuple[str, bool, str, Interval]:
    """Verdict, inferred, rival and gap where a rung is not reached."""
    if reached:
        return reached, False, rival, gap
    if context.used:
        return CONTEXT, False, rival, gap
    names = RUNGS["beats mode and copy"]
    level = 1 - ALPHA / len(names)  # any of them would be said
    gaps = {name: cluster_interval(model - others[name], groups, level) for name in names}
    sure = [name for name, found in gaps.items() if found.high <= 0]
    return (f"no better than {sure[0]}", False, sure[0], gaps[sure[0]]) if sure else (OPEN, False, rival, gap)


def least_beaten(model: Floats, rivals: dict[str, Floats], groups: list[str]) -> tuple[str, Interval]:
    """The rival with the smallest lower bound of the difference to it."""
    gaps = {name: cluster_interval(model - values, groups) for name, values in rivals.items()}
    name = min(gaps, key=lambda name: np.nan_to_num(gaps[name].low, nan=-np.inf))
    return name, gaps[name]


def sentence(
    rung: Rung, context: Context, means: dict[str, float], own: float, frames: list[int], temperature: float
) -> str:
    """The verdict in words. `means`: share of cells of every predictor, `own` that of the model; `frames`: those generated."""
    span = f"frame {frames[0]}" if len(frames) == 1 else f"frames {frames[0]} to {frames[-1]}"
    way = "greedily" if temperature == 0 else f"drawn at temperature {temperature:g}"
    word = (
        f"Whether the model is better than {rung.rival} is open"
        if rung.verdict == OPEN
        else f"The model {_verb(rung.verdict)}"
    )
    used = "" if np.isnan(context.swap.low) else f"; its context is {'' if context.used else 'not shown to be '}used"
    best = f", the rule itself {means[ORACLE]:.3f}" if ORACLE in means and rung.rival != ORACLE else ""
    known = "It inferred the rule: every predictor without it is beaten. " if rung.inferred else ""
    return (
        f"{word}{used}. {known}Of {span} of {rung.n} new rules, generated {way}, {own:.3f} of the cells are right, {rung.rival} gets "
        f"{means[rung.rival]:.3f}{best}; difference {rung.gap.value:+.3f} [{rung.gap.low:+.3f}, {rung.gap.high:+.3f}]."
    )


def _verb(verdict: str) -> str:
    if verdict.startswith("no better"):
        return f"is {verdict}"
    return {NEAR_ORACLE: "is near the oracle", "no rule to learn": "has no rule to learn"}.get(verdict, verdict)
