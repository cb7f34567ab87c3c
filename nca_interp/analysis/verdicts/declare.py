"""Declaring the plan of a study: once before the first run, and anew on demand as long as nothing of what it compares is known.

A run that a comparison rests on is evaluated once its metrics hold a row: validation losses stand there, that of step 0 included.
What was trained, looked at and deleted leaves no trace, and is the user's to own up to.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from nca_interp.analysis.verdicts.plan import BEST, Contrast, contrasts_in, kept_plan, plan_of
from nca_interp.base import UserError, digest
from nca_interp.config import Study
from nca_interp.store import StudyDir, write_json
from nca_interp.train.run import RunConfig


def declare(directory: StudyDir, study: Study, anew: str | None = None) -> bool:
    """Keep the plan of a study with its hash, unless one is kept already or runs have begun without one. `anew`: the command that declares
    it all the same, where it differs from the kept one; what it replaces stays in the record. UserError where that comes too late.
    Returns whether the kept plan is that of the study."""
    plan, kept = plan_of(study), kept_plan(directory)
    if kept is not None and kept["plan"] == plan:
        return True
    begun = bool(directory.all_runs())
    if anew is None and (kept is not None or begun):
        return False
    record: dict[str, Any] = {
        "plan": plan,
        "sha256": digest(plan),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if kept is not None or begun:
        check_anew(directory, study)
        before = [] if kept is None else [*kept.get("before", []), {k: v for k, v in kept.items() if k != "before"}]
        record |= {"anew": anew, "before": before}
    write_json(directory.plan, record)
    return True


def check_anew(directory: StudyDir, study: Study) -> None:
    """UserError where a run that the study's plan or the kept one compares has been evaluated."""
    kept = kept_plan(directory)
    contrasts = contrasts_in(plan_of(study)) + ([] if kept is None else contrasts_in(kept["plan"]))
    if known := evaluated(directory, study, contrasts):
        more = f" and {len(known) - 1} more have" if len(known) > 1 else " has"
        raise UserError(
            f"--declare: {known[0]}{more} been evaluated, and a comparison rests on that; legal: without --declare, where the change is "
            "shown and decides nothing, or a study of its own (--out)"
        )


def evaluated(directory: StudyDir, study: Study, contrasts: Iterable[Contrast]) -> list[str]:
    """Runs of the folder that a contrast rests on and of which a loss is known."""
    scratches = {regime.name for regime in study.regimes if regime.source is None}
    compared: set[tuple[str, str]] = set()
    for contrast in contrasts:
        names = {contrast.treated, contrast.control}
        names = names - {BEST} | scratches if BEST in names else names
        compared |= {(name, contrast.domain) for name in names}
    found = []
    for run in directory.all_runs():
        config = RunConfig.model_validate(run.read(run.config))
        if config.stage != "ppt" and (config.regime, config.domain) in compared and run.last_metrics(1):
            found.append(config.id)
    return found
