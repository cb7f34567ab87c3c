"""Heads across the swap, run by run: measured at every checkpoint of language and at the end of pre-pre-training, and kept."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nca_interp.analysis.cache import code_hash, keep, kept
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.collection.run import Run, ppt_of
from nca_interp.analysis.collection.series import Series
from nca_interp.analysis.probing.engine import engine_hash
from nca_interp.analysis.stimuli.base import NotApplicable
from nca_interp.analysis.stimuli.source import weights_sha256
from nca_interp.analysis.survival.measure import COLUMNS, measure_heads, start_of, subject_of
from nca_interp.base import UserError
from nca_interp.measurement import Asked
from nca_interp.store import damage

NAME = "survival"
CODE = (
    "survival/components.py", "survival/measure.py", "survival/study.py", "causes/ablation.py", "causes/effects.py",
    "causes/resume.py",
)  # fmt: skip
"""Files that decide a number, beside those of the probe engine."""
NUMBERS, INTEGERS = ("value", "low", "high"), ("layer", "head")


def applies(run: Run) -> bool:
    """Whether a run is a pre-pre-training of ours, or language that goes on from one."""
    return run.config is not None and (run.stage == "ppt" or (run.stage == "pt" and run.parent is not None))


def measured_steps(run: Run) -> list[int]:
    """All of language, the end alone of a pre-pre-training."""
    return run.steps if run.stage == "pt" else run.steps[-1:]


def measure(run: Run, asked: Asked) -> list[str]:
    """Measure each checkpoint of a run unless it is up to date; what cannot be measured is kept with the reason."""
    parent = run if run.stage == "ppt" else ppt_of(run, asked.collection.by_id)
    if parent is None or not parent.steps:
        return []
    missing = [step for step in measured_steps(run) if kept_heads(run, step, parent) is None]
    if not missing:
        return []
    series, problems, trunk, start = Series(run), [], None, None
    for index, step in enumerate(missing):
        frame = pd.DataFrame(columns=COLUMNS)
        try:
            if problem := damage(run.checkpoint(step), quick=True):
                raise UserError(f"{run.checkpoint(step)}: damaged checkpoint, {problem}")
            start = start or start_of(parent)
            model = series.open(step)
            trunk = trunk if trunk is not None and trunk.model is model else Trunk(model)
            frame = measure_heads(model, subject_of(run, step, model), start, trunk)
        except NotApplicable as reason:
            frame.attrs = {"skipped": str(reason)}
        except UserError as error:
            problems.append(str(error))
            continue
        keep(run.kept(NAME, step), frame, made_from(run, step, parent))
        asked.say(f"checkpoint {index + 1} of {len(missing)}", (index + 1) / len(missing))
    return problems


def made_from(run: Run, step: int, parent: Run) -> dict[str, Any]:
    """What the rows of a checkpoint are made from."""
    return {
        "checkpoint": weights_sha256(run.checkpoint(step)), "start": weights_sha256(parent.last), "engine": engine_hash(),
        "code": code_hash(CODE),
    }  # fmt: skip


def kept_heads(run: Run, step: int, parent: Run) -> pd.DataFrame | None:
    """Rows (measure.COLUMNS) of a checkpoint; None where they are not up to date."""
    return kept(run.kept(NAME, step), made_from(run, step, parent), numbers=NUMBERS, integers=INTEGERS)
