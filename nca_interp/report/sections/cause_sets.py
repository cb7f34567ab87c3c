"""Sets of heads: the highest of each probe against random ones, and whether the same heads carry two tasks."""

from __future__ import annotations

import pandas as pd

from nca_interp.report.charts import causes as charts
from nca_interp.report.charts.numbers import fixed, interval, listing, p_value, plural, signed, whole
from nca_interp.report.page import Chart, Figure, Item, Table
from nca_interp.report.sections.cause_rows import BEFORE, LOSSES, Causes, choice, placed
from nca_interp.report.tables import Tables, each

JUDGED = ("induction", "previous_token")
"""Probes whose top heads are judged in the table; the figure's data hold all."""


def top_heads(tables: Tables, found: Causes) -> list[Item]:
    """The best heads of each probe, lost together, beside random sets with as many heads in every layer."""
    told = placed(tables, tables.top_sets).drop(columns=["domain", "stage"])
    if told.empty:
        return []
    views = []
    for place in found.places:
        part = told[told.place == place]
        if len(part):
            order = part.groupby("probe").effect.max().sort_values(ascending=False)
            part = part.sort_values(
                "probe", key=lambda s: s.map({p: (p not in JUDGED, i) for i, p in enumerate(order.index)})
            )
            views.append(
                Chart(
                    charts.against_random(part.drop(columns="place"), tables.main),
                    f"Top heads against random sets, {place}",
                    place,
                )
            )
    encoding = (
        "Mark: harm of losing the highest heads of a probe together (2 % of all heads, at least one); bar and tick: mean and two standard deviations of random "
        "sets without them, as many heads in each layer. p: the share of all ways to take, in each seed, these heads or one of the disjoint random sets, whose "
        "summed harm is as large. Declared beforehand are the induction and previous-token heads on the loss of repeated tokens, corrected by Holm; every other "
        "pair of probe and metric is exploration, at a false discovery rate of 5 % within a regime and place. Load-bearing: corrected p below 0.05. Not load-bearing: "
        f"the mean excess over seeds is below {_margins(told)} (one-sided t-test, corrected alike); both at once: load-bearing, negligibly. Cannot tell: so "
        "few heads a layer and seeds that p cannot be small enough, whatever a head carries. Else inconclusive."
    )
    key = _judged(told)
    explored = told[told.family == "exploration"]
    counts = listing(f"{n} {v}" for v, n in explored.verdict.value_counts().items())
    finding = f"{_top_finding(key)} Exploration, {plural(len(explored), 'verdict')} on other pairs of probe and metric: {counts or 'none'}.".strip()
    figure = Figure(
        "fig-top-heads",
        finding,
        encoding,
        told,
        tuple(views),
        choices=(choice(found),),
        nothing=not told.verdict.str.startswith("load-bearing").any(),
    )
    return [figure, *_top_table(key)]


def _margins(told: pd.DataFrame) -> str:
    """The margin of every unit: `0.010 nats per token or 0.010 of a share`."""
    margins = told.drop_duplicates("unit")
    return " or ".join(f"{fixed(r.margin)} {'of a share' if r.unit == 'share' else r.unit}" for r in each(margins))


def _judged(told: pd.DataFrame) -> pd.DataFrame:
    """What was declared, and exploration of the same heads on the other losses."""
    return told[told.probe.isin(JUDGED) & told.metric.isin(LOSSES)].sort_values("family", kind="stable")


def _top_finding(key: pd.DataFrame) -> str:
    first = (
        key[(key.probe == JUDGED[0]) & (key.metric == LOSSES[0]) & (key.place == key.place.iloc[0])]
        if len(key)
        else key
    )
    parts = [
        f"{r.regime} {signed(r.effect)} against random {signed(r.random)}, p {p_value(r.p)}, {plural(int(r.seeds), 'seed')}: {r.verdict}"
        for r in each(first)
    ]
    return (
        f"Losing the {JUDGED[0]} heads, harm to {LOSSES[0]}, {first.place.iloc[0]}: {'; '.join(parts)}."
        if parts
        else ""
    )


def _top_table(key: pd.DataFrame) -> list[Item]:
    if key.empty:
        return []
    head = (
        "verdict",
        "model",
        "heads",
        "lost",
        "harm",
        "random sets",
        "excess",
        "95 % interval (single)",
        "p",
        "least p",
        "Holm (declared)",
        "FDR (exploration)",
        "seeds",
        "sets",
    )
    body = tuple(
        (
            r.verdict, f"{r.regime}, {r.place}", r.probe, r.metric, signed(r.effect), signed(r.random), signed(r.excess),
            interval(r.low, r.high), p_value(r.p), p_value(r.p_floor), p_value(r.p_holm), p_value(r.p_bh), whole(r.seeds), whole(r.sets),
        )
        for r in each(key)
    )  # fmt: skip
    caption = f"{plural(len(body), 'verdict')}: is the model worse without its {listing(w.replace('_', ' ') for w in JUDGED)} heads than without others?"
    return [Table(head, body, caption, frozenset(range(4, 14)), "tab-top-heads", folded=len(body) > 12)]


def shared(tables: Tables) -> list[Item]:
    """Do the same heads carry two tasks? And the synthetic task before the swap and language after it?"""
    swapped = tables.shared_heads.one_stage != tables.shared_heads.stage
    rows = placed(tables, tables.shared_heads).assign(
        one=lambda f: f.one.where(~swapped, f.one + f", {BEFORE}"),
        other=lambda f: f.other.where(~swapped, f.other + ", after the swap"),
    )
    if rows.empty:
        return []
    body = tuple(
        (
            r.verdict,
            f"{r.regime}, {r.place}",
            r.one,
            r.other,
            signed(r.rho, 2),
            interval(r.low, r.high, 2),
            p_value(r.p),
            p_value(r.p_holm),
            whole(r.seeds),
            whole(r.heads),
        )
        for r in each(rows)
    )
    head = ("verdict", "model", "harm to", "and harm to", "Spearman", "95 % interval", "p", "Holm", "seeds", "heads")
    counts = listing(f"{n} {v}" for v, n in rows.verdict.value_counts().items())
    caption = f"Do the same heads carry both? {counts}. Rank correlation over the heads of a layer of what losing each costs; p by permutation within layers, Holm over this table."
    return [Table(head, body, caption, frozenset(range(4, 10)), "tab-shared", folded=len(body) > 12)]
