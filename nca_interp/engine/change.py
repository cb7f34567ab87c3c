"""What may change in a study that has begun: whatever alters none of its runs, such as a label, one more seed, one more arm."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationError

from nca_interp.config import Study
from nca_interp.engine.plan import make_plan
from nca_interp.files import write_json
from nca_interp.store import StudyDir
from nca_interp.train.run import RunConfig

NAMED = {"label": "", "role": ""}
"""Fields of a run by which tables and reports call it; training does not read them."""
DECLARED = ("name", "margin")
"""Fields of a study that no run depends on and that stay nevertheless: its name, and what was declared before the results."""


def alters_no_run(
    there: dict[str, Any], asked: dict[str, Any], precision: Literal["fp32", "bf16"], anew: bool = False
) -> bool:
    """Whether every run of the study `there` is a run of the study `asked`, the same but for its label and role. `anew`: the margin may
    change, since the plan of comparisons is declared anew (analysis/verdicts/declare.py)."""
    try:
        before, after = Study.model_validate(there), Study.model_validate(asked)
    except ValidationError:
        return False
    stays = [field for field in DECLARED if not (anew and field == "margin")]
    if any(getattr(before, field) != getattr(after, field) for field in stays):
        return False
    runs = {run.id: run for run in make_plan(after, precision, analyze=False).runs}
    return all(_alike(run, runs.get(run.id)) for run in make_plan(before, precision, analyze=False).runs)


def arranged(there: dict[str, Any], asked: Study, precision: Literal["fp32", "bf16"]) -> Study:
    """The study `asked`, its regimes in the order of the study `there`, new ones behind, where only that order leaves the runs as they are.

    A pre-pre-training that several regimes share is named after the first of them: a new one before it would name it anew.
    """
    try:
        before = [regime.name for regime in Study.model_validate(there).regimes]
    except ValidationError:
        return asked
    known = [name for name in before if name in {regime.name for regime in asked.regimes}]
    new = [regime for regime in asked.regimes if regime.name not in known]
    ordered = asked.model_copy(update={"regimes": (*(asked.regime(name) for name in known), *new)})
    if ordered == asked or alters_no_run(there, asked.model_dump(mode="json"), precision):
        return asked
    return ordered if alters_no_run(there, ordered.model_dump(mode="json"), precision) else asked


def _alike(run: RunConfig, other: RunConfig | None) -> bool:
    return other is not None and run.model_copy(update=NAMED) == other.model_copy(update=NAMED)


def rename(directory: StudyDir, study: Study, precision: Literal["fp32", "bf16"]) -> None:
    """Give the runs that have begun the labels and roles that the study has now."""
    for run in make_plan(study, precision, analyze=False).runs:
        record = directory.run(run.id)
        if record.config.is_file():
            found = RunConfig.model_validate(record.read(record.config))
            if found != run and _alike(found, run):
                write_json(record.config, run.model_dump(mode="json"))
