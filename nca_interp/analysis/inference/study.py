"""Rule inference of a study: every checkpoint of the pre-pre-trainings on NCA, measured once and kept.

The last checkpoint is asked everything; those before it only how they predict new rules (the same rules at every step, so
that a curve over training is paired).
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from nca_interp.analysis.cache import keep, kept
from nca_interp.analysis.inference.inference import COLUMNS, COURSE, LEARNED, inference_hash, rule_inference
from nca_interp.analysis.records import IDENTITY, Run
from nca_interp.base import UserError
from nca_interp.machine import device_type
from nca_interp.store import RunDir, checkpoint_hash, damage

WHERE = [*IDENTITY, "step"]
NUMBERS, INTEGERS = ("band_low", "band_high", "value", "low", "high"), ("frame", "n")
NOT_MEASURED = "not measured"


def infer_run(run: RunDir) -> list[str]:
    """Measure each checkpoint of a run unless it is up to date; what cannot be measured is kept with the reason."""
    problems, last = [], run.steps()[-1]
    for step in run.steps():
        if _kept(run, step, step == last) is not None:
            continue
        try:
            frame = rule_inference(run.checkpoint(step), device=device_type(), whole=step == last)
        except UserError as error:
            if damage(run.checkpoint(step)):
                problems.append(str(error))
                continue
            frame = pd.DataFrame(columns=COLUMNS)
            frame.attrs["learned"] = {"verdict": NOT_MEASURED, "sentence": f"Not measured: {error}."}
            frame.attrs["course"] = []
        keep(run.inference(step), frame, _made_from(run, step, step == last))
    return problems


def inference_tables(runs: list[Run]) -> dict[str, pd.DataFrame]:
    """Tables `inference` (a row a number), `learning` (the course of each run) and `learned` (a row a run, of its last
    checkpoint; `sentence` says why where it was not measured)."""
    curves, courses, learned = [], [], []
    for run in runs:
        if run.config.stage != "ppt" or not run.done or run.meta.spec.get("kind") != "nca" or not run.dir.steps():
            continue
        last = run.dir.steps()[-1]
        for step in run.dir.steps():
            identity = {**run.identity, "step": step}
            frame = _kept(run.dir, step, step == last)
            if step == last:
                sentence = "Not measured: the analysis has not reached this run."
                missing = {"verdict": NOT_MEASURED, "sentence": sentence}
                learned.append({**identity, **(missing if frame is None else frame.attrs["learned"])})
            if frame is None or frame.empty:
                continue
            tokens = step * run.config.config.batch_size * run.config.model.n_ctx
            course = frame.attrs["course"]
            courses += [{**identity, "tokens": tokens, **dict(zip(COURSE, row, strict=True))} for row in course]
            frame.attrs = {}
            curves.append(frame.assign(**identity)[[*WHERE, *COLUMNS]])
    empty = pd.DataFrame(columns=[*WHERE, *COLUMNS])
    return {
        "inference": pd.concat(curves, ignore_index=True) if curves else empty,
        "learned": pd.DataFrame(learned, columns=[*WHERE, *LEARNED]),
        "learning": pd.DataFrame(courses, columns=[*WHERE, "tokens", *COURSE]),
    }


def _made_from(run: RunDir, step: int, whole: bool) -> dict[str, Any]:
    return {"checkpoint": checkpoint_hash(run.checkpoint(step)), "engine": inference_hash(), "whole": whole}


def _kept(run: RunDir, step: int, whole: bool) -> pd.DataFrame | None:
    return kept(run.inference(step), _made_from(run, step, whole), numbers=NUMBERS, integers=INTEGERS)
