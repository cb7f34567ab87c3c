"""A page for every head: its pattern, its scores and their history, what the model loses without it; and the thumbnails."""

from __future__ import annotations

import base64
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from nca_interp.report.charts.curves import swap_rule
from nca_interp.report.charts.numbers import fixed, highest, plain, plural, whole
from nca_interp.report.charts.raster import attention_png, sheet_png
from nca_interp.report.charts.theme import sized, slot
from nca_interp.report.page import Figure, Item, Widget
from nca_interp.report.render import columnar
from nca_interp.report.sections import head_facts
from nca_interp.report.sections.outcome import missing
from nca_interp.report.tables import Exhibit, Tables, each

HISTORY_VALUES = 450_000
"""Scores over training in one page, of as many runs as fit: 2 bytes each, 1.2 MB in base64."""
CHECKPOINTS = (24, 16, 12, 8)
"""Checkpoints of a stage whose scores are shown, evenly chosen, first and last kept: the most with which two runs fit."""
MISSING = 65535
NO_CAUSES = "What the model loses without this head was not measured. Run: {} --causes"
CAUSAL = ("ablation", "patching", "edge", "ov_copying", "qk_matching")
"""Rows of the causes table that are about one head or one pair of heads."""
FEATURED = {
    "induction": "induction", "previous_token": "previous token", "nca_grid_time": "grid-time", "nca_stencil": "stencil",
    "nca_induction": "NCA induction",
}  # fmt: skip
"""Probes whose highest head is offered where patterns are read cell by cell."""
WHEN = {"pt": "end of pre-training", "ppt": "end of pre-pre-training"}
TRACE = "trace"
"""Data set of the history chart: app.js fills it for the head that is shown."""


def pages(tables: Tables, finals: pd.DataFrame) -> Widget:
    """Data of the page of every head in `finals` (rows of the probes table), reference and scratch first, as many runs as the
    budget allows."""
    runs = _runs(tables, finals)
    history = tables.probes[tables.probes["head"].notna() & tables.probes.value.notna()]
    history = history[history.run.isin([*runs, *runs.values()])]
    history, clock = tables.clock(history)
    history = _thin(history, list(runs.items())[:2])
    sizes = history.groupby("run").size()
    shown: dict[str, str | None] = {}
    left = HISTORY_VALUES
    for run, before in runs.items():
        cost = int(sizes.get(run, 0) + sizes.get(before, 0))
        if cost <= left or not shown:
            shown[run] = before
            left -= cost
    history = history[history.run.isin([*shown, *shown.values()])]
    spans = {str(p): (float(g.value.min()), float(g.value.max())) for p, g in history.groupby("probe")}
    units = history.groupby("probe").unit.first()
    judged = set(finals[finals.hit.notna()].probe)  # probes that name a kind of head
    stages = {str(run): _stage(rows, spans) for run, rows in history.groupby("run", sort=False)}
    first = finals.drop_duplicates("run").set_index("run")
    return Widget("heads", {
        "probes": {name: {"low": low, "high": high, "unit": str(units[name]), "judged": name in judged} for name, (low, high) in spans.items()},
        "pages": {
            run: {
                "name": _page_name(tables, first.loc[run], run), "when": _when(tables, first.loc[run], run),
                "slot": slot(tables.main.index(first.regime[run])), "before": before,
                "stages": [stages[r] for r in (before, run) if r in stages],
            }
            for run, before in shown.items()
        },
        "spec": _history_chart(clock, swap=tables.collection is None), "causes": _causes(tables, shown),
        "facts": head_facts.of(tables, [*shown]), "absent": NO_CAUSES.format(tables.dir.analyze()),
    })  # fmt: skip


def _page_name(tables: Tables, row: Any, run: str) -> str:
    if tables.collection is not None:
        return tables.names[run]
    return f"{row.regime}, {tables.domain_label(row.domain)}, seed {plain(row.seed)}"


def _when(tables: Tables, row: Any, run: str) -> str:
    """At which checkpoint the numbers of a page are, where there are several."""
    if tables.collection is None:
        return WHEN["pt"]
    return f"step {whole(row.step)}" if tables.series(run) else ""


