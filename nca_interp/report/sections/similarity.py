"""Are the regimes' networks alike inside? CKA against the seed-to-seed ceiling, ranks, distances and directions of weights."""

from __future__ import annotations

import math

import pandas as pd

from nca_interp.report.charts import distributions as lines
from nca_interp.report.charts import layers as layer_charts
from nca_interp.report.charts.curves import curves
from nca_interp.report.charts.numbers import fixed, interval, listing, signed, whole
from nca_interp.report.page import Chart, Choice, Figure, Item, Note, Section, Table
from nca_interp.report.sections import model_weights
from nca_interp.report.sections.outcome import mean_over_seeds
from nca_interp.report.tables import SCRATCH, Tables, each

KINDS = {"attn": "attention", "mlp": "MLP", "norm": "norms"}
COMPARISONS = {
    "regimes": "what language changed, against scratch",
    "stages": "what language changed, against the stage before",
}
MEAN = "mean"
DRAWN = ["name", "x", "value", "low", "high"]
SHOWN_LAYERS = 4
"""Layers that can be chosen beside their mean."""


def networks(tables: Tables) -> list[Item]:
    """All that `analyze --compare` measures, what it says of the regimes first."""
    if not tables.has("streams"):
        return [Note(
            "Left out: the networks of this study were not compared (no rows in tables/streams.csv). To compare them: "
            f"nca-interp analyze {tables.dir.path.name} --compare, then report again.", quiet=True, absent=True,
        )]  # fmt: skip
    return [
        *_against_ceiling(tables),
        *_maps(tables),
        *_to_own_end(tables),
        *_ranks(tables),
        *_displacement(tables),
        *_updates(tables),
    ]


def _against_ceiling(tables: Tables) -> list[Item]:
    rows = tables.alike
    if rows.empty:
        return [
            Note("No regime of this study has two finished seeds, so nothing says how alike two seeds are.", quiet=True)
        ]
    rows = rows[(rows.regime_a == tables.reference) | (rows.regime_b == tables.reference)]
    if rows.empty:
        return [_pairs(tables)]
    rows = rows.assign(name=rows.regime_a.where(rows.regime_a != tables.reference, rows.regime_b))
    rows = rows.sort_values("name", key=lambda names: names.map(tables.main.index), kind="stable")
    layers, means = rows[rows.layer.notna()], rows[rows.layer.isna()]
    views = []
    for domain, part in layers.groupby("domain", sort=False):
        title = tables.domain_label(str(domain))
        gaps = part.assign(x=part.layer, value=part.effect)[DRAWN]
        pair = part.assign(x=part.layer, value=part.across)[["name", "x", "value"]]
        top = part.groupby("layer").ceiling.mean().rename("value").rename_axis("x").reset_index()
        level = pd.concat([pair, top.assign(name="two seeds")]).assign(low=math.nan, high=math.nan)
        views += [
            Chart(
                lines.labelled(gaps, tables.main, "layer", "CKA minus ceiling"),
                f"Difference to the ceiling, {title}",
                f"{title}: difference",
            ),
            Chart(
                lines.labelled(level, [*tables.main, "two seeds"], "layer", "CKA"),
                f"CKA by layer, {title}",
                f"{title}: CKA",
            ),
        ]
    told = [f"{tables.domain_label(r.domain)}: {r.sentence}" for r in each(means[means.name == means.name.iloc[0]])]
    encoding = (
        f"Each line: {tables.reference} and the named regime at their ends, always two different seeds, so that shared initial weights cannot make "
        "them alike. CKA: 1 is equal up to rotation and scale, 0 unrelated. “two seeds”: mean over the two regimes of two seeds of one regime, the "
        "ceiling. Below zero: the regimes differ more than seeds do. Band: 95 % jackknife interval over seeds (three seeds or more). Layer 0 is the "
        f"embedding; the sentence averages the others. As alike as seeds: the interval lies within ±{fixed(rows.margin.iloc[0], 2)}."
    )
    return [
        Figure(
            "fig-cka", " ".join(told), encoding, rows.drop(columns=["name", "sentence"]), tuple(views), swatches=False
        ),
        _pairs(tables),
    ]


def _pairs(tables: Tables) -> Table:
    head = (
        "domain",
        "regimes",
        "CKA across seeds",
        "two seeds of one",
        "difference",
        "95 % interval",
        "seeds",
        "verdict",
    )
    body = tuple(
        (
            tables.domain_label(r.domain), f"{r.regime_a}, {r.regime_b}", fixed(r.across), fixed(r.ceiling), signed(r.effect),
            interval(r.low, r.high), whole(r.n), r.verdict,
        )
        for r in each(tables.alike[tables.alike.layer.isna()])
    )  # fmt: skip
    caption = "All pairs of regimes at their ends, mean over layers without the embedding."
    return Table(head, body, caption, frozenset({2, 3, 4, 5, 6}), "tab-cka", folded=True)


