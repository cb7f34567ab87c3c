"""Rule inference of a study: every checkpoint of the pre-pre-trainings on NCA, measured once and kept.

The last checkpoint is asked everything; those before it only how they predict new rules (the same rules at every step, so
that a curve over training is paired).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import pandas as pd

from nca_interp.analysis.cache import keep, kept
from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import IDENTITY, Run
from nca_interp.analysis.collection.series import Series
from nca_interp.analysis.inference.inference import COLUMNS, COURSE, LEARNED, inference_hash, rule_inference
from nca_interp.analysis.inference.words import by_frame, what_changed_contexts_cost
from nca_interp.analysis.stimuli.source import weights_sha256
from nca_interp.base import UserError
from nca_interp.machine import device_type
from nca_interp.measurement import Asked, Shown
from nca_interp.store import damage

WHERE = [*IDENTITY, "step"]
NUMBERS, INTEGERS = ("band_low", "band_high", "value", "low", "high"), ("frame", "n")
NOT_MEASURED = "not measured"


def infer_run(run: Run) -> list[str]:
    """Measure each checkpoint of a run unless it is up to date; what cannot be measured is kept with the reason."""
    problems, last, series = [], run.steps[-1], Series(run)
    for step in run.steps:
        if _kept(run, step, step == last) is not None:
            continue
        try:
            opened = partial(series.open, step) if run.config is not None else None
            frame = rule_inference(run.checkpoint(step), device=device_type(), whole=step == last, open_=opened)
        except UserError as error:
            if damage(run.checkpoint(step)):
                problems.append(str(error))
                continue
            frame = pd.DataFrame(columns=COLUMNS)
            frame.attrs["learned"] = {"verdict": NOT_MEASURED, "sentence": f"Not measured: {error}."}
            frame.attrs["course"] = []
        keep(run.kept("inference", step), frame, _made_from(run, step, step == last))
    return problems


def applies(run: Run) -> bool:
    """Whether a run was pre-pre-trained on NCA."""
    return run.stage == "ppt" and run.source.get("kind") == "nca"


def measure(run: Run, asked: Asked) -> list[str]:
    """Measure each checkpoint of a run unless it is up to date."""
    return infer_run(run)


def tables(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> dict[str, pd.DataFrame]:
    """Tables `inference`, `learning` and `learned`."""
    return inference_tables(collection.runs)


def inference_tables(runs: Iterable[Run]) -> dict[str, pd.DataFrame]:
    """Tables `inference` (a row a number), `learning` (the course of each run) and `learned` (a row a run, of its last
    checkpoint; `sentence` says why where it was not measured)."""
    curves, courses, learned = [], [], []
    for run in runs:
        if not (applies(run) and run.done and run.steps):
            continue
        last = run.steps[-1]
        for step in run.steps:
            identity = {**run.identity, "step": step}
            frame = _kept(run, step, step == last)
            if step == last:
                sentence = "Not measured: the analysis has not reached this run."
                missing = {"verdict": NOT_MEASURED, "sentence": sentence}
                learned.append({**identity, **(missing if frame is None else frame.attrs["learned"])})
            if frame is None or frame.empty:
                continue
            course = frame.attrs["course"]
            courses += [
                {**identity, "tokens": run.tokens_at.get(step), **dict(zip(COURSE, row, strict=True))} for row in course
            ]
            frame.attrs = {}
            curves.append(frame.assign(**identity)[[*WHERE, *COLUMNS]])
    empty = pd.DataFrame(columns=[*WHERE, *COLUMNS])
    return {
        "inference": pd.concat(curves, ignore_index=True) if curves else empty,
        "learned": pd.DataFrame(learned, columns=[*WHERE, *LEARNED]),
        "learning": pd.DataFrame(courses, columns=[*WHERE, "tokens", *COURSE]),
    }


def _made_from(run: Run, step: int, whole: bool) -> dict[str, Any]:
    return {"checkpoint": weights_sha256(run.checkpoint(step)), "engine": inference_hash(), "whole": whole}


def _kept(run: Run, step: int, whole: bool) -> pd.DataFrame | None:
    return kept(run.kept("inference", step), _made_from(run, step, whole), numbers=NUMBERS, integers=INTEGERS)


def summary(collection: Collection, tables: dict[str, pd.DataFrame]) -> Iterator[Shown | str]:
    """Of single checkpoints, what they predict of new rules, frame by frame, and the verdict."""
    if collection.study is not None:
        return
    for row in tables["learned"].to_dict("records"):
        curve = tables["inference"]
        curve = curve[(curve.run == row["run"]) & (curve.step == row["step"])]
        for title, columns, lines in by_frame(curve) if len(curve) else []:
            yield Shown(title, columns, lines)
        yield str(row["sentence"])
        if len(curve):
            yield what_changed_contexts_cost({str(k): None if pd.isna(v) else v for k, v in row.items()})
