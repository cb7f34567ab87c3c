"""Tables of what was asked: a row a run, task and k; regimes over seeds; contrasts; beside the published numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import CHECKPOINT, Run
from nca_interp.analysis.reasoning.study import applies, end_of, last_kept
from nca_interp.analysis.reasoning.verdicts import contrasts, over_seeds
from nca_interp.analysis.verdicts.statistics import Interval, t_interval, wilson
from nca_interp.evaluate.cards import of_problems
from nca_interp.evaluate.scores import macro, mean_known, normalised
from nca_interp.evaluate.task import benchmarks
from nca_interp.measurement import Asked, Shown

PUBLISHED = Path(__file__).with_name("published.json")
EVALUATIONS = [
    *CHECKPOINT, "task", "part", "sampling", "k", "samples", "value", "low", "high", "normalised", "chance", "problems", "skipped", "final",
]  # fmt: skip
BESIDE = ["task", "k", "metric", "regime", "published", "ours", "ours_low", "ours_high", "why", "source"]
NOTES = ["run", "step", "note"]


def tables(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> dict[str, pd.DataFrame]:
    """The tables `evaluations`, `evaluation_regimes`, `evaluation_contrasts`, `evaluation_published` and `evaluation_notes`; none
    where nothing was asked."""
    rows: list[dict[str, Any]] = []
    notes: list[tuple[str, int, str]] = []
    ends: dict[str, pd.DataFrame] = {}
    for run in collection.runs:
        if not (applies(run) and run.done):
            continue
        for step in run.steps:
            if (frame := last_kept(run, step)) is None:
                continue
            rows += [{**row, "final": int(step == end_of(run))} for row in of_checkpoint(run, step, frame)]
            notes += [(run.id, step, note) for note in frame.attrs["notes"]]
            if step == end_of(run):
                ends[run.id] = frame
    if not rows:
        return {}
    table = pd.DataFrame(rows, columns=EVALUATIONS)
    regimes = over_seeds(collection, table, ends)
    return {
        "evaluations": table,
        "evaluation_regimes": regimes,
        "evaluation_contrasts": contrasts(collection, table, ends),
        "evaluation_published": beside_published(table, regimes),
        "evaluation_notes": pd.DataFrame(notes, columns=NOTES),
    }


def of_checkpoint(run: Run, step: int, frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows of one checkpoint: each task as a whole (part empty), then its parts, for every k; then what the harness's own tasks say."""
    samples = int(frame.attrs["samples"])
    for task, rows in frame.groupby("task", sort=False):
        choose = (rows.kind == "choose").all()
        parts = {str(name): part for name, part in rows.groupby("part", sort=False)}
        head = {**run.at(step), "task": task, "sampling": rows.sampling.iloc[0], "samples": 1 if choose else samples}
        for k in [1] if choose else frame.attrs["k"]:
            single = {str(name): _single(part, k) for name, part in parts.items()}
            floor = bool((own := benchmarks().get(str(task).partition(":")[0])) and own.floor)
            yield {**head, "part": "", "k": k, **_whole(single, floor)}
            if len(parts) > 1:
                yield from ({**head, "part": name, "k": k, **one} for name, one in single.items())
    for task, metric, value, n in frame.attrs.get("foreign", []):
        yield {
            **run.at(step),
            "task": task,
            "part": metric,
            "sampling": "harness",
            "k": 1,
            "samples": 1,
            "value": value,
            "problems": n,
            "skipped": 0,
        }


def _single(rows: pd.DataFrame, k: int) -> dict[str, Any]:
    """Value, interval over problems and normalised value of one part. The interval is Wilson's where every problem counts 0 or 1."""
    values = of_problems(rows, k)
    known = [v for v in values if not math.isnan(v)]
    whole = all(v in (0.0, 1.0) for v in known)
    found = Interval(math.nan, math.nan, math.nan)
    if known:
        found = wilson(round(sum(known)), len(known)) if whole else t_interval(known)
    chance = float(rows.chance.mean())
    return {
        "value": found.value, "low": max(0.0, found.low), "high": min(1.0, found.high), "chance": chance,
        "normalised": normalised(found.value, chance), "problems": len(known), "skipped": len(values) - len(known),
    }  # fmt: skip


