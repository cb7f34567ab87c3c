"""Probes in words: a table for the terminal, and the documentation of all of them from their docstrings."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nca_interp.discover import Definition

COLUMNS = ("probe", "max", "at layer.head", "mean", "chance", "random 95 %", "hits", "unit", "n")
INTRODUCTION = """# Probes

What every probe measures, from its docstring; written by `nca-interp list --definitions > docs/probes.md`. A[q, k] is the
attention of query q to key k. Unless a definition says otherwise the score of a head is the mean over queries, then over
sequences (`sd`: over sequences); `chance` is what uniform causal attention gives on the same tokens. With `--random 5` the table
also has the 95th percentile over the heads of five randomly initialised models (`null_95`), and a head is a hit if it is above
that and above the probe's threshold. Stimuli shrink to a small vocabulary or context; the unit then says how.
"""


def summarise(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """One row a probe, as in COLUMNS: largest head (or the model's value), its place, mean over heads, chance, unit, n."""
    rows: list[tuple[str, ...]] = []
    group: Any
    for name, group in frame.groupby("probe", sort=True):
        heads = group[group["layer"].notna()]
        best: Any = group.iloc[0] if heads.empty else heads.loc[heads["value"].idxmax()]
        place = "model" if heads.empty else f"{int(best['layer'])}.{int(best['head'])}"
        mean = "" if heads.empty else _number(heads["value"].mean())
        hits = "" if group["hit"].isna().all() else str(int(group["hit"].sum()))
        value, chance, null = (_number(best[column]) for column in ("value", "chance", "null_95"))
        rows.append((str(name), value, place, mean, chance, null, hits, str(best["unit"]), str(best["n"])))
    return rows


def by_frame(frame: pd.DataFrame) -> list[tuple[str, list[str], list[list[str]]]]:
    """Of what `rule_inference` returned a table for each kind of rules: title, columns, a row a frame."""
    tables = []
    group: Any
    for rules, group in frame.groupby("rules", sort=False):
        loss = group[group["quantity"] == "loss"].assign(predictor=lambda f: "loss, " + f["predictor"])
        shown = pd.concat(
            [group[group["quantity"] == "cell_accuracy"], loss[loss["predictor"] == "loss, teacher-forced"]]
        )
        wide = shown.pivot(index="frame", columns="predictor", values="value")[list(dict.fromkeys(shown["predictor"]))]
        low, high = group[["band_low", "band_high"]].iloc[0]
        band = "" if pd.isna(low) else f", gzip ratio in [{low:g}, {high:g})"
        rows = [[str(index), *map(_number, values)] for index, values in zip(wide.index, wide.to_numpy(), strict=True)]
        title = f"{group['n'].max()} rules: {rules}{band}; share of cells predicted, and nats a patch token"
        tables.append((title, ["frame", *map(str, wide.columns)], rows))
    return tables


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