def _runs(tables: Tables, finals: pd.DataFrame) -> dict[str, str | None]:
    """Pre-training run -> the pre-pre-training before it, in the order in which they get pages."""
    if tables.collection is not None:
        return {str(run): None for run in tables.runs.run if run in set(finals.run)}
    order = sorted(tables.main, key=lambda r: r != tables.reference)
    rows = finals.drop_duplicates("run")
    rows = rows.assign(regime_order=rows.regime.map(order.index), domain_order=rows.domain.map([*tables.domains].index))
    rows = rows.sort_values(["seed", "domain_order", "regime_order"])
    earlier = tables.runs[tables.runs.stage == "ppt"].set_index(["regime", "seed"]).run.to_dict()
    pairs = zip(rows.run, rows.regime, rows.seed, strict=True)
    return {str(run): earlier.get((regime, seed)) for run, regime, seed in pairs}


def _thin(history: pd.DataFrame, first: list[tuple[str, str | None]]) -> pd.DataFrame:
    """Rows of evenly chosen steps of each run, as many as let the runs of `first` into the budget."""
    steps = {str(run): np.sort(found) for run, found in history.groupby("run").step.unique().items()}
    must = {run for pair in first for run in pair}
    for most in CHECKPOINTS:
        kept = {
            run: found[np.unique(np.linspace(0, len(found) - 1, most).round().astype(int))]
            for run, found in steps.items()
        }
        pairs = pd.DataFrame([(run, step) for run, chosen in kept.items() for step in chosen], columns=["run", "step"])
        thinned = history.merge(pairs, on=["run", "step"])
        if thinned.run.isin(must).sum() <= HISTORY_VALUES:
            break
    return thinned


