"""Heads of checkpoints that come from elsewhere: every probe as a map, the ranking of heads, what differs between two models."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nca_interp.report.charts import ranks
from nca_interp.report.charts.heatmaps import changes, heat
from nca_interp.report.charts.numbers import DASH, absent, fixed, highest, listing, plural, signed, whole
from nca_interp.report.page import Chart, Choice, Figure, Item, Note, Section, Table, Widget
from nca_interp.report.sections import head_page
from nca_interp.report.sections.heads import option, reference, summary, wide
from nca_interp.report.tables import Tables, each

SHOWN_SCORES = 150_000
"""Scores that are drawn, 8 bytes each in the page: of as many models as fit."""
SIDE_BY_SIDE = 2
"""Models whose heads are also ranked."""
CHANGED = 20
"""Heads that changed most, listed."""


def sections(tables: Tables) -> tuple[Section, ...]:
    """Maps of all probes, one probe at large, patterns; of two models of one shape what differs."""
    rows = tables.final_scores
    rows = rows[rows.value.notna()]
    if rows.empty:
        return (
            Section("heads", "Heads", (Note("No head was scored: the engine cannot enter these models.", quiet=True),)),
        )
    runs = shown(tables, rows)
    drawn = rows[rows.run.isin(runs)]
    return (
        Section("heads", "Every head on every probe", (overview(tables, drawn, runs), one_probe(tables, rows, runs))),
        Section("changed", "Which heads differ", (*differences(tables, drawn, runs),)),
        Section("patterns", "Where heads look", (*head_page.thumbnails(tables), *head_page.patterns(tables))),
    )


def shown(tables: Tables, rows: pd.DataFrame) -> list[str]:
    """The first runs, as many as fit, at least one."""
    sizes = rows.groupby("run").size()
    order = [str(r) for r in tables.runs.run if r in sizes.index]
    total = sizes.reindex(order).cumsum()
    return [r for i, r in enumerate(order) if i == 0 or total[r] <= SHOWN_SCORES]


def ordered(rows: pd.DataFrame) -> list[str]:
    """Probes: those with hits first, then those that name a kind of head, then the others."""
    hits = rows.groupby("probe").hit.sum(min_count=1)
    return sorted(hits.index, key=lambda p: (p != "induction", not hits[p] > 0, absent(float(hits[p])), p))


def spans(rows: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Lowest and highest score of each probe: one colour scale for all models."""
    return {str(p): (float(g.value.min()), float(g.value.max()) + 1e-9) for p, g in rows.groupby("probe", sort=False)}


def overview(tables: Tables, rows: pd.DataFrame, runs: list[str]) -> Figure:
    """A small map for each probe and model."""
    probes, ends = ordered(rows), spans(rows)
    first = rows[rows.run == runs[0]]
    models = [
        {
            "run": run, "name": tables.names[run], "layers": 1 + int(part.layer.max()), "heads": 1 + int(part["head"].max()),
            "tops": {str(p): _top(g) for p, g in part.groupby("probe")},
        }
        for run in runs
        for part in [rows[rows.run == run]]
    ]  # fmt: skip
    hits = first[first.hit == 1].groupby("probe").size()
    told = [f"{whole(hits[p])} of {p}" for p in probes if p in hits.index]
    none = "no head is of any kind" if first.hit.notna().any() else "heads were not compared with random weights"
    heads = plural(len(first.drop_duplicates(["layer", "head"])), "head")
    finding = f"{heads} of {tables.names[runs[0]]}, {plural(len(probes), 'probe')}: {listing(told) or none}."
    encoding = (
        "A row is a layer (0 at the top), a column a head; darker (in dark mode: lighter) is higher, on a scale of its own for each probe, the same for "
        "all models. Outlined: of the kind, above the probe's threshold, twice chance and the 95th percentile of random models. Point at a cell to read it; "
        "click it for the page of that head, or the name of a probe for the large map below, which also takes the arrow keys."
    )
    data = {"models": models, "spans": {p: list(ends[p]) for p in probes}, "source": "fig-heads"}
    return Figure("fig-maps", finding, encoding, summary(rows), widget=Widget("maps", data), swatches=False)


def _top(rows: pd.DataFrame) -> str:
    return f"{fixed(rows.value.max())}, {highest(rows)}"


def one_probe(tables: Tables, rows: pd.DataFrame, runs: list[str]) -> Figure:
    """One probe at a time, a map and the ranking of each model; carries the pages of the heads."""
    drawn = rows[rows.run.isin(runs)]
    probes, ends, table = ordered(drawn), spans(drawn), wide(drawn)
    written = drawn["head"].nunique() <= 6
    parts = {run: table[table.run == run].drop(columns=["regime", "domain", "seed"]) for run in runs}
    views = []
    for run, part in parts.items():
        chart = heat(part, ends, written, where=None)
        views.append(Chart(chart, f"Heads of {tables.names[run]}", tables.names[run]))
    for run, part in parts.items() if len(runs) <= SIDE_BY_SIDE else ():
        name = f"{tables.names[run]}, ranked"
        views.append(Chart(ranks.ranked(part, reference(drawn[drawn.run == run])), f"Heads of {name}", name))
    first = drawn[(drawn.probe == probes[0]) & (drawn.run == runs[0])]
    hidden = (
        ""
        if len(runs) == rows.run.nunique()
        else f" Drawn are the first {plural(len(runs), 'model')} of {rows.run.nunique()}."
    )
    encoding = (
        "Click a head, or choose it with the arrow keys and press Enter, for its page. Map: a row is a layer, a column a head. Ranking: all heads, highest "
        "first; dashed: chance and, where random models were measured, the 95th percentile of their heads. Outlined and coloured: of the kind, above the "
        f"probe's threshold, twice chance and that percentile.{hidden} tables/probes.csv holds every head."
    )
    return Figure(
        "fig-heads", f"Highest {probes[0]} score of {tables.names[runs[0]]}: {_top(first)} (chance {fixed(first.chance.mean())}).",
        encoding, summary(drawn), tuple(views), widget=head_page.pages(tables, drawn),
        choices=(Choice("probe", "Probe", tuple((p, option(drawn[drawn.probe == p])) for p in probes)),),
        columns=2 if len(runs) <= SIDE_BY_SIDE else 3, swatches=False,
    )  # fmt: skip


