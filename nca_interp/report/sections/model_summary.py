"""What a reader wants first of models from elsewhere: heads of each kind, what is lost without them, their circuit, behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from nca_interp.report.charts.numbers import (
    DASH,
    absent,
    fixed,
    highest,
    interval,
    listing,
    p_value,
    plural,
    signed,
    whole,
)
from nca_interp.report.page import Item, Note, Table
from nca_interp.report.tables import Tables, each

LOSSES = ("repeated_token_loss", "own_loss")
"""Metrics of the sets of heads that the summary shows, unless others bear load."""
SETS = ("induction", "previous_token")
LOST, PATHS = 12, 10
"""Rows of the tables of losses and paths at most; their figures hold all."""
COMPOSITION = "k_composition"
"""Rows of the causes table that say how much a head reads of another's output in its keys."""


def summary(tables: Tables) -> list[Item]:
    """The most important numbers, each from a table that has them all."""
    return [*kinds(tables), *behaviour(tables), *lost(tables), *circuit(tables)]


def kinds(tables: Tables) -> list[Item]:
    """How many heads of each kind each model has, against chance and random weights."""
    rows = tables.final_scores
    rows = rows[rows.value.notna()]
    if rows.empty:
        return []
    hits: Any = tables.hits.set_index(["run", "step", "probe"])
    body, told = [], []
    for run in [r for r in tables.runs.run if r in set(rows.run)]:
        found = {str(p): g for p, g in rows[rows.run == run].groupby("probe")}
        judged = [p for p in found if (run, found[p].step.iloc[0], p) in hits.index]
        counts = {p: hits.loc[(run, found[p].step.iloc[0], p)] for p in judged}
        for p in sorted(judged, key=lambda p: -float(counts[p].hits)):
            c = counts[p]
            body.append((
                tables.names[run], p, whole(c.hits), whole(c.hits_fdr), whole(c.heads), fixed(found[p].value.max()), highest(found[p]),
                fixed(found[p].chance.mean()), fixed(c.null_95), fixed(c.threshold),
            ))  # fmt: skip
        told.append(_told(tables, run, found, {p: float(counts[p].hits) for p in judged}))
    head = (
        "model",
        "kind of head",
        "heads of the kind",
        "at FDR 5 %",
        "of",
        "highest score",
        "where",
        "chance",
        "random heads, 95 %",
        "threshold",
    )
    caption = (
        "Of the kind: above the threshold of the probe (at least twice chance) and above 95 % of the heads of randomly initialised models of one shape. One head in twenty lies above "
        "that percentile by chance; how many are left at a false discovery rate of 5 % stands beside it. Last checkpoint; tables/hits.csv holds all."
    )
    notes: list[Item] = [Note(t) for t in told]
    if not body:
        return [*notes, _scores(tables, rows), Note(f"Heads were not compared with random weights, so that none is called of a kind. Run: nca-interp analyze {tables.dir.path.name} --random 5", quiet=True)]  # fmt: skip
    table = _table(
        tables, head, body, "Heads of each kind, against chance and random weights.", {2, 3, 4, 5, 7, 8, 9}, "tab-kinds"
    )
    return [*notes, table, Note(caption, quiet=True)]


def _scores(tables: Tables, rows: pd.DataFrame) -> Table:
    """The highest head on every probe, models side by side, where no head was compared with random weights."""
    runs = [r for r in tables.runs.run if r in set(rows.run)]
    body = []
    for p, of_probe in rows.groupby("probe"):
        found = dict(list(of_probe.groupby("run")))
        tops = (f"{fixed(found[r].value.max())}, {highest(found[r])}" if r in found else DASH for r in runs)
        body.append((str(p), *tops, fixed(of_probe.chance.mean()), str(of_probe.unit.iloc[0]).split(",")[0]))
    head = ("probe", *(tables.names[r] for r in runs), "chance", "unit")
    return Table(head, tuple(body), "The highest head on every probe.", frozenset({len(runs) + 1}), "tab-highest")


def _table(tables: Tables, head: tuple[str, ...], body: Sequence[tuple[str, ...]], caption: str, numeric: set[int], name: str) -> Table:  # fmt: skip
    """A table whose first column names the model, without it where there is one."""
    if len(tables.runs) > 1:
        return Table(head, tuple(body), caption, frozenset(numeric), name)
    return Table(head[1:], tuple(row[1:] for row in body), caption, frozenset(n - 1 for n in numeric), name)


def _told(tables: Tables, run: str, found: dict[str, pd.DataFrame], hits: dict[str, float]) -> str:
    """One sentence on a model."""
    any_probe = next(iter(found.values()))
    layers, heads = int(any_probe.layer.max()) + 1, len(any_probe)
    some = sorted((p for p, n in hits.items() if n), key=lambda p: -hits[p])
    parts = [f"{whole(hits[p])} {p} ({fixed(found[p].value.max())}, {_place(found[p])})" for p in some]
    none = [p for p, n in hits.items() if not n]
    told = f"{tables.names[run]}: {plural(heads, 'head')} in {plural(layers, 'layer')}. "
    if parts:
        said = f"Heads of a kind, with the highest score and its layer.head: {listing(parts)}."
        return told + said + (f" None: {listing(none)}." if none else "")
    if none:
        return told + f"No head is of any kind that was looked for ({listing(none)})."
    if "induction" in found:
        rows = found["induction"]
        return (
            told
            + f"Highest induction score {fixed(rows.value.max())}, {highest(rows)} (chance {fixed(rows.chance.mean())})."
        )
    return told.strip()


