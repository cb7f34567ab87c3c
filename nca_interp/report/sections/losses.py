"""Validation losses: curves of both stages, distance to scratch, the table of final losses."""

from __future__ import annotations

import math

import pandas as pd

from nca_interp.report.charts.axes import thin
from nca_interp.report.charts.curves import curves
from nca_interp.report.charts.numbers import fixed, listing, signed, whole
from nca_interp.report.page import Chart, Figure, Item, Note, Table
from nca_interp.report.sections.outcome import NATS, mean_over_seeds, missing
from nca_interp.report.tables import SCRATCH, Tables


def _losses(tables: Tables, stage: str) -> pd.DataFrame:
    rows = tables.metrics[
        (tables.metrics.stage == stage) & tables.metrics.regime.isin(tables.main) & tables.metrics.val_loss.notna()
    ]
    rows = rows[rows.run.isin(tables.finished)].rename(columns={"val_loss": "value"})
    return rows[["run", "regime", "domain", "seed", "step", "tokens", "value"]]


def loss_curves(tables: Tables) -> list[Item]:
    """Validation loss of every regime in pre-training, and its distance to scratch at equal tokens and seed."""
    rows = thin(_losses(tables, "pt"), ["run"], "tokens")
    if rows.empty:
        return [missing("validation loss of pre-training", "metrics.csv")]
    views = []
    for domain, title in tables.domains.items():
        part = rows[rows.domain == domain]
        if len(part):
            mean = mean_over_seeds(part, ["regime", "tokens"])
            views.append(
                Chart(
                    curves(part, mean, tables.main, f"validation loss, {NATS}"),
                    f"Validation loss on {title}",
                    title,
                )
            )
    thick = "Thick: mean over seeds; thin: single seeds."
    figures: list[Item] = [
        Figure(
            "fig-loss",
            _loss_finding(tables),
            f"{thick} Validation loss against pre-training tokens.",
            rows,
            tuple(views),
        )
    ]
    return [*figures, *_gap_figure(tables, rows, thick)]


def _loss_finding(tables: Tables) -> str:
    told = []
    for domain, title in tables.domains.items():
        means = (
            tables.final[(tables.final.domain == domain) & tables.final.regime.isin(tables.main)]
            .groupby("regime")
            .val_loss.mean()
        )
        if len(means) > 1:
            best, worst = str(means.idxmin()), str(means.idxmax())
            told.append(
                f"{title}: lowest final loss {best} ({fixed(means[best])}), highest {worst} ({fixed(means[worst])})."
            )
    return " ".join(told) or "Validation loss in pre-training."


def _gap_figure(tables: Tables, rows: pd.DataFrame, thick: str) -> list[Item]:
    base = rows[rows.regime == SCRATCH][["domain", "seed", "tokens", "value"]]
    gaps = rows[rows.regime != SCRATCH].merge(base, on=["domain", "seed", "tokens"], suffixes=("", "_scratch"))
    gaps["value"] = gaps.value - gaps.value_scratch
    gaps = gaps[gaps.tokens > 0].drop(columns="value_scratch")
    if gaps.empty:
        return []
    views = []
    for domain, title in tables.domains.items():
        part = gaps[gaps.domain == domain]
        if len(part):
            mean = mean_over_seeds(part, ["regime", "tokens"])
            chart = curves(part, mean, tables.main, f"loss minus scratch, {NATS}", zero=True)
            views.append(Chart(chart, f"Loss difference to scratch on {title}", title))
    own = gaps[gaps.regime == tables.reference]
    ends = [
        f"{signed(g.sort_values('tokens').groupby('run').tail(1).value.mean())} on {tables.domain_label(d)}"
        for d, g in ((d, own[own.domain == d]) for d in tables.domains)
        if len(g)
    ]
    finding = (
        f"Distance of {tables.reference} to scratch at the end: {listing(ends)} (nats, mean over seeds)."
        if ends
        else "Distance to scratch."
    )
    encoding = f"{thick} Difference to scratch of the same seed at the same number of tokens; below zero is better than scratch."
    return [Figure("fig-gap", finding, encoding, gaps, tuple(views))]


def ppt_curves(tables: Tables) -> list[Item]:
    """Loss of the pre-pre-training stage, each regime on its own vocabulary."""
    rows = thin(_losses(tables, "ppt"), ["run"], "tokens")
    if rows.empty:
        return []
    mean = mean_over_seeds(rows, ["regime", "tokens"])
    vocab = tables.runs[tables.runs.stage == "ppt"].groupby("regime").vocab_size.first()
    finals = [
        f"{r} {fixed(mean[mean.regime == r].sort_values('tokens').value.iloc[-1])} (chance ln {whole(vocab.get(r))} = {fixed(math.log(vocab[r]))})"
        for r in tables.main
        if r in set(mean.regime)
    ]
    chart = curves(rows, mean, tables.main, f"validation loss, {NATS}")
    encoding = "Pre-pre-training only. Heights of different regimes cannot be compared: each has its own vocabulary. Thick: mean over seeds; thin: single seeds."
    view = Chart(chart, "Validation loss in pre-pre-training", "Pre-pre-training, each regime on its own tokens")
    return [
        Figure(
            "fig-ppt",
            f"Loss at the end of pre-pre-training: {listing(finals)}.",
            encoding,
            rows.drop(columns="domain"),
            (view,),
            columns=1,
        )
    ]


def final_table(tables: Tables) -> list[Item]:
    """Loss, perplexity and bits per byte of every compared regime at the end of pre-training, a table a domain."""
    head = ("regime", "what it saw first", "seeds", f"loss, {NATS}", "perplexity", "bits per byte", "loss of each seed")
    items: list[Item] = []
    for domain, title in tables.domains.items():
        rows = tuple(row for regime in tables.main if (row := _final_row(tables, domain, regime)))
        items.append(
            Table(head, rows, f"{title}: final validation loss", frozenset({2, 3, 4, 5}), f"tab-final-{domain}")
        )
    arms = [(d, r) for d in tables.domains for r in tables.regimes if r not in tables.main]
    rest = tuple((tables.domain_label(d), *row) for d, r in arms if (row := _final_row(tables, d, r)))
    if rest:
        items.append(
            Table(
                ("domain", *head),
                rest,
                "Final validation loss of the other arms",
                frozenset({3, 4, 5, 6}),
                "tab-arms",
                folded=True,
            )
        )
    return [
        *items,
        Note(
            "Means over seeds. Perplexity is that of the mean loss; bits per byte do not depend on the tokenizer.",
            quiet=True,
        ),
    ]


def _final_row(tables: Tables, domain: str, regime: str) -> tuple[str, ...] | None:
    part = tables.final[(tables.final.domain == domain) & (tables.final.regime == regime)].sort_values("seed")
    if part.empty:
        return None
    mean = float(part.val_loss.mean())
    singles = ", ".join(fixed(v) for v in part.val_loss)
    return (
        regime,
        tables.label(regime),
        str(len(part)),
        fixed(mean),
        fixed(math.exp(min(mean, 700)), 2),
        fixed(part.val_bpb.mean()),
        singles,
    )
