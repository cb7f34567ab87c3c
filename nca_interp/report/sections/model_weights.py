"""Weights and streams of checkpoints that come from elsewhere: sizes, spectra, how alike two models are, how far training moved."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd

from nca_interp.report.charts import layers as layer_charts
from nca_interp.report.charts.curves import curves
from nca_interp.report.charts.heatmaps import heat
from nca_interp.report.charts.numbers import fixed, listing, plain, whole
from nca_interp.report.page import Chart, Choice, Figure, Item, Note, Section, Table
from nca_interp.report.sections.outcome import mean_over_seeds
from nca_interp.report.tables import Tables, each

MEASURES = {"norm": "Frobenius norm", "effective_rank": "effective rank", "participation": "participation ratio"}
STREAMS = {"effective_rank": "effective rank", "participation": "participation ratio"}
NORMS = {"ov_norm": "OV circuit, |W_V W_O|", "qk_norm": "QK circuit, |W_Q W_Kᵀ|"}
SHOWN_MAPS = 3
"""Pairs of models, and models, whose maps are drawn."""


def sections(tables: Tables) -> tuple[Section, ...]:
    """What measurement `compare` says of models that are not a study's."""
    return (
        Section("weights", "Weights", (*tensors(tables), *heads(tables), *streams(tables))),
        Section("alike", "Are the models alike inside?", (*apart(tables), *layers_alike(tables), *moved(tables), *own_end(tables))),
    )  # fmt: skip


def _last(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows.step == rows.groupby("run").step.transform("max")]