def _place(rows: pd.DataFrame) -> str:
    """`highest`, as 18.6."""
    return highest(rows).removeprefix("layer ").replace(" head ", ".")


def behaviour(tables: Tables) -> list[Item]:
    """What the models do as a whole: scores without a head, side by side."""
    rows = tables.probes[tables.probes["head"].isna() & tables.probes.value.notna() & (tables.probes.stage != "ft")]
    rows = rows[rows.step == rows.groupby("run").step.transform("max")]
    if rows.empty:
        return []
    runs = [r for r in tables.runs.run if r in set(rows.run)]
    cells = rows.set_index(["probe", "run"])
    body = []
    for p in sorted(rows.probe.unique()):
        first = rows[rows.probe == p].iloc[0]
        line = [str(p), str(first.unit).split(",")[0] or DASH]
        for run in runs:
            known = cells.loc[(p, run)] if (p, run) in cells.index else None
            line.append(DASH if known is None else f"{signed(known.value)} ± {fixed(known.sd)}" if not absent(known.sd) else signed(known.value))  # fmt: skip
        if len(runs) == 2:
            a, b = (cells.value.get((p, run), float("nan")) for run in runs)
            line.append(signed(b - a))
        body.append((*line, fixed(first.chance), whole(first.n)))
    names = tuple(tables.names[r] for r in runs)
    head = ("measure", "unit", *names, *(["difference"] if len(runs) == 2 else []), "chance", "sequences")
    caption = "Behaviour of the whole model at the last checkpoint: mean ± standard deviation over sequences."
    return [Table(head, tuple(body), caption, frozenset(range(2, len(head))), "tab-behaviour")]


def lost(tables: Tables) -> list[Item]:
    """What is lost without the highest heads of a probe, against random sets."""
    rows = tables.top_sets[tables.top_sets.stage != "ft"]
    if rows.empty:
        command = f"{tables.dir.analyze()} --causes"
        return [Note(f"What is lost without these heads was not measured; a score says where a head looks, not that the model needs it. Run: {command}", quiet=True)]  # fmt: skip
    bears = rows.verdict == "load-bearing"
    shown = rows[bears | (rows.metric.isin(LOSSES) & rows.probe.isin(SETS))]
    shown = shown.assign(bears=~bears.reindex(shown.index)).sort_values(
        ["bears", "excess"], ascending=[True, False], kind="stable"
    )
    body = tuple(
        (
            tables.label(r.regime), r.probe, r.metric, r.verdict, signed(r.effect), signed(r.random), interval(r.random_low, r.random_high),
            p_value(r.p_bh),
        )
        for r in each(shown.head(LOST))
    )  # fmt: skip
    counts = listing(f"{n} {v}" for v, n in rows.verdict.value_counts().items())
    head = ("model", "heads", "lost", "verdict", "harm", "random sets", "two sd of these", "adjusted p")
    caption = f"What is lost without the highest heads of a probe, in {listing(dict.fromkeys(rows.unit))}. Of all {len(rows)} verdicts: {counts}."
    return [_table(tables, head, body, caption, {4, 5, 6, 7}, "tab-lost")]


def circuit(tables: Tables) -> list[Item]:
    """Paths from previous-token to induction heads: how strongly they compose, and what cutting them costs."""
    rows = tables.causes
    rows = rows[rows.from_head.notna() & rows["head"].notna() & rows.value.notna() & (rows.stage != "ft")]
    keys = ["run", "from_layer", "from_head", "layer", "head"]
    edges = rows[rows.probe == "edge"]
    composed: Any = rows[rows.probe == COMPOSITION].drop_duplicates(keys).set_index(keys)
    if edges.empty:
        return []
    scores = tables.final_scores.set_index(["run", "probe", "layer", "head"]).value
    order = edges.sort_values("value", ascending=False).drop_duplicates(keys)
    body = []
    for r in each(order.head(PATHS)):
        place = (r.run, r.from_layer, r.from_head, r.layer, r.head)
        known = composed.loc[place] if place in composed.index else None
        body.append((
            tables.names.get(r.run, r.run), f"{whole(r.from_layer)}.{whole(r.from_head)}", fixed(scores.get((r.run, "previous_token", r.from_layer, r.from_head))),
            f"{whole(r.layer)}.{whole(r.head)}", fixed(scores.get((r.run, "induction", r.layer, r.head))), signed(r.value, 4), signed(r.full, 4),
            DASH if known is None else fixed(known.value), DASH if known is None else fixed(known.chance),
        ))  # fmt: skip
    head = (
        "model",
        "from head",
        "previous token score",
        "to head",
        "induction score",
        "harm, path cut",
        "harm, later head lost",
        "K-composition",
        "of random weights",
    )
    caption = f"The induction circuit: paths from previous-token to induction heads (layer.head), the {len(body)} that cost most of {len(edges)} measured when they alone are cut."
    return [_table(tables, head, body, caption, {2, 4, 5, 6, 7, 8}, "tab-circuit")]
