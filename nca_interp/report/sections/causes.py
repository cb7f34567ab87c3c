"""What the model loses without a head, and whether the heads that score high are the ones it needs."""

from __future__ import annotations

import pandas as pd

from nca_interp.report.charts import causes as charts
from nca_interp.report.charts.numbers import absent, fixed, interval, p_value, plural, signed
from nca_interp.report.page import Chart, Choice, Figure, Item, Note, Section
from nca_interp.report.sections import cause_layers, cause_sets
from nca_interp.report.sections.cause_rows import INCONCLUSIVE, Causes, choice, placed, read
from nca_interp.report.tables import SCRATCH, Tables, each

DRAWN_HEADS = 1500
"""Heads of one scatter at most, whole seeds; the statistics are of all."""


def sections(tables: Tables) -> tuple[Section, ...]:
    """The one section of causes."""
    return (Section("causes", "What the model loses without a head", (*section(tables),)),)


def section(tables: Tables) -> list[Item]:
    """Everything that interventions say about the final checkpoints."""
    found = read(tables)
    if found is None:
        command = f"{tables.dir.analyze()} --causes"
        return [
            Note(
                "Left out: this study holds no measurement of what is lost without a head (no rows in tables/causes.csv). A score says "
                f"where a head looks, not that the model needs it. Run: {command}",
                quiet=True,
                absent=True,
            )
        ]
    return [*load(tables, found), *cause_sets.top_heads(tables, found), *cause_sets.shared(tables), *cause_layers.layers(tables, found), *cause_layers.edges(found), *cause_layers.lens(tables, found)]  # fmt: skip


def load(tables: Tables, found: Causes) -> list[Item]:
    """One mark a head: its score against what losing it costs; the rank correlation within layers, with its permutation p."""
    wide, probes = _wide(tables, found)
    if not probes:
        return []
    told = placed(tables, tables.score_harm).drop(columns=["domain", "stage"])
    probes = sorted(probes, key=lambda p: (p != "induction", p != "previous_token", p))
    views, hidden = [], False
    for place in found.places:
        part = wide[wide.place == place]
        sizes = part.groupby("seed").size().cumsum()
        kept = part[part.seed.isin([s for i, (s, n) in enumerate(sizes.items()) if n <= DRAWN_HEADS or i == 0])]
        hidden = hidden or len(kept) < len(part)
        levels = _levels(tables, kept, probes)
        chart = charts.score_against_harm(kept.drop(columns=["place"]), levels, tables.main)
        views.append(Chart(chart, f"Score against harm, {place}", place))
    known = tables.final_scores.groupby("probe").chance.mean()
    options = tuple(
        (p, f"{p} (chance {fixed(known[p])})" if p in known and not absent(known[p]) else p) for p in probes
    )
    encoding = (
        "A mark is a head at the end of training, over all seeds: right, it does more of what the probe measures; up, the model is worse without it "
        "(its output replaced by its mean). Click a mark for the page of that head. Dashed: chance and, where random models were measured, the 95th "
        "percentile of their heads. Spearman correlations are over the heads within the layers of a model, averaged over seeds; interval, of one pair alone: t over seeds "
        "(one seed: Bonett and Wright’s over heads); p: heads permuted within layers, two-sided. Exploration: verdicts at a false discovery rate of 5 % over all probes "
        "and metrics of a regime and place. Correlation is no proof: a head may score high and be lost beside another that carries the load."
    )
    if hidden:
        encoding += " Only the first seeds are drawn; the statistics are over all."
    finding = _load_finding(tables, found, told, probes[0], next(iter(found.metrics)))
    return [
        Figure(
            "fig-load",
            finding,
            encoding,
            told,
            tuple(views),
            choices=(Choice("probe", "Score", options), choice(found)),
            nothing=bool((told.verdict == INCONCLUSIVE).all()),
        )
    ]


def _wide(tables: Tables, found: Causes) -> tuple[pd.DataFrame, list[str]]:
    """A row a head: its score on every probe and its harm to every metric."""
    keys = ["run", "layer", "head"]
    harm = found.of("ablation").pivot_table(index=keys, columns="metric", values="harm", sort=False)
    at = found.of("ablation").drop_duplicates("run")[["run", "step"]]
    scores = tables.probes[tables.probes["head"].notna() & tables.probes.value.notna()].merge(at, on=["run", "step"])
    scores = scores.pivot_table(index=keys, columns="probe", values="value", sort=False)
    scores = scores.rename(columns={c: f"{c} (probe)" for c in scores if c in found.metrics})
    who = found.of("ablation").drop_duplicates(keys)[[*keys, "regime", "seed", "place"]]
    wide = who.merge(harm.reset_index(), on=keys).merge(scores.reset_index(), on=keys)
    return wide, [str(c) for c in scores]


def _levels(tables: Tables, heads: pd.DataFrame, probes: list[str]) -> pd.DataFrame:
    rows = tables.probes[tables.probes.run.isin(set(heads.run)) & tables.probes["head"].notna()]
    means = rows.groupby("probe")[["chance", "null_95"]].mean()
    found = [
        {"probe": p, "value": float(means[column][p]), "text": word}
        for p in probes
        if p in means.index
        for column, word in (("chance", "chance"), ("null_95", "random, 95 %"))
        if not absent(float(means[column][p]))
    ]
    return pd.DataFrame(found, columns=["probe", "value", "text"])


def _load_finding(tables: Tables, found: Causes, told: pd.DataFrame, probe: str, metric: str) -> str:
    """The first place in numbers, the reference and scratch only; the rest as a count."""
    place, clear = found.places[0], int((told.verdict != INCONCLUSIVE).sum())
    rows = told[(told.place == place) & (told.probe == probe) & (told.metric == metric)]
    rows = rows[rows.regime.isin({tables.reference, SCRATCH})]
    parts = [
        f"{r.regime} {signed(r.rho, 2)} {interval(r.low, r.high, 2)}, p {p_value(r.p)} ({plural(int(r.seeds), 'seed')} of {plural(int(r.heads), 'head')}): {r.verdict}"
        for r in each(rows)
    ]
    count = f"Of all {len(told)} pairs of probe and metric over models and places, {clear or 'none'} {'is' if clear == 1 else 'are'} clear at a false discovery rate of 5 %."
    return f"{probe.replace('_', ' ').capitalize()} score against harm to {metric}, {place}, Spearman over the heads of a layer: {'; '.join(parts) or 'all alike'}. {count}"
