"""Probes in words: a table for the terminal, and the documentation of all of them from their docstrings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import pandas as pd

from nca_interp.discover import Definition

COLUMNS = ("probe", "max", "head", "mean", "chance", "random 95 %", "hits", "n")
OPTIONAL = ("random 95 %", "hits")
"""Columns that are empty without `--random`."""
WIDTH = 79
INTRODUCTION = """# Probes

What every probe measures, from its docstring; written by `nca-interp list --definitions > docs/probes.md`. A[q, k] is the
attention of query q to key k. Unless a definition says otherwise the score of a head is the mean over queries, then over
sequences (`sd`: over sequences); `chance` is what uniform causal attention gives on the same tokens, in a layer with a sliding
window uniform attention to the keys of the window: with that, 1 / (q + 1) reads 1 / min(q + 1, window). With `--random 5`,
and for a study always, the table also has the 95th percentile over the heads of five randomly initialised models (`null_95`), and a
head is a hit if it is above that, above the probe's threshold and above twice chance. Stimuli shrink to a small vocabulary or context; the unit then says
how.
Natural text is the validation rows that a model of ours was trained beside; of a model of others an English text that every
Python has, its language reference, or what `--tokens` gives (a token directory, or a file of text); the tables name it.
"""


def summarise(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """One row a probe, as in COLUMNS: largest score (or the model's value), the place of its head (layer.head, or how many heads
    share it), mean over heads, chance ..."""
    rows: list[tuple[str, ...]] = []
    group: Any
    for name, group in frame.groupby("probe", sort=True):
        heads = group[group["layer"].notna()]
        best: Any = group.iloc[0] if heads.empty else heads.loc[heads["value"].idxmax()]
        place = "model" if heads.empty else f"{int(best['layer'])}.{int(best['head'])}"
        if (tied := int((heads["value"] == best["value"]).sum())) > 1:
            place = f"{tied} heads"
        mean = "" if heads.empty else _number(heads["value"].mean())
        hits = "" if group["hit"].isna().all() else str(int(group["hit"].sum()))
        value, chance, null = (_number(best[column]) for column in ("value", "chance", "null_95"))
        rows.append((str(name), value, place, mean, chance, null, hits, str(best["n"])))
    return rows


def columns(rows: list[tuple[str, ...]]) -> tuple[list[str], list[list[str]]]:
    """The rows of `summarise` without their empty columns: names of the columns, rows."""
    shown = [i for i, name in enumerate(COLUMNS) if name not in OPTIONAL or any(row[i] for row in rows)]
    return [COLUMNS[i].replace("random ", "random\n") for i in shown], [[row[i] for i in shown] for row in rows]


def units(frame: pd.DataFrame) -> Iterator[str]:
    """Lines that say in which unit each probe is, and how its stimulus was made to fit."""
    by_unit: dict[str, list[str]] = {}
    for name, unit in frame.groupby("probe", sort=True)["unit"].first().items():
        by_unit.setdefault(str(unit), []).append(str(name))
    for unit, names in sorted(by_unit.items()):
        yield textwrap.fill(f"{unit}: {', '.join(names)}", WIDTH, subsequent_indent="  ", break_long_words=False)


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
