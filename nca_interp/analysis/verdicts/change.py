"""What would change the verdict of a planned comparison, as far as its own numbers and those of the primary one say."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from nca_interp.analysis.verdicts.statistics import ALPHA, standard_effect

SUPPORTED, CONTRADICTED, SAME = "supported", "contradicted", "no difference"
OPEN, UNKNOWN, UNTESTED = "inconclusive", "cannot tell", "not tested"
"""The verdicts of claims."""
MANY = 200
"""Seeds up to which the number that would be needed is said."""


def change(row: Any, verdict: str, contrasts: pd.DataFrame) -> str:
    """What would change the verdict of a contrast, as far as its own numbers say."""
    if verdict in (SUPPORTED, CONTRADICTED, SAME):
        hangs = str(row.hangs_on) if pd.notna(row.hangs_on) and str(row.hangs_on) else ""
        return (
            f"It hangs on single seeds: without seed {hangs} it would be another." if hangs
            else "No single seed: it stays without any one of them. Another model size, budget, corpus or learning rate may."
        )  # fmt: skip
    if verdict == UNKNOWN:
        return str(row.sentence)
    gate = gate_of(row, contrasts)
    if gate is not None:
        return (
            f"It is closed by the primary comparison ({gate.treated} minus {gate.control}, {gate.domain}: {gate.verdict}): before that one shows a "
            f"difference no other gets a verdict, however clear. {_enough(gate, 'There')} {_enough(row, 'Here')} Both are needed."
        )
    return _enough(row, "")


def _enough(row: Any, where: str) -> str:
    wanted = _seeds_for(abs(float(row.effect)), float(row.detectable), int(row.n), int(row.comparisons))
    return _told(wanted, int(row.n), where)


def alone(effect: float, sd: float, n: int) -> str:
    """The same of one paired t-test by itself at 5 %: `effect` and `sd` of n values."""
    known = n > 1 and math.isfinite(sd) and sd > 0
    return _told(_seeds_for(abs(effect), sd * standard_effect(n), n, 1) if known else None, n, "")


def _told(wanted: int | None, n: int, where: str) -> str:
    """The seeds that an effect of the size seen takes; `where` begins the sentence."""
    if wanted is None:
        return f"{where + ': more' if where else 'More'} seeds, if the effect is not much smaller than it looks."
    many = f"about {wanted} seeds" if wanted <= MANY else f"more than {MANY} seeds"
    start = f"{where}, an" if where else "An"
    return f"{start} effect of the size seen is found four times in five with {many} of this spread (there are {n})."


def gate_of(row: Any, contrasts: pd.DataFrame) -> Any:
    """The primary comparison that keeps this one open, the least sure of several; None where there is none, or it shows a difference."""
    if str(row.primary).lower() in ("true", "1", "1.0"):
        return None
    first = contrasts[contrasts.primary.astype(str).str.lower().isin({"true", "1", "1.0"})]
    p = first.p_holm.astype(float).fillna(1.0)  # what is planned and not yet known counts as 1
    if first.empty or float(p.max()) < ALPHA:
        return None
    return next(first.loc[[p.idxmax()]].itertuples(index=False))


def _seeds_for(effect: float, detectable: float, n: int, comparisons: int) -> int | None:
    """Seeds with which a t-test at the strictest level of the correction finds `effect` four times in five; MANY + 1 for more
    than MANY, None where it is not known."""
    if n < 2 or not (math.isfinite(detectable) and detectable > 0 and effect > 0):
        return None
    level = ALPHA / max(1, comparisons)
    spread = detectable / standard_effect(n, level)
    low, high = n, MANY + 1  # the detectable effect falls with n
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if standard_effect(middle, level) * spread <= effect else (middle + 1, high)
    return low