def _whole(parts: dict[str, dict[str, Any]], floor: bool) -> dict[str, Any]:
    """Each part counts once; independent errors of the parts."""
    if len(parts) == 1:
        one = next(iter(parts.values()))
        return {**one, "normalised": macro({"": one["normalised"]}, floor)}
    value = macro({name: p["value"] for name, p in parts.items()})
    half = math.sqrt(sum(((p["high"] - p["low"]) / 2) ** 2 for p in parts.values())) / len(parts)
    return {
        "value": value, "low": max(0.0, value - half), "high": min(1.0, value + half),
        "normalised": macro({name: p["normalised"] for name, p in parts.items()}, floor),
        "chance": mean_known([p["chance"] for p in parts.values()]), "problems": sum(p["problems"] for p in parts.values()),
        "skipped": sum(p["skipped"] for p in parts.values()),
    }  # fmt: skip


def beside_published(table: pd.DataFrame, regimes: pd.DataFrame) -> pd.DataFrame:
    """Published numbers of the tasks that were asked, ours beside them where a regime has that name."""
    known = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    rows = []
    for entry in known["numbers"]:
        here = table[(table.task == entry["task"]) & (table.part == "")]
        if here.empty:
            continue
        ours = _ours(entry, here, regimes)
        rows.append({
            **{name: entry[name] for name in ("task", "k", "metric", "regime", "published", "source")},
            "ours": ours.value, "ours_low": ours.low, "ours_high": ours.high,
            "why": f"published: {known['setting'][entry['task']]}; here: {here.sampling.iloc[0]}, {here.samples.iloc[0]} answer(s) a problem, "
            f"{here.problems.max()} problems",
        })  # fmt: skip
    return pd.DataFrame(rows, columns=BESIDE)


def _ours(entry: dict[str, Any], here: pd.DataFrame, regimes: pd.DataFrame) -> Interval:
    if entry["metric"] == "normalised":
        last = here[here.final == 1]
        values = last[(last.regime == entry["regime"]) & (last.k == entry["k"])].normalised
        found = t_interval(values.to_numpy(dtype=float)) if len(values) else Interval(math.nan, math.nan, math.nan)
        return Interval(*(100 * v for v in found))
    row = regimes[(regimes.task == entry["task"]) & (regimes.regime == entry["regime"]) & (regimes.k == entry["k"])]
    row = row.sort_values("stage")  # fine-tuned before pre-trained
    if row.empty:
        return Interval(math.nan, math.nan, math.nan)
    return Interval(*(100 * float(row.iloc[0][name]) for name in ("value", "low", "high")))


def summary(collection: Collection, tables: dict[str, pd.DataFrame]) -> Iterator[Shown | str]:
    """Every task of every checkpoint."""
    table = tables.get("evaluations")
    if table is None or table.empty:
        return
    whole = table[table.part.isna() | (table.part.astype(str) == "")]
    steps = whole.step.nunique() > 1
    rows: Iterator[Any] = whole.itertuples(index=False)
    lines = [
        [
            str(r.run), *([str(r.step)] if steps else []), str(r.task), str(r.k), _percent(r.value), f"{_percent(r.low)} to {_percent(r.high)}",
            _percent(r.chance), f"{r.problems:.0f}" + (f" ({r.skipped:.0f} skipped)" if r.skipped else ""),
        ]
        for r in rows
    ]  # fmt: skip
    yield Shown(
        "Reasoning tasks, % right",
        ["run", *(["step"] if steps else []), "task", "k", "pass@k", "95 %", "chance", "of"],
        lines,
        ("run", "task"),
    )
    for note in tables["evaluation_notes"].note.drop_duplicates() if "evaluation_notes" in tables else ():
        yield f"note: {note}"


def _percent(value: Any) -> str:
    return "-" if pd.isna(value) else f"{100 * value:.1f}"
