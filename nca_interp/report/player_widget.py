"""The player's data as the page holds it: everything but patterns first, then as many patterns as the budget allows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.codes import evenly, levels, linear
from nca_interp.report.packing import fit, number, packed
from nca_interp.report.player_data import Shown, Stage, focus
from nca_interp.report.tables import each

BUDGET = 500_000
"""Characters of the whole player in a page."""
NOTES = 6_000
"""Characters of it that are left for notes."""
LOSSES = 160
"""Points of a loss curve."""
TEACHER = "teacher-forced"
IDEAL = {"oracle": "the rule itself", "mode": "most frequent state", "copy": "copy of the frame before"}
"""Ideal predictors beside the rule-inference curve."""


def widget(shown: Shown) -> dict[str, Any]:
    """The data of player.js, at most BUDGET characters: everything but patterns first, then as many of these as fit."""
    flat = [(model, stage) for model in shown.models for stage in model.stages]
    spans = {p: _span(shown, p) for p in shown.mapped}
    data: dict[str, Any] = {
        "probes": {p: {"low": low, "high": high} for p, (low, high) in spans.items()},
        "initial": initial(shown), "models": [
            {"name": m.name, "label": m.label, "slot": m.slot, "notes": m.notes, "stages": [_stage(shown, s, spans) for s in m.stages]}
            for m in shown.models
        ],
        "study": shown.tables.collection is None, "clock": shown.clock,
    }  # fmt: skip
    place = [{tuple(h): i for i, h in enumerate(stage.entry["heads"])} for _, stage in flat]

    def codes(stage: int, head: tuple[int, int]) -> np.ndarray:
        found = flat[stage][1].arrays["attention"][:, place[stage][head]]
        looks = np.rint(255 * np.clip(focus(found, flat[stage][1].entry["sequence"]), 0, 1)).astype(np.uint8)
        return np.concatenate([levels(found), looks], axis=1)

    allowance = BUDGET - NOTES - len(json.dumps(data))
    leading = sum(len(m.stages) for m in shown.models[:3])
    ranked = [h for h in shown.ranked if all(h in p for p in place)]
    patterns = fit([s.n for _, s in flat], ranked, codes, leading, max(0, allowance))
    stages = [stage for model in data["models"] for stage in model["stages"]]
    for (number_, head), pattern in patterns.items():
        stages[number_]["patterns"][f"{head[0]}.{head[1]}"] = {
            "at": pattern.at,
            "data": pattern.data,
            "changed": pattern.changed,
        }
    return data


def initial(shown: Shown) -> list[int]:
    """Models that are side by side at first: of a study the one that it is about and the first other that has as many checkpoints and
    was pre-pre-trained too, else the second."""
    models = shown.models
    if len(models) < 2:
        return list(range(len(models)))
    size = [s.n for s in models[0].stages]
    alike = [i for i, m in enumerate(models) if i and [s.n for s in m.stages] == size]
    return [0, alike[0] if alike else 1]


def _span(shown: Shown, probe: str) -> tuple[float, float]:
    values = shown.probes[shown.probes.probe == probe].value
    return float(values.min()), float(values.max())


def _stage(shown: Shown, stage: Stage, spans: dict[str, tuple[float, float]]) -> dict[str, Any]:
    e, a = stage.entry, stage.arrays
    scores = shown.probes[shown.probes.run == e["run"]]
    map_at = evenly(stage.n, shown.map_steps)
    words = list(e["words"].values())
    index = {int(w): i for i, w in enumerate(e["words"])}
    top = np.vectorize(lambda t: index.get(int(t), 0), otypes=[np.int64])(a["top"]) if words else a["top"]
    return {
        "stage": e["stage"], "run": e["run"], "shape": e["shape"], "steps": e["steps"], "clock": stage.clock,
        "tokens": [None if t is None else int(t) for t in e["tokens"]], "sequence": e["sequence"], "words": words,
        "map_at": map_at, "maps": {p: packed(codes[map_at]) for p in spans if (codes := _map(scores, stage, p, spans[p])) is not None},
        "truth": packed(a["truth"]), "sure": packed(a["sure"]), "top": packed(np.stack([top % 256, top // 256], -1)) if words else "",
        "cells": packed(a["cells"]) if a["cells"].size else "", "cells_sure": packed(a["cells_sure"]) if a["cells"].size else "",
        "loss": _loss(shown, stage), "rule": _rule(shown, stage), "effects": _effects(shown, stage), "patterns": {},
    }  # fmt: skip


def _map(scores: pd.DataFrame, stage: Stage, probe: str, span: tuple[float, float]) -> np.ndarray | None:
    """uint8 [checkpoint, layer, head] of a probe; None where the run, whose `scores` these are, has none of it."""
    rows = scores[scores.probe == probe]
    rows = rows[rows.step.isin(stage.entry["steps"])]
    if rows.empty:
        return None
    values = np.full((stage.n, *stage.entry["shape"]), np.nan)
    values[
        [stage.entry["steps"].index(s) for s in rows.step.astype(int)], rows.layer.astype(int), rows["head"].astype(int)
    ] = rows.value
    return linear(values, *span)


def _loss(shown: Shown, stage: Stage) -> list[list[float | None]]:
    """(place on the axis, validation loss) over the run's training."""
    rows = shown.tables.metrics
    rows = (
        rows[(rows.run == stage.entry["run"]) & rows.val_loss.notna()]
        .drop_duplicates("step", keep="last")
        .sort_values("step")
    )
    shift = shown.origin(stage.entry)
    points = [[number(getattr(r, shown.clock) - shift, 7), number(r.val_loss, 5)] for r in each(rows)]
    keep: Any = (
        np.unique(np.linspace(0, len(points) - 1, min(len(points), LOSSES)).round().astype(int)) if points else []
    )
    return [points[i] for i in keep]