def _stage(rows: pd.DataFrame, spans: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """Scores of one run: for each probe 16-bit codes [step, layer, head] between the ends of its span; chance and the 95th
    percentile of random models."""
    times = rows.groupby("step").tokens.first().sort_index()
    layers, heads = int(rows.layer.max()) + 1, int(rows["head"].max()) + 1
    codes, names = pd.factorize(rows.probe)
    values = np.full((len(names), len(times), layers, heads), np.nan)
    place = times.index.get_indexer(pd.Index(rows.step)), rows.layer.astype(int), rows["head"].astype(int)
    values[codes, *place] = rows.value
    low, high = (
        np.array(ends)[:, None, None, None] for ends in zip(*(spans[str(name)] for name in names), strict=True)
    )
    wide = np.where(high == low, 1.0, high - low)
    levels = np.nan_to_num(np.rint((values - low) / wide * (MISSING - 1)), nan=MISSING).astype("<u2")
    probes = {str(name): base64.b64encode(of.tobytes()).decode() for name, of in zip(names, levels, strict=True)}
    means = rows.groupby("probe", sort=False)[["chance", "null_95"]].mean()
    known = {str(name): [None if np.isnan(v) else float(f"{v:.6g}") for v in row] for name, *row in means.itertuples()}
    return {"stage": str(rows.stage.iloc[0]), "tokens": [float(t) for t in times], "shape": [layers, heads], "probes": probes, "levels": known}  # fmt: skip


def _history_chart(clock: str, swap: bool) -> dict[str, Any]:
    """One probe over training, `clock` the title of its axis: the head, the range and mean of all heads, reference levels."""
    data = alt.NamedData(TRACE)
    x = alt.X("tokens:Q", title=clock, axis=alt.Axis(format="~s", tickCount=5))
    y = alt.Y("value:Q", title="score", scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(tickCount=5))
    base = alt.Chart(data).transform_filter("datum.kind == 'score'")
    tone, grey = alt.ExprRef("pal[tone]"), alt.ExprRef("mut")
    tip = [alt.Tooltip("tokens:Q", title=clock, format=",.0f"), *(alt.Tooltip(f"{c}:Q", format=".4f") for c in ("value", "mean", "low", "high"))]  # fmt: skip
    levels = alt.Chart(data).transform_filter("datum.kind == 'level'").encode(y=alt.Y("value:Q"))
    span = levels.encode(x=alt.X("tokens:Q"), x2=alt.X2("until:Q"))
    named = levels.transform_filter("datum.text").encode(x=alt.X("until:Q"), text=alt.Text("text:N"))
    layers = [
        base.mark_area(opacity=0.16, color=grey).encode(x, alt.Y("low:Q", title="score"), y2=alt.Y2("high:Q"), detail=alt.Detail("stage:N")),
        base.mark_line(strokeWidth=1.2, strokeDash=[1, 3], color=grey).encode(x, alt.Y("mean:Q", title="score"), detail=alt.Detail("stage:N")),
        span.mark_rule(strokeDash=[4, 3], strokeWidth=1.2),
        named.mark_text(align="right", dx=-2, dy=8, fontSize=11, color=grey),
        *([swap_rule()] if swap else []),
        base.mark_line(strokeWidth=2.4, color=tone).encode(x, y, detail=alt.Detail("stage:N")),
        base.mark_point(size=44, filled=True, opacity=1, color=tone).encode(x, y, tooltip=tip),
    ]  # fmt: skip
    with alt.data_transformers.enable("default", consolidate_datasets=True), alt.theme.enable("none"):
        chart = sized(alt.layer(*layers).add_params(alt.param(name="tone", value=0)), 230)
        spec: dict[str, Any] = chart.properties(description="Score of this head over training").to_dict(validate=False)
    return {key: value for key, value in spec.items() if key not in ("$schema", "config")}


def _causes(tables: Tables, shown: dict[str, str | None]) -> dict[str, Any] | None:
    rows = tables.causes
    rows = rows[
        rows.value.notna() & rows.probe.isin(CAUSAL) & rows["head"].notna() & rows.run.isin([*shown, *shown.values()])
    ]
    rows = rows[rows.step == rows.groupby("run").step.transform("max")]
    if rows.empty:
        return None
    rows = rows[(rows.probe != "qk_matching") | ~rows["at"].str.startswith("offset")]
    columns = ["run", "probe", "metric", "layer", "head", "from_layer", "from_head", "value", "chance", "sd", "n", "full", "rank", "unit"]  # fmt: skip
    return columnar(rows[columns])


def thumbnails(tables: Tables) -> list[Item]:
    """The attention of every head, one small picture each."""
    exhibits = ordered(tables)
    if not exhibits:
        return [missing("attention pattern", "patterns.npz")]
    entries = [_sheet(tables, e) for e in exhibits]
    layers, heads, side, _ = exhibits[0].thumbnails.shape
    length = len(exhibits[0].entry["tokens"])
    whole = {e["key"]: len(x.patterns) for e, x in zip((x.entry for x in exhibits), exhibits, strict=True)}
    everything = all(n == x.thumbnails.shape[0] * x.thumbnails.shape[1] for n, x in zip(whole.values(), exhibits, strict=True))  # fmt: skip
    kept = (
        "The page of each head has its whole pattern."
        if everything
        else f"The whole pattern is on the page of the {max(whole.values())} heads that score highest on some probe; the others’ pages enlarge the thumbnail."
    )
    encoding = (
        "Click a thumbnail (or press Enter on it) for the page of that head. A row is a layer, a column a head; inside, a row is a query, a column a key. "
        f"Each is {plural(length, 'token')} max-pooled to {side} × {side}, so that a line one token wide stays visible; square-root scale. {kept}"
    )
    rows = pd.DataFrame([who(x) for x in exhibits])
    finding = f"Where all {layers * heads} heads look: {entries[0]['name']}. {_looks(tables, exhibits[0])}"
    return [
        Figure("fig-thumbnails", finding.strip(), encoding, rows, widget=Widget("thumbnails", {"entries": entries}), swatches=False)
    ]  # fmt: skip


def ordered(tables: Tables) -> list[Exhibit]:
    """Exhibits, the regime that the study is about first, natural rows before random tokens."""
    return sorted(
        tables.exhibits,
        key=lambda x: (
            tables.collection is None and x.entry["regime"] != tables.reference,
            tables.collection is None and x.entry["stage"] != "pt",
            "random" in x.entry["shown"],
        ),
    )


def who(exhibit: Exhibit) -> dict[str, Any]:
    """The checkpoint and sequence of an exhibit as cells of a table."""
    e = exhibit.entry
    return {k: "" if e[k] is None else e[k] for k in ("run", "regime", "domain", "seed", "stage", "step", "shown")}


def title(tables: Tables, exhibit: Exhibit) -> str:
    """A checkpoint and its sequence in words."""
    e = exhibit.entry
    if tables.collection is not None:
        step = f", step {whole(e['step'])}" if tables.series(e["run"]) else ""
        return f"{tables.names.get(e['run'], e['run'])}{step}, on {e['shown']}"
    where = tables.domain_label(e["domain"]) if e.get("domain") else WHEN[e["stage"]]
    return f"{e['regime']}, {where}, seed {e['seed']}, on {e['shown']}"


def _sheet(tables: Tables, exhibit: Exhibit) -> dict[str, Any]:
    e, (layers, heads, side, _) = exhibit.entry, exhibit.thumbnails.shape
    run = e["run"]
    if (
        tables.collection is None and e["stage"] == "ppt"
    ):  # a head's page is that of its pre-training on the first domain
        after = tables.runs[
            (tables.runs.stage == "pt") & (tables.runs.regime == e["regime"]) & (tables.runs.seed == e["seed"])
        ]
        run = str(after.run.iloc[0]) if len(after) else run
    return {
        "name": title(tables, exhibit), "run": e["run"], "page": run, "layers": layers, "heads": heads, "side": side,
        "tokens": [str(t) for t in e["tokens"]], "sheet": sheet_png(exhibit.thumbnails),
        "whole": {f"{layer}.{head}": attention_png(p) for (layer, head), p in exhibit.patterns.items()},
    }  # fmt: skip


def _scores(tables: Tables, exhibit: Exhibit, probe: str) -> pd.DataFrame:
    e = exhibit.entry
    rows = tables.probes[(tables.probes.run == e["run"]) & (tables.probes.step == e["step"])]
    return rows[(rows.probe == probe) & rows["head"].notna() & rows.value.notna()]


def _looks(tables: Tables, exhibit: Exhibit) -> str:
    rows = _scores(tables, exhibit, "induction")
    if rows.empty:
        return ""
    return f"Highest induction score: {fixed(rows.value.max())}, {highest(rows)} (chance {fixed(rows.chance.max())})."


def _featured(tables: Tables) -> dict[str, str]:
    """Probe -> its name in words: of checkpoints from elsewhere every one that names a kind of head."""
    if tables.collection is None:
        return FEATURED
    return FEATURED | {p: p.replace("_", " ") for p in tables.hits.probe.unique() if p not in FEATURED}


def patterns(tables: Tables) -> list[Item]:
    """The highest head of each featured probe on each sequence, cell by cell."""
    entries: list[dict[str, Any]] = []
    rows = []
    for number, exhibit in enumerate(ordered(tables)):
        for probe, word in _featured(tables).items():
            scores = _scores(tables, exhibit, probe).sort_values("value", ascending=False)
            place = next(((int(r.layer), int(r.head)) for r in each(scores)), None)
            if place is None or place not in exhibit.patterns:
                continue
            name = f"{title(tables, exhibit)}: layer {place[0]} head {place[1]} (highest {word}, {fixed(scores.value.iloc[0])})"
            entries.append({"name": name, "exhibit": number, "place": f"{place[0]}.{place[1]}"})
            rows.append({**who(exhibit), "layer": place[0], "head": place[1], "probe": probe, "score": float(scores.value.iloc[0])})  # fmt: skip
    if not entries:
        return []
    encoding = (
        "A row is a query token, a column a key token it may look back at; darker (in dark mode: lighter) is more attention, on a square-root "
        "scale so that small weights show. Point at a cell, or focus the map and use the arrow keys, to read both tokens and the probability."
    )
    return [
        Figure("fig-pattern", f"{entries[0]['name']}.", encoding, pd.DataFrame(rows), widget=Widget("attention", {"entries": entries}), swatches=False)
    ]  # fmt: skip
