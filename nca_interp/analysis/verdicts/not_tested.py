"""Why a claim has no verdict: nobody planned it, nobody measured it, or its runs are not at their end. That it was judged and nothing
can be told ("cannot tell"), or stayed open ("inconclusive"), are other things."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from nca_interp.analysis.verdicts.change import UNKNOWN, UNTESTED
from nca_interp.config import Study

NOT_PLANNED, NOT_MEASURED, NOT_FINISHED = (
    f"{UNTESTED} ({why})" for why in ("not planned", "not measured", "not finished")
)
NOTHING = {"effect": math.nan, "low": math.nan, "high": math.nan, "zero": 0.0, "unit": "", "n": 0}
Row = dict[str, Any]


def untested(verdict: str, why: str, todo: str, **row: Any) -> Row:
    """A claim without a verdict: `why` completes "Not tested: ...", `todo` is what would have to be run."""
    sentence = f"Not tested: {why}."
    return {
        "domain": "",
        "verdict": verdict,
        **NOTHING,
        "judged": "",
        "sentence": sentence,
        "change": todo,
        "evidence": "",
        **row,
    }


def untellable(why: str, todo: str, domain: str) -> Row:
    """A claim that was to be judged, and of which the numbers say nothing."""
    return {**untested(UNKNOWN, why, todo, domain=domain), "sentence": f"Cannot be told: {why}."}


def finish(study: Study) -> str:
    """What brings the runs of a study to their end."""
    return f"Let the runs come to their end: nca-interp train {study.name}, then nca-interp analyze."


def _planned(contrasts: pd.DataFrame, domain: str, treated: str, control: str, metric: str) -> pd.DataFrame:
    rows = contrasts[(contrasts.metric == metric) & (contrasts.treated == treated) & (contrasts.control == control)]
    return rows[rows.domain == domain]


def to_come(contrasts: pd.DataFrame, domain: str, *pairs: tuple[str, str], metric: str = "val_loss") -> list[str]:
    """The runs that these comparisons wait for, as the plan names them: "nca seed 2"."""
    rows = pd.concat([_planned(contrasts, domain, *pair, metric) for pair in pairs])
    names = [name for cell in rows.pending if isinstance(cell, str) for name in cell.split(", ") if name]
    return list(dict.fromkeys(names))


def unfinished(study: Study, contrasts: pd.DataFrame, domain: str, *pairs: tuple[str, str]) -> Row | None:
    """The row of a claim whose comparisons wait for runs; None where they do not."""
    waiting = to_come(contrasts, domain, *pairs)
    if not waiting:
        return None
    return untested(
        NOT_FINISHED, f"these runs are not at their end: {', '.join(waiting)}", finish(study), domain=domain
    )


def absent(study: Study, contrasts: pd.DataFrame, domain: str, *pairs: tuple[str, str]) -> Row | None:
    """The row of a claim some of whose pairs of regimes have no seed to compare; None where none was planned on this domain."""
    plans = [_planned(contrasts, domain, *pair, "val_loss") for pair in pairs]
    if all(plan.empty for plan in plans):
        return None
    for (treated, control), plan in zip(pairs, plans, strict=True):
        if plan.empty:
            return unplanned(f"{treated} and {control} are not compared on {domain}", domain=domain)
    if waiting := unfinished(study, contrasts, domain, *pairs):
        return waiting
    lost = " ".join(str(cell) for plan in plans for cell in plan.lost if isinstance(cell, str) and cell)
    why = f"no seed has all of them ({lost} came to no usable loss)" if lost else "no seed has all of them"
    return untellable(why, "Runs in place of those that were lost.", domain)


def unplanned(why: str, todo: str = "A recipe whose arms are compared so (docs/statistics.md).", **row: Any) -> Row:
    """The row of a claim that no comparison of the study speaks to."""
    return untested(NOT_PLANNED, why, todo, **row)