def _rule(shown: Shown, stage: Stage) -> dict[str, Any] | None:
    """Share of cells predicted, by frame, at each checkpoint, and what ideal predictors reach; None where it was not measured."""
    rows = shown.tables.inference
    rows = rows[
        (rows.run == stage.entry["run"])
        & (rows.rules == "new")
        & (rows.quantity == "cell_accuracy")
        & rows.frame.notna()
    ]
    own = rows[rows.predictor == TEACHER]
    if own.empty:
        return None
    frames = sorted(own.frame.unique())
    by_step = {int(s): g.set_index("frame").value for s, g in own.groupby("step")}
    curves = [
        [number(by_step[s].get(f, np.nan), 3) for f in frames] if s in by_step else None for s in stage.entry["steps"]
    ]
    ideal = {
        IDEAL[p]: [number(g.set_index("frame").value.get(f, np.nan), 3) for f in frames]
        for p, g in rows[rows.predictor.isin(IDEAL)].groupby("predictor")
    }
    return {"frames": [int(f) for f in frames], "curves": curves, "ideal": ideal}


def _effects(shown: Shown, stage: Stage) -> dict[str, Any] | None:
    """By head (layer.head) [value, low, high] of each checkpoint, in nats a token; from the player's own measurement, else from the causes at
    the end of the run; None where neither is there."""
    run, steps = stage.entry["run"], stage.entry["steps"]
    rows = shown.tables.step_effects
    rows = rows[(rows.run == run) & rows.step.isin(steps)]
    if rows.empty:
        rows = shown.tables.causes
        rows = rows[
            (rows.run == run)
            & (rows.probe == "ablation")
            & rows.metric.isin(("own_loss", "nca_loss"))
            & rows.step.isin(steps)
        ]
        metric = "nca_loss" if (rows.metric == "nca_loss").any() else "own_loss"
        rows = rows[rows.metric == metric].assign(low=np.nan, high=np.nan)
    if rows.empty:
        return None
    kept, heads = {f"{a}.{b}" for a, b in stage.entry["heads"]}, dict[str, list[list[float | None] | None]]()
    for r in each(rows):
        place = f"{int(r.layer)}.{int(r.head)}"
        if place in kept:
            heads.setdefault(place, [None] * len(steps))[steps.index(int(r.step))] = [
                number(v, 3) for v in (r.value, r.low, r.high)
            ]
    return {"metric": str(rows.metric.iloc[0]), "n": int(rows.n.iloc[0]), "heads": heads}
