"""What forms in the synthetic stage: scores of the best heads over its tokens."""

from __future__ import annotations

import pandas as pd

from nca_interp.report.charts.curves import curves
from nca_interp.report.charts.numbers import fixed, listing, short
from nca_interp.report.page import Chart, Figure, Item
from nca_interp.report.sections.outcome import missing
from nca_interp.report.tables import Tables

FORMING = ("induction", "previous_token", "nca_stencil", "nca_induction", "duplicate_token", "dyck_opener")
"""Probes whose highest head is drawn over the synthetic stage."""
STENCIL = "nca_stencil"


def phases(tables: Tables) -> list[Item]:
    """The highest head of each probe at every checkpoint of pre-pre-training."""
    best = _best(tables)
    if best.empty:
        return [missing("checkpoint of pre-pre-training with probes", "probes.csv")]
    regimes, views = list(tables.regimes), []
    for probe in (name for name in FORMING if name in set(best.probe)):
        raw = best[best.probe == probe]
        mean = raw.groupby(["regime", "tokens"], sort=False).value.mean().reset_index()
        references = [(float(raw.chance.mean()), "chance")] if raw.chance.notna().any() else []
        chart = curves(
            raw, mean, regimes, "score of the highest head", x_title="tokens of pre-pre-training", height=210,
            references=references, zero=True,
        )  # fmt: skip
        words = probe.replace("_", " ")
        views.append(Chart(chart, f"Highest {words} score over pre-pre-training", words))
    encoding = (
        "Each checkpoint’s highest head; thin lines single seeds, thick line their mean. The highest of several heads lies above chance even "
        "where nothing was learned: the level of random weights stands in the tables of heads, and the section on emergence tests "
        "against it."
    )
    columns = ["run", "regime", "seed", "step", "tokens", "probe", "layer", "head", "value", "chance"]
    return [Figure("fig-phases", _rise(best), encoding, best[columns], tuple(views), columns=3)]


def _best(tables: Tables) -> pd.DataFrame:
    rows = tables.probes
    rows = rows[
        (rows.stage == "ppt") & rows["head"].notna() & rows.value.notna() & rows.probe.isin(FORMING) & rows.run.isin(tables.finished)
    ]  # fmt: skip
    kinds = {r["name"]: (r.get("source") or {}).get("kind") for r in tables.study["regimes"]}
    rows = rows[~rows.probe.str.startswith("nca_") | (rows.regime.map(kinds) == "nca")]  # elsewhere of other automata
    return rows.loc[rows.groupby(["run", "step", "probe"]).value.idxmax()] if len(rows) else rows


def _rise(best: pd.DataFrame) -> str:
    """By probe and regime the least and greatest of the seeds' highest heads at the last checkpoint."""
    last = best[best.step == best.groupby("run").step.transform("max")]
    told = []
    for probe in ("induction", STENCIL):
        rows = last[last.probe == probe]
        if len(rows):
            of = rows.groupby("regime", sort=False).value
            told.append(
                f"{probe.replace('_', ' ')} "
                + listing(
                    [f"{r} {fixed(of.get_group(r).min(), 2)} to {fixed(of.get_group(r).max(), 2)}" for r in of.groups]
                )
            )
    tokens = short(float(last.tokens.max())) if len(last) else "0"
    return f"Highest head after {tokens} synthetic tokens, least to greatest of the seeds: {'; '.join(told)}."