def _short(tensor: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight` -> `self_attn.q_proj`, `transformer.h.3.attn.c_attn.bias` -> `attn.c_attn.bias`."""
    parts = tensor.removesuffix(".weight").split(".")
    layer = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return tensor if layer is None else ".".join(parts[layer + 1 :])


def _by_layer(tables: Tables, rows: pd.DataFrame, y_title: str, where: str, keys: list[str]) -> Chart:
    mean = mean_over_seeds(rows, ["regime", *keys, "layer"]).sort_values(["regime", "layer"])
    raw = rows.assign(run=rows.run + rows[keys].astype(str).agg("/".join, axis=1))
    chart = layer_charts.by_layer(
        raw[["regime", "run", "layer", "value", *keys]], mean, tables.main, y_title, where=where
    )
    return Chart(chart, f"{y_title} by layer")


def tensors(tables: Tables) -> list[Item]:
    """Size and spectrum of every kind of weight matrix over the depth."""
    rows = _last(tables.weights[tables.weights.layer.notna() & (tables.weights.stage != "ft")])
    if rows.empty or "norm" not in rows:
        return []
    keys = ["run", "regime", "layer", "tensor"]
    every = rows.assign(tensor=rows.tensor.map(_short)).melt(keys, list(MEASURES), "measure", "value")
    every = every[every.value.notna()]
    names = sorted(every.tensor.unique(), key=lambda t: ("norm" in t, t))
    choices = (
        Choice("tensor", "Weights", tuple((t, t) for t in names)),
        Choice("measure", "Measure", tuple(MEASURES.items())),
    )
    where = "datum.tensor == tensor && datum.measure == measure"
    sizes = every[every.measure == "norm"].groupby("tensor").value.agg(["min", "max"])
    told = [
        f"{t} {plain(float(sizes['min'][t]))} to {plain(float(sizes['max'][t]))}" for t in names if t in sizes.index
    ]
    finding = f"Norms, least and largest over layers and models: {'; '.join(told[:4])}."
    encoding = (
        "Last checkpoint. Effective rank: exp of the entropy of the normalised singular values; participation ratio: (sum s²)² / sum s⁴, s the singular "
        "values. Both count the directions that a matrix uses; vectors have none. tables/weights.csv holds every tensor."
    )
    return [Figure("fig-norms", finding, encoding, every, (_by_layer(tables, every, "value", where, ["tensor", "measure"]),), choices=choices, columns=1)]  # fmt: skip


def heads(tables: Tables) -> list[Item]:
    """Norms of what each head moves and of how sharply it chooses."""
    rows = _last(tables.head_norms)
    unread: list[Item] = [
        Note(f"The norms of the heads of {tables.names.get(r.run, r.run)} cannot be read off its weights: {r.reason}.", quiet=True)
        for r in each(tables.not_read)
    ]  # fmt: skip
    if rows.empty:
        return unread
    runs = [r for r in tables.runs.run if r in set(rows.run)][:SHOWN_MAPS]
    drawn = rows[rows.run.isin(runs)].assign(hits="")
    spans = {name: (float(drawn[name].min()), float(drawn[name].max()) + 1e-9) for name in NORMS}
    columns = ["run", "layer", "head", "hits", *NORMS]
    views = [
        Chart(heat(drawn[drawn.run == run][columns], spans, False, where=None), f"Norms of the heads of {tables.names[run]}", tables.names[run])
        for run in runs
    ]  # fmt: skip
    top: Any = rows.nlargest(1, "ov_norm").iloc[0]
    finding = f"Largest OV circuit: layer {whole(top.layer)} head {whole(top['head'])} of {tables.names[top.run]}, norm {plain(float(top.ov_norm))}; median over heads {plain(float(rows.ov_norm.median()))}."
    encoding = (
        "Frobenius norms, the gain of the norm before the layer folded in: OV, what a head moves; QK, how sharply it chooses (at relative position 0). "
        "Darker (in dark mode: lighter) is larger; one scale for all models. Click a head for its page."
    )
    choice = Choice("probe", "Circuit", tuple(NORMS.items()))
    return [Figure("fig-head-norms", finding, encoding, rows[["run", "step", "layer", "head", *NORMS]], tuple(views), choices=(choice,), columns=2, swatches=False), *unread]  # fmt: skip


def streams(tables: Tables) -> list[Item]:
    """Directions that the residual stream uses over the depth."""
    rows = _last(tables.streams)
    if rows.empty:
        return []
    every = rows.melt(["run", "regime", "layer"], list(STREAMS), "measure", "value")
    ends = every[(every.measure == "effective_rank") & (every.layer == every.groupby("run").layer.transform("max"))]
    finding = f"Directions that the last residual stream uses (effective rank): {listing(f'{tables.names[r.run]} {fixed(r.value, 1)}' for r in each(ends))}."
    encoding = "Over the natural text; layer 0 is the embedding, the last is the stream before the final norm. Effective rank and participation ratio as above, of the centred features."
    choice = Choice("measure", "Measure", tuple(STREAMS.items()))
    view = _by_layer(tables, every, "directions", "datum.measure == measure", ["measure"])
    return [Figure("fig-ranks", finding, encoding, every, (view,), choices=(choice,), columns=1)]


def apart(tables: Tables) -> list[Item]:
    """How far the weights of two models lie apart, and in which direction, tensor by tensor."""
    rows = tables.apart
    if rows.empty:
        return []
    names = {r: tables.names.get(r, r) for r in {*rows.run, *rows.other}}
    known = rows[rows.layer.notna()].assign(tensor=lambda f: f.tensor.map(_short))
    means = rows.groupby(["other", "run", "kind"]).agg(
        distance=("distance", "mean"), cosine=("cosine", "mean"), tensors=("tensor", "size")
    )
    body = tuple(
        (names[one], names[other], str(kind), whole(r.tensors), fixed(r.distance, 4), fixed(r.cosine, 4))
        for (one, other, kind), r in cast(Any, means.iterrows())
    )  # fmt: skip
    head = ("from", "to", "kind", "tensors", "distance", "cosine")
    caption = "How far apart the weights are: |W₂ − W₁| / |W₁| and the cosine of W₁ and W₂, mean over the tensors of a kind. 0 and 1: equal; 1.41 and 0: unrelated, of one size."
    items: list[Item] = [Table(head, body, caption, frozenset({3, 4, 5}), "tab-apart")]
    if len(known):
        pair = known.other.map(names) + " to " + known.run.map(names)
        every = known.assign(regime=known.run.map(tables.runs.set_index("run").regime), run=pair, value=known.distance)
        every = every[["run", "regime", "layer", "tensor", "value", "cosine"]]
        largest: Any = every.nlargest(1, "value").iloc[0]
        finding = f"The largest distance: {largest.tensor} of layer {whole(largest.layer)}, {fixed(largest.value, 4)} ({largest.run})."
        options = tuple((t, t) for t in sorted(every.tensor.unique(), key=lambda t: ("norm" in t, t)))
        view = _by_layer(tables, every, "|W₂ − W₁| / |W₁|", "datum.tensor == tensor", ["tensor"])
        encoding = "Frobenius norm of the difference over that of the first model's tensor, layer by layer; only tensors of one name and shape."
        items.append(Figure("fig-apart", finding, encoding, every, (view,), choices=(Choice("tensor", "Weights", options),), columns=1))  # fmt: skip
    return items


def layers_alike(tables: Tables) -> list[Item]:
    """CKA of every layer of one model with every layer of another, at their last checkpoints."""
    rows = tables.similarity[
        (tables.similarity.comparison != "time") & (tables.similarity.run_a != tables.similarity.run_b)
    ]
    notes: list[Item] = [
        Note(f"{tables.names.get(r.run, r.run)} and {tables.names.get(r.other, r.other)} were not compared: {r.reason}.", quiet=True)
        for r in each(tables.not_compared)
    ]  # fmt: skip
    if rows.empty:
        return notes
    views, told, drawn = [], [], []
    for (one, other), part in list(rows.groupby(["run_a", "run_b"], sort=False))[:SHOWN_MAPS]:
        a, b = tables.names[str(one)], tables.names[str(other)]
        cells = part[["layer_a", "layer_b", "value"]]
        views.append(Chart(layer_charts.layer_map(cells, f"layer of {b}", f"layer of {a}", None), f"CKA of {a} and {b}", f"{a} and {b}"))  # fmt: skip
        same = part[part.layer_a == part.layer_b]
        least: Any = same.nsmallest(1, "value").iloc[0]
        told.append(
            f"{a} and {b}: mean over equal layers {fixed(same.value.mean())}, least {fixed(least.value)} at layer {whole(least.layer_a)}"
        )
        drawn.append(part)
    encoding = (
        "Linear CKA of the residual streams on the same text: 1 is equal up to rotation and scale, 0 unrelated. Layer 0 is the embedding; darker (in dark "
        "mode: lighter) is more alike, from 0 to 1."
    )
    data = pd.concat(drawn)[["run_a", "step_a", "run_b", "layer_a", "layer_b", "value", "n"]]
    return [
        Figure("fig-cka-map", f"CKA. {'; '.join(told)}.", encoding, data, tuple(views), columns=2, swatches=False),
        *notes,
    ]


def moved(tables: Tables) -> list[Item]:
    """How far training moved each kind of tensor from the first checkpoint of a series."""
    rows = tables.weights[tables.weights.displacement.notna()]
    rows = rows[rows.groupby("run").step.transform("nunique") > 1]
    if rows.empty:
        return []
    mean = rows.groupby(["run", "regime", "step", "kind"], as_index=False).agg(value=("displacement", "mean"), tokens=("tokens", "first"))  # fmt: skip
    mean, clock = tables.clock(mean)
    view = _over_time(tables, mean.rename(columns={"kind": "key"}), clock, "displacement")
    ends = _last(mean)
    told = [
        f"{tables.names[str(r)]}: {listing(f'{x.kind} {fixed(x.value)}' for x in each(g))}"
        for r, g in ends.groupby("run", sort=False)
    ]
    encoding = "|W − W₀| / |W₀| from the first checkpoint of the series, mean over the tensors of a kind; 0: untouched; 1.41: as far as an unrelated matrix of the same size."
    choice = Choice("key", "Weights", tuple((str(k), str(k)) for k in mean.kind.unique()))
    return [Figure("fig-displacement", f"How far the weights moved by the last checkpoint. {'; '.join(told)}.", encoding, mean, (view,), choices=(choice,), columns=1)]  # fmt: skip


def own_end(tables: Tables) -> list[Item]:
    """How alike each checkpoint of a series is to its last."""
    rows = tables.similarity[tables.similarity.comparison == "time"]
    if rows.empty:
        return []
    rows = rows.rename(columns={"regime_a": "regime", "run_a": "run", "step_a": "step", "layer_a": "layer"})
    every = rows[["run", "regime", "step", "tokens", "layer", "value"]]
    every, clock = tables.clock(every)
    mean = every[every.layer > 0].groupby(["run", "regime", "step", "tokens"], as_index=False).value.mean().assign(key="mean over layers")  # fmt: skip
    drawn = pd.concat([mean, every.assign(key=[f"layer {int(n)}" for n in every.layer])])
    options = tuple((k, k) for k in dict.fromkeys(drawn.key))
    first = mean[mean.step == mean.groupby("run").step.transform("min")]
    finding = f"Alike to the last checkpoint at the first, mean over layers: {listing(f'{tables.names[r.run]} {fixed(r.value)} (step {whole(r.step)})' for r in each(first))}."
    encoding = "Linear CKA of the residual streams of each checkpoint with those of the last, on the same text; layer 0 is the embedding."
    view = _over_time(tables, drawn, clock, "CKA with the last checkpoint")
    return [
        Figure("fig-cka-time", finding, encoding, drawn, (view,), choices=(Choice("key", "Layer", options),), columns=1)
    ]


def _over_time(tables: Tables, rows: pd.DataFrame, clock: str, y_title: str) -> Chart:
    """`rows`: run, regime, tokens, key, value."""
    part = rows[["run", "regime", "tokens", "key", "value"]]
    mean = mean_over_seeds(part, ["regime", "key", "tokens"]).sort_values(["regime", "tokens"])
    raw = part.assign(run=part.run + part.key)
    return Chart(
        curves(raw, mean, tables.main, y_title, x_title=clock, where="datum.key == key", labels=False, dots=True), f"{y_title} over training"
    )  # fmt: skip
