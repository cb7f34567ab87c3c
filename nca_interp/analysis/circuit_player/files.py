"""player.json and player.npz of a collection: what is kept of the shown checkpoints, put together and thinned (docs/player.md)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.circuit_player.study import (
    PlayerOptions,
    kept_arrays,
    kept_rows,
    regimes,
    shown,
    steps_of,
)
from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.probing.patterns import notable
from nca_interp.files import write_bytes
from nca_interp.measurement import Asked
from nca_interp.store import write_json

WHOLE = 32
"""Heads whose attention is kept: all of a model that has no more, else the highest of each probe over all shown runs."""
PER_STEP = ("truth", "top", "sure", "cells", "cells_sure")
Arrays = dict[str, np.ndarray]


def files(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> None:
    """Write both; they are removed where nothing was measured."""
    options = asked.options or PlayerOptions()
    path = collection.dir.tables / "player.npz"
    ids = shown(collection, options.models)
    found = {run.id: steps for run in map(collection.run, ids) if (steps := _steps(run, collection, options))}
    if not any(arrays for steps in found.values() for _, arrays in steps.values()):
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
        return
    stored: Arrays = {}
    entries: list[dict[str, Any]] = []
    for run_id, steps in found.items():
        run = collection.run(run_id)
        entries.append(_entry(f"r{len(entries)}", run, steps, stored, tables["probes"], ids))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **stored)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())
    write_json(path.with_suffix(".json"), {"version": 1, "runs": entries, "left_out": _left_out(collection, options)})


def _steps(run: Run, collection: Collection, options: PlayerOptions) -> dict[int, tuple[dict[str, Any], Arrays]]:
    """By step what is said of a checkpoint, and its arrays (none where it could not be measured)."""
    found: dict[int, tuple[dict[str, Any], Arrays]] = {}
    for step in steps_of(run, options.checkpoints):
        arrays = kept_arrays(run, step, collection)
        rows = kept_rows(run, step, collection)
        if arrays is not None and rows is not None:
            found[step] = ({str(name): said for name, said in rows.attrs.items()}, arrays)
    return found


def _entry(
    key: str, run: Run, steps: dict[int, tuple[dict[str, Any], Arrays]], stored: Arrays, probes: pd.DataFrame, ids: list[str]
) -> dict[str, Any]:  # fmt: skip
    """What player.json says of a run; its arrays go into `stored` under the key."""
    entry: dict[str, Any] = {
        "key": key, "run": run.id, "regime": run.regime, "label": run.label, "domain": run.domain, "seed": run.seed,
        "stage": run.stage, "parent": run.parent, "steps": [], "tokens": [], "sequence": None, "shape": None, "heads": [],
        "words": {}, "note": "",
    }  # fmt: skip
    seen = {step: pair for step, pair in steps.items() if pair[1]}
    if not seen:
        return entry | {"note": next(said["skipped"] for said, _ in steps.values())}
    last = seen[max(seen)][0]
    # what a series of checkpoints is shown is one sequence: one of another vocabulary is left out
    same = {s: pair for s, pair in seen.items() if pair[0]["sequence"] == last["sequence"] and pair[0]["shape"] == last["shape"]}  # fmt: skip
    heads = _heads(last["shape"], probes, ids)
    chosen = [layer * last["shape"][1] + head for layer, head in heads]
    arrays = [pair[1] for pair in same.values()]
    stored[f"{key}-attention"] = np.stack(
        [a["attention"].reshape(-1, a["attention"].shape[-1])[chosen] for a in arrays]
    )
    stored |= {f"{key}-{name}": np.stack([a[name] for a in arrays]) for name in PER_STEP}
    words = {word: text for said, _ in same.values() for word, text in said["words"].items()}
    gone = len(steps) - len(same)
    return entry | {
        "steps": list(same), "tokens": [run.tokens_at.get(s) for s in same], "sequence": last["sequence"], "shape": last["shape"],
        "heads": [list(place) for place in heads], "words": words, "no_effects": last["no_effects"],
        "note": f"{gone} of its checkpoints could not be shown" if gone else "",
    }  # fmt: skip


def _heads(shape: list[int], probes: pd.DataFrame, ids: list[str]) -> list[tuple[int, int]]:
    rows = probes[probes.run.isin(ids) & probes["head"].notna()]
    rows = rows[rows.step == rows.groupby("run").step.transform("max")] if len(rows) else rows
    n_layers, n_heads = shape
    return notable(rows, n_layers, n_heads, WHOLE)


def _left_out(collection: Collection, options: PlayerOptions) -> list[str]:
    """Regimes, or models, that are not among the shown ones."""
    if collection.study is not None:
        return regimes(collection)[options.models :]
    ids = set(shown(collection, options.models))
    return [run.label or run.id for run in collection.runs if run.id not in ids]
