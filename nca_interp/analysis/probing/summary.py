"""Probes in words: a table for the terminal, and the documentation of all of them from their docstrings."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nca_interp.discover import Definition

COLUMNS = ("probe", "max", "head", "mean", "chance", "random 95 %", "hits", "n", "unit")
OPTIONAL = ("random 95 %", "hits")
"""Columns that are empty without `--random`."""
INTRODUCTION = """# Probes

What every probe measures, from its docstring; written by `nca-interp list --definitions > docs/probes.md`. A[q, k] is the
attention of query q to key k. Unless a definition says otherwise the score of a head is the mean over queries, then over
sequences (`sd`: over sequences); `chance` is what uniform causal attention gives on the same tokens, in a layer with a sliding
window uniform attention to the keys of the window: with that, 1 / (q + 1) reads 1 / min(q + 1, window). With `--random 5`,
and for a study always, the table also has the 95th percentile over the heads of five randomly initialised models (`null_95`), and a
head is a hit if it is above that and above the probe's threshold. Stimuli shrink to a small vocabulary or context; the unit then says
how.
"""


def summarise(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """One row a probe, as in COLUMNS: largest head (or the model's value), its place (layer.head), mean over heads, chance ..."""
    rows: list[tuple[str, ...]] = []
    group: Any
    for name, group in frame.groupby("probe", sort=True):
        heads = group[group["layer"].notna()]
        best: Any = group.iloc[0] if heads.empty else heads.loc[heads["value"].idxmax()]
        place = "model" if heads.empty else f"{int(best['layer'])}.{int(best['head'])}"
        mean = "" if heads.empty else _number(heads["value"].mean())
        hits = "" if group["hit"].isna().all() else str(int(group["hit"].sum()))
        value, chance, null = (_number(best[column]) for column in ("value", "chance", "null_95"))
        rows.append((str(name), value, place, mean, chance, null, hits, str(best["n"]), str(best["unit"])))
    return rows


def annotate(rows: list[tuple[str, ...]]) -> tuple[list[str], list[list[str]], list[str]]:
    """The rows of `summarise` for a narrow screen: columns without the empty ones, rows, and notes.

    What a unit says after a comma (how the stimulus was made to fit) becomes a numbered note."""
    place = COLUMNS.index("unit")
    shown = [i for i, name in enumerate(COLUMNS) if name not in OPTIONAL or any(row[i] for row in rows)]
    notes: dict[str, int] = {}
    lines = []
    for row in rows:
        unit, _, note = row[place].partition(", ")
        mark = f" [{notes.setdefault(note, len(notes) + 1)}]" if note else ""
        lines.append([unit + mark if i == place else row[i] for i in shown])
    return [COLUMNS[i] for i in shown], lines, [f"[{number}] {note}" for note, number in notes.items()]


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.4f}"


def document(definitions: dict[str, Definition]) -> str:
    """Markdown on all probes, a section for each file that defines some."""
    files: dict[str, list[Definition]] = {}
    for _, definition in sorted(definitions.items()):
        files.setdefault(definition.path.name, []).append(definition)
    parts = [INTRODUCTION]
    for name, group in sorted(files.items()):
        title, _, text = group[0].value.doc.partition("\n\n")
        parts.append(f"## {' '.join(title.split()).rstrip('.')}\n\n{text}\n\n`{name}`\n\n{_facts(group)}")
    return "\n".join(parts)


def _facts(group: list[Definition]) -> str:
    rows = ["| probe | reads | stimulus | unit | range | hit above |", "|---|---|---|---|---|---|"]
    for definition in group:
        probe = definition.value
        ends = ["" if end is None else f"{end:g}" for end in (probe.low, probe.high)]
        span = f"{ends[0]} to {ends[1]}" if any(ends) else "unbounded"
        hit = "" if probe.hit is None else f"{probe.hit:g}"
        stimulus = ", ".join(f"{k}={v}" for k, v in probe.stimulus.args.items() if k != "kind" and v is not None)
        kind = probe.stimulus.args["kind"]
        rows.append(f"| {definition.name} | {probe.reads} | {kind}({stimulus}) | {probe.unit} | {span} | {hit} |")
    return "\n".join(rows) + "\n"
