"""Probes in words: a table for the terminal, and the documentation of all of them from their docstrings."""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd

from nca_interp.discover import Definition

COLUMNS = ("probe", "max", "head", "chance", "random\n95 %", "hits", "unit")
OPTIONAL = ("random\n95 %", "hits")
"""Columns that are empty without `--random`."""
WIDTH = 80
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
    """One row a probe, as in COLUMNS: largest head (or the model's value), its place (layer.head; `69 tie` where so many heads
    have that score to the digits that are shown), chance, the 95th percentile of random models, hits, unit."""
    rows: list[tuple[str, ...]] = []
    group: Any
    for name, group in frame.groupby("probe", sort=True):
        heads = group[group["layer"].notna()]
        best: Any = group.iloc[0] if heads.empty else heads.loc[heads["value"].idxmax()]
        hits = "" if group["hit"].isna().all() else str(int(group["hit"].sum()))
        value, chance, null = (_number(best[column]) for column in ("value", "chance", "null_95"))
        rows.append((str(name), value, _place(heads), chance, null, hits, str(best["unit"])))
    return rows


def _place(heads: pd.DataFrame) -> str:
    if heads.empty:
        return "model"
    top = heads[heads["value"].map(_number) == _number(heads["value"].max())]
    return f"{len(top)} tie" if len(top) > 1 else f"{int(top['layer'].iloc[0])}.{int(top['head'].iloc[0])}"


def annotate(rows: list[tuple[str, ...]]) -> tuple[list[str], list[list[str]], list[str]]:
    """The rows of `summarise` for a screen of WIDTH columns: columns without the empty ones, rows, and notes, which hold the
    units by number and every tie in words."""
    units: dict[str, int] = {}
    shown = [i for i, name in enumerate(COLUMNS) if name not in OPTIONAL or any(row[i] for row in rows)]
    lines, ties = [], []
    for row in rows:
        unit = row[-1]
        mark = f"[{units.setdefault(unit, len(units) + 1)}]" if unit else ""
        lines.append([mark if i == len(row) - 1 else row[i] for i in shown])
        if row[2].endswith(" tie"):
            ties.append(f"{row[0]}: {row[2].split()[0]} heads tie at {row[1]}")
    return [COLUMNS[i] for i in shown], lines, [*map(wrapped, [*(f"[{n}] {unit}" for unit, n in units.items()), *ties])]


def wrapped(text: str) -> str:
    """Text in lines of WIDTH columns."""
    return textwrap.fill(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False)


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