def _maps(tables: Tables) -> list[Item]:
    """Layer by layer, the studied regime and the others against scratch, at their ends."""
    rows = tables.similarity[(tables.similarity.comparison == "regimes") & (tables.similarity.regime_b == SCRATCH)]
    if rows.empty:
        return []
    rows = rows[rows.step_a == rows.groupby("run_a").step_a.transform("max")]
    mean = mean_over_seeds(rows, ["domain", "regime_a", "layer_a", "layer_b"])
    names = [n for n in tables.main if n in set(mean.regime_a)]
    domains = {d: t for d, t in tables.domains.items() if d in set(mean.domain)}
    views = [
        Chart(
            layer_charts.layer_map(mean[mean.regime_a == name], f"layer of {SCRATCH}", f"layer of {name}", "datum.domain == domain"),
            f"CKA of every layer of {name} with every layer of {SCRATCH}", f"{name} and {SCRATCH}",
        )
        for name in names
    ]  # fmt: skip
    best = mean[(mean.regime_a == names[0]) & (mean.domain == next(iter(domains)))]
    best = best.loc[best.groupby("layer_a").value.idxmax()]
    equal = int((best.layer_a == best.layer_b).sum())
    finding = f"{names[0]} on {next(iter(domains.values()))}: {equal} of {len(best)} layers are most alike to the same layer of {SCRATCH} of the same seed."
    encoding = "Two networks of one seed, mean over seeds, at the end of pre-training; darker (in dark mode: lighter) is more alike, from 0 to 1."
    choice = Choice("domain", "Domain", tuple(domains.items()))
    return [Figure("fig-cka-map", finding, encoding, mean, tuple(views), choices=(choice,), swatches=False)]


def _to_own_end(tables: Tables) -> list[Item]:
    rows = tables.similarity[(tables.similarity.comparison == "time") & tables.similarity.regime_a.isin(tables.main)]
    if rows.empty:
        return []
    rows = rows.rename(columns={"regime_a": "regime", "run_a": "run", "layer_a": "layer"})
    mean = (
        rows[rows.layer > 0]
        .groupby(["run", "regime", "domain", "tokens"], as_index=False)
        .value.mean()
        .assign(key=MEAN)
    )
    depth = int(rows.layer.max())
    shown = sorted({round(depth * i / (SHOWN_LAYERS - 1)) for i in range(SHOWN_LAYERS)})
    single = rows[rows.layer.isin(shown)].assign(key=lambda f: f.layer.astype(int).astype(str))
    every = pd.concat([mean, single])[["regime", "run", "domain", "tokens", "key", "value"]]
    views = []
    for domain, title in tables.domains.items():
        part = every[every.domain == domain].assign(run=lambda f: f.run + f.key)
        if len(part):
            middle = mean_over_seeds(part, ["regime", "key", "tokens"]).sort_values(["regime", "tokens"])
            chart = curves(
                part, middle, tables.main, "CKA with the own end", where="datum.key == key", labels=False, dots=True
            )
            views.append(Chart(chart, f"CKA of each checkpoint with the run's own end, {title}", title))
    first = mean[mean.tokens == mean.tokens.min()].groupby("regime").value.mean()
    finding = f"Alike to their own end before the first step on language, mean over layers: {listing(f'{r} {fixed(first[r])}' for r in tables.main if r in first)}."
    encoding = (
        "Thick: mean over seeds; thin: single runs. What is high at the start was there before language: random weights for scratch, weights of the "
        "synthetic stage for the others. Mean over layers without the embedding; layer 0 is the embedding."
    )
    options = ((MEAN, "mean over layers"), *((str(n), f"layer {n}") for n in shown))
    return [Figure("fig-cka-time", finding, encoding, every, tuple(views), choices=(Choice("key", "Layer", options),))]


def _ranks(tables: Tables) -> list[Item]:
    rows = tables.streams[(tables.streams.stage == "pt") & tables.streams.regime.isin(tables.main)]
    rows = rows[rows.step == rows.groupby("run").step.transform("max")]
    names = {"effective_rank": "effective rank", "participation": "participation ratio"}
    keys = ["run", "regime", "domain", "layer"]
    every = rows.melt(keys, list(names), "key", "value")
    told = every[(every.key == "effective_rank") & (every.layer == every.layer.max())].groupby("regime").value.mean()
    finding = f"Directions that the last residual stream uses (effective rank, mean over domains and seeds): {listing(f'{r} {fixed(told[r], 1)}' for r in tables.main if r in told)}."
    encoding = (
        "At the end of pre-training, over the same validation rows. Effective rank: exp of the entropy of the singular values of the centred features; "
        "participation ratio: (sum s²)² / sum s⁴. Thick: mean over seeds; thin: single runs."
    )
    return [
        _layered(
            tables, "fig-ranks", finding, encoding, every, "directions", Choice("key", "Measure", tuple(names.items()))
        )
    ]