def differences(tables: Tables, rows: pd.DataFrame, runs: list[str]) -> list[Item]:
    """Score by score, what the second of two models of one shape has more than the first."""
    if len(runs) != 2 or tables.runs.run.nunique() != 2:
        return []
    one, two = runs
    keys = ["probe", "layer", "head"]
    a, b = (rows[rows.run == run].set_index(keys) for run in runs)
    shapes = [x.reset_index()[["layer", "head"]].max().tolist() for x in (a, b)]
    if shapes[0] != shapes[1]:
        return [
            Note(
                "The two models have different numbers of layers or heads, so that no head of one corresponds to a head of the other.",
                quiet=True,
            )
        ]
    first = a[["value", "hit", "unit"]].rename(columns={"value": "value_a", "hit": "hit_a"})
    second = b[["value", "hit"]].rename(columns={"value": "value_b", "hit": "hit_b"})
    moved = first.join(second, how="inner").reset_index()
    moved["difference"] = moved.value_b - moved.value_a
    width = pd.Series({p: high - low for p, (low, high) in spans(rows).items()})
    moved["share"] = moved.difference.abs() / moved.probe.map(width)
    return [_difference_map(tables, moved, one, two), _changed(tables, moved, one, two)]


def _difference_map(tables: Tables, moved: pd.DataFrame, one: str, two: str) -> Figure:
    mean = moved.groupby("probe").difference.apply(lambda d: d.abs().mean())
    most = moved.groupby("probe").share.max().sort_values(ascending=False)
    table = moved.pivot_table(index=["layer", "head"], columns="probe", values="difference", sort=False).reset_index()
    table = table.assign(run=two)
    limits = {str(p): float(g.difference.abs().max()) + 1e-9 for p, g in moved.groupby("probe", sort=False)}
    chart = changes(table, limits)
    pairs = moved.groupby("probe")[["value_a", "value_b"]]
    correlation = {str(p): g.corr("spearman").iloc[0, 1] for p, g in pairs}
    options = tuple(
        (p, f"{p} (mean change {fixed(mean[p])}, rank correlation {fixed(correlation[p], 2)})") for p in most.index
    )
    data = moved.drop(columns=["share"])
    top: Any = moved.nlargest(1, "share").iloc[0]
    finding = (
        f"The largest change for the range of its probe: {top.probe}, layer {whole(top.layer)} head {whole(top['head'])}, "
        f"{fixed(top.value_a)} in {tables.names[one]}, {fixed(top.value_b)} in {tables.names[two]}."
    )
    encoding = (
        f"Score in {tables.names[two]} minus score in {tables.names[one]}, head by head, for models of one shape. Heads correspond where one model was "
        "trained from the other; else equal numbers say nothing, and the rank correlation over heads shows it."
    )
    view = Chart(chart, "Change of every head", f"{tables.names[two]} minus {tables.names[one]}")
    choice = Choice("probe", "Probe", options)
    return Figure("fig-changed", finding, encoding, data, (view,), choices=(choice,), columns=2, swatches=False)


def _changed(tables: Tables, moved: pd.DataFrame, one: str, two: str) -> Table:
    top = moved.sort_values("share", ascending=False, kind="stable").head(CHANGED)
    body = tuple(
        (
            f"{whole(r.layer)}.{whole(r.head)}", r.probe, fixed(r.value_a), fixed(r.value_b), signed(r.difference),
            _kind(r.hit_a, r.hit_b), r.unit,
        )
        for r in each(top)
    )  # fmt: skip
    head = ("layer.head", "probe", tables.names[one], tables.names[two], "difference", "of the kind", "unit")
    judged = moved[moved.hit_a.notna() & moved.hit_b.notna()]
    gained, lost = (int(((judged.hit_a == x) & (judged.hit_b == 1 - x)).sum()) for x in (0, 1))
    counts = f" Over all probes {gained} times a head is of a kind only in {tables.names[two]}, {lost} times only in {tables.names[one]}." if len(judged) else ""  # fmt: skip
    caption = f"The {len(top)} largest changes, for the range of their probe.{counts}"
    return Table(head, body, caption, frozenset({2, 3, 4}), "tab-changed")


def _kind(before: Any, after: Any) -> str:
    if absent(before) or absent(after):
        return DASH
    return {(0, 0): "neither", (1, 1): "both", (0, 1): "second only", (1, 0): "first only"}[int(before), int(after)]
