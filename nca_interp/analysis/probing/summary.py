"""Probes in words: a table for the terminal, and the documentation of all of them from their docstrings."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nca_interp.discover import Definition

COLUMNS = ("probe", "max", "head", "mean", "chance", "random 95 %", "hits", "n", "unit")
OPTIONAL = ("random 95 %", "hits")
"""Columns that are empty without `--random`."""
CONTROLS = ("context swap", "frame shuffle")
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


def by_frame(frame: pd.DataFrame) -> list[tuple[str, list[str], list[list[str]]]]:
    """Of what `rule_inference` returned a table for each kind of rules: title, columns, a row a frame; no controls."""
    tables = []
    group: Any
    for rules, group in frame.groupby("rules", sort=False):
        cells = group[(group["quantity"] == "cell_accuracy") & ~group["predictor"].isin(CONTROLS)]
        wide = cells.pivot(index="frame", columns="predictor", values="value")[list(dict.fromkeys(cells["predictor"]))]
        loss = group[(group["quantity"] == "loss") & (group["predictor"] == "teacher-forced")]
        wide.insert(0, "loss", loss.set_index("frame")["value"])
        low, high = group[["band_low", "band_high"]].iloc[0]
        band = "" if pd.isna(low) else f" [{low:g}, {high:g})"
        rows = [
            [str(index), *("" if pd.isna(v) else f"{v:.3f}" for v in values)]
            for index, values in zip(wide.index, wide.to_numpy(), strict=True)
        ]
        title = f"{rules}{band}, {group['n'].max()} rules: nats a patch token, shares of cells predicted"
        tables.append((title, ["frame", *(str(c).replace("-", "-\n") for c in wide.columns)], rows))
    return tables


def what_changed_contexts_cost(learned: dict[str, Any]) -> str:
    """The two controls and the slope of `rule_inference` in a sentence."""

    def told(name: str) -> str:
        value, low, high = (learned[f"{name}{end}"] for end in ("", "_low", "_high"))
        return "not measured" if value is None else f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"

    return (
        f"Nats a patch token: last frame minus first {told('gain')}, slope in ln(frame) {told('slope')}; at the last frame a "
        f"context swap adds {told('swap')}, a frame shuffle {told('shuffle')}."
    )


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