def _displacement(tables: Tables) -> list[Item]:
    rows = tables.weights[
        (tables.weights.stage == "pt") & tables.weights.regime.isin(tables.main) & tables.weights.displacement.notna()
    ]
    if rows.empty:
        return []
    rows = rows[rows.step == rows.groupby("run").step.transform("max")]
    means = rows.groupby(["regime", "kind"]).displacement.mean()
    told = [
        f"{r} {', '.join(f'{t} {fixed(means[r, k])}' for k, t in KINDS.items() if (r, k) in means)}"
        for r in tables.main
        if r in set(rows.regime)
    ]
    every = _by_kind(rows.rename(columns={"displacement": "value"}))
    encoding = (
        "|W − W0| / |W0| from the first checkpoint of pre-training, after the swap, to the last; mean over the tensors of a kind in a layer. 0: "
        "untouched; 1.41: as far as an unrelated matrix of the same size. Thick: mean over seeds; thin: single runs."
    )
    choice = Choice("key", "Weights", tuple(KINDS.items()))
    finding = f"How far language moved the weights, mean over layers, domains and seeds: {'; '.join(told)}."
    return [_layered(tables, "fig-displacement", finding, encoding, every, "displacement", choice)]


def _updates(tables: Tables) -> list[Item]:
    rows = tables.updates[tables.updates.regime_a.isin(tables.main) & tables.updates.cosine.notna()]
    rows = rows.assign(
        regime=rows.regime_a, value=rows.cosine, run=rows.regime_a + "." + rows.domain + "." + rows.seed.astype(str)
    )
    every = _by_kind(rows, ["comparison"])
    if every.empty:
        return []
    every["key"] = every.comparison + " " + every.key
    told = []
    for comparison, text in COMPARISONS.items():
        means = every[every.comparison == comparison].groupby("regime").value.mean()
        if len(means):
            told.append(f"{text}: {listing(f'{r} {signed(means[r], 2)}' for r in tables.main if r in means)}")
    options = tuple(
        (f"{c} {k}", f"{t}: {name}")
        for c, t in COMPARISONS.items()
        for k, name in KINDS.items()
        if f"{c} {k}" in set(every.key)
    )
    encoding = (
        "Cosine between two changes of the same weights; 1: the same direction, 0: unrelated. Against scratch: how far what was learned before turns "
        "what language teaches (runs of one seed). Against the stage before: whether language goes on in the direction of that stage, or back. Mean "
        "over the tensors of a kind in a layer. Thick: mean over seeds; thin: single runs."
    )
    finding = f"Direction of the updates, mean cosine over layers, kinds, domains and seeds: {'; '.join(told)}."
    return [
        _layered(
            tables, "fig-updates", finding, encoding, every, "cosine", Choice("key", "Compared", options), zero=True
        )
    ]


def _by_kind(rows: pd.DataFrame, more: list[str] | None = None) -> pd.DataFrame:
    """Mean over the tensors of a kind in a layer: regime, domain, run, layer, key (the kind), value."""
    rows = rows[rows.layer.notna() & rows.kind.isin(list(KINDS))].rename(columns={"kind": "key"})
    return rows.groupby(["run", "regime", "domain", *(more or []), "key", "layer"], as_index=False).agg(
        value=("value", "mean")
    )


def _layered(
    tables: Tables, name: str, finding: str, encoding: str, every: pd.DataFrame, y_title: str, choice: Choice, *, zero: bool = False
) -> Figure:  # fmt: skip
    """A figure with one view a domain of regime, run, domain, layer, key, value."""
    views = []
    for domain, title in tables.domains.items():
        part = every[every.domain == domain].assign(run=lambda f: f.run + f.key)
        if len(part):
            mean = mean_over_seeds(part, ["regime", "key", "layer"]).sort_values(["regime", "layer"])
            chart = layer_charts.by_layer(part, mean, tables.main, y_title, where="datum.key == key", zero=zero)
            views.append(Chart(chart, f"{y_title} by layer, {title}", title))
    return Figure(name, finding, encoding, every, tuple(views), choices=(choice,))


def section(tables: Tables) -> tuple[Section, ...]:
    """The comparison of networks."""
    if tables.collection is not None:
        return model_weights.sections(tables)
    return (Section("similarity", "Are the networks alike inside?", (*networks(tables),)),)
