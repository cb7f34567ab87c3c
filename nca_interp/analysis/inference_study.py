"""Rule inference of a study: the last checkpoint of every finished pre-pre-training on NCA, measured once and kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.inference import COLUMNS, LEARNED, inference_hash, rule_inference
from nca_interp.analysis.probe_table import write_table
from nca_interp.analysis.records import Run
from nca_interp.base import UserError
from nca_interp.machine import device_type
from nca_interp.store import checkpoint_hash, read_json, write_json

IDENTITY = ["run", "regime", "domain", "seed", "stage", "step"]
NUMBERS = ("band_low", "band_high", "frame", "value", "low", "high", "n")
NOT_MEASURED = "not measured"


def inference_tables(runs: list[Run]) -> dict[str, pd.DataFrame]:
    """Tables `inference` (a row a number) and `learned` (a row a run; `sentence` says why where it was not measured)."""
    curves, learned = [], []
    for run in runs:
        if run.config.stage != "ppt" or not run.done or run.meta.spec.get("kind") != "nca" or not run.dir.steps():
            continue
        step = run.dir.steps()[-1]
        identity = {**run.identity, "step": step}
        try:
            frame = _measured(run, step)
        except UserError as error:
            learned.append({**identity, "verdict": NOT_MEASURED, "sentence": f"Not measured: {error}."})
            continue
        learned.append({**identity, **frame.attrs["learned"]})
        frame.attrs = {}
        curves.append(frame.assign(**identity)[[*IDENTITY, *COLUMNS]])
    empty = pd.DataFrame(columns=[*IDENTITY, *COLUMNS])
    return {
        "inference": pd.concat(curves, ignore_index=True) if curves else empty,
        "learned": pd.DataFrame(learned, columns=[*IDENTITY, *LEARNED]),
    }


def _measured(run: Run, step: int) -> pd.DataFrame:
    """The curve of one checkpoint with its `attrs`, from the run's folder where weights and code are the same."""
    path, directory = run.dir.inference(step), run.dir.checkpoint(step)
    kept = _kept(run, step)
    if kept is None:
        frame = rule_inference(directory, device=device_type())
        write_table(path, frame)
        write_json(path.with_suffix(".json"), frame.attrs)
        kept = _kept(run, step)
        assert kept is not None
    return kept


def _kept(run: Run, step: int) -> pd.DataFrame | None:
    """What was measured before, None where it is of other weights or code, or damaged."""
    path = run.dir.inference(step)
    if not (path.is_file() and path.with_suffix(".json").is_file()):
        return None
    wanted: dict[str, Any] = {
        "checkpoint_sha256": checkpoint_hash(run.dir.checkpoint(step)),
        "engine": inference_hash(),
    }
    try:
        attrs = read_json(path.with_suffix(".json"))
        # Python's own float() reads back what was written
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        numbers = {c: [float(cell) if cell else np.nan for cell in frame[c]] for c in NUMBERS}
        frame = frame.assign(**numbers).astype(dict.fromkeys(("frame", "n"), int))
    except (UserError, OSError, ValueError, KeyError):
        return None
    if any(attrs.get(key) != value for key, value in wanted.items()) or list(frame.columns) != COLUMNS:
        return None
    frame.attrs = attrs
    return frame
