"""Rule inference of a study: the last checkpoint of every finished pre-pre-training on NCA, measured once and kept."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nca_interp.analysis.inference import COLUMNS, LEARNED, inference_hash, rule_inference
from nca_interp.analysis.kept import keep, kept
from nca_interp.analysis.records import IDENTITY, Run
from nca_interp.base import UserError
from nca_interp.machine import device_type
from nca_interp.store import RunDir, checkpoint_hash, damage

WHERE = [*IDENTITY, "step"]
NUMBERS, INTEGERS = ("band_low", "band_high", "value", "low", "high"), ("frame", "n")
NOT_MEASURED = "not measured"


def infer_run(run: RunDir) -> list[str]:
    """Measure the last checkpoint of a run unless it is up to date; what cannot be measured is kept with the reason."""
    step = run.steps()[-1]
    if _kept(run, step) is None:
        try:
            frame = rule_inference(run.checkpoint(step), device=device_type())
        except UserError as error:
            if damage(run.checkpoint(step)):
                return [str(error)]
            frame = pd.DataFrame(columns=COLUMNS)
            frame.attrs["learned"] = {"verdict": NOT_MEASURED, "sentence": f"Not measured: {error}."}
        keep(run.inference(step), frame, _made_from(run, step))
    return []


def inference_tables(runs: list[Run]) -> dict[str, pd.DataFrame]:
    """Tables `inference` (a row a number) and `learned` (a row a run; `sentence` says why where it was not measured)."""
    curves, learned = [], []
    for run in runs:
        if run.config.stage != "ppt" or not run.done or run.meta.spec.get("kind") != "nca" or not run.dir.steps():
            continue
        step = run.dir.steps()[-1]
        identity = {**run.identity, "step": step}
        frame = _kept(run.dir, step)
        if frame is None:
            sentence = "Not measured: the analysis has not reached this run."
            learned.append({**identity, "verdict": NOT_MEASURED, "sentence": sentence})
            continue
        learned.append({**identity, **frame.attrs["learned"]})
        if len(frame):
            frame.attrs = {}
            curves.append(frame.assign(**identity)[[*WHERE, *COLUMNS]])
    empty = pd.DataFrame(columns=[*WHERE, *COLUMNS])
    return {
        "inference": pd.concat(curves, ignore_index=True) if curves else empty,
        "learned": pd.DataFrame(learned, columns=[*WHERE, *LEARNED]),
    }


def _made_from(run: RunDir, step: int) -> dict[str, Any]:
    return {"checkpoint": checkpoint_hash(run.checkpoint(step)), "engine": inference_hash()}


def _kept(run: RunDir, step: int) -> pd.DataFrame | None:
    return kept(run.inference(step), _made_from(run, step), numbers=NUMBERS, integers=INTEGERS)
