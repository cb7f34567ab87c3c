"""What carries the effect and what it is good for: re-initialised parts, and reasoning after fine-tuning."""

from __future__ import annotations

import pandas as pd

from nca_interp.report.charts import effects
from nca_interp.report.charts.numbers import DASH, interval, listing, p_value, signed, whole
from nca_interp.report.page import Chart, Figure, Item, Table
from nca_interp.report.sections.outcome import NATS, missing, sentences
from nca_interp.report.tables import SCRATCH, Tables, each


def reinit(tables: Tables) -> list[Item]:
    """What is left of the effect when parts of the network are put back to their initial weights at the swap."""
    arms = [n for n, info in tables.regimes.items() if info.role == "transfer"]
    ends = tables.final[["regime", "domain", "seed", "val_loss"]]
    base = ends[ends.regime == SCRATCH].drop(columns="regime")
    joined = ends[ends.regime.isin([tables.reference, *arms])].merge(
        base, on=["domain", "seed"], suffixes=("", "_scratch")
    )
    if not arms or joined.empty:
        return [missing("re-initialisation arm", "runs.csv")]
    seeds = joined.assign(value=joined.val_loss - joined.val_loss_scratch, name=joined.regime.map(tables.label))
    views = []
    for domain, title in tables.domains.items():
        part = seeds[seeds.domain == domain]
        if part.empty:
            continue
        means = part.groupby("name").value.mean()
        names = [n for n in map(tables.label, (tables.reference, *arms)) if n in means.index]
        bars = [{"name": n, "value": means[n], "group": int(n == tables.label(tables.reference))} for n in names]
        mean = pd.DataFrame([*bars, {"name": tables.label(SCRATCH), "value": 0.0, "group": 0}])
        views.append(
            Chart(effects.bars(mean, part, f"final loss minus scratch, {NATS}"), f"Re-initialisation on {title}", title)
        )
    encoding = (
        "Bar: mean difference of the final validation loss to scratch of the same seed (zero is scratch); points: single seeds. The strong "
        "bar is full transfer. A part is necessary if re-initialising it loses the gain, sufficient if keeping it alone keeps the gain."
    )
    data = seeds[["domain", "regime", "seed", "val_loss", "val_loss_scratch", "value"]].rename(
        columns={"value": "difference"}
    )
    figure = Figure("fig-reinit", _reinit_finding(tables), encoding, data, tuple(views), swatches=False)
    return [figure, *contrast_table(tables, "transfer", "tab-transfer", "Necessity and sufficiency, arm by arm.")]


def _reinit_finding(tables: Tables) -> str:
    told = []
    gaps = tables.contrast("regime", treated=tables.reference, control=SCRATCH)
    for row in each(gaps):
        title = tables.domain_label(row.domain)
        shown = row.verdict.startswith(("better", "worse"))
        told.append(
            f"{title}: the whole gap to scratch is {signed(row.effect)} nats {interval(row.low, row.high)}, {row.verdict}"
            + ("." if shown else ", so there is no transfer to explain yet.")
        )
    return " ".join(told) or "What is left of the gap to scratch, part by part."


def contrast_table(tables: Tables, family: str, ident: str, caption: str, folded: bool = False) -> list[Item]:
    """Every planned comparison of a family as a table."""
    rows = tables.of_family(tables.contrasts, family)
    if rows.empty:
        return []
    head = ("domain", "comparison", "metric", "seeds", "effect", "95 % interval, alone", "p (Holm)", "verdict")
    body = tuple(
        (
            tables.domain_label(r.domain), f"{r.treated} against {r.control}", r.metric.replace("_", " "), whole(r.n), signed(r.effect), interval(r.low, r.high),
            p_value(r.p_holm), r.verdict or DASH,
        )
        for r in each(rows)
    )  # fmt: skip
    return [
        Table(
            head,
            body,
            f"{caption} p is corrected over all planned comparisons of the study.",
            frozenset({3, 4, 5, 6}),
            ident,
            folded,
        )
    ]


def reasoning(tables: Tables) -> list[Item]:
    """Exact-match accuracy of the fine-tuned models."""
    rows = tables.reasoning
    if rows.empty:
        return [missing("fine-tuned model", "reasoning.csv")]
    rows = rows.assign(name=rows.regime)
    order = {r: i for i, r in enumerate([*tables.main, *tables.regimes])}
    rows = rows.sort_values(["domain", "regime", "seed"], key=lambda c: c.map(order) if c.name == "regime" else c)
    views, told = [], []
    for domain, part in rows.groupby("domain", sort=False):
        title = tables.domain_label(str(domain))
        views.append(Chart(effects.estimates(part, tables.main), f"Exact-match accuracy after {title}", title))
        means = [f"{regime} {100 * g.accuracy.mean():.1f} %" for regime, g in part.groupby("regime", sort=False)]
        told.append(f"{title}, mean over seeds: {listing(means)}.")
    planned = tables.contrasts[tables.contrasts.family == "reasoning"]
    encoding = f"A line is one fine-tuned model, tested on {whole(rows.n_test.max())} held-out problems; its width is the 95 % binomial interval of that model, not of the regime. Verdicts carry the error of both, seeds and problems."
    finding = f"{sentences(planned)} {' '.join(told)}" if len(planned) else " ".join(told)
    figure = Figure("fig-reasoning", finding, encoding, rows.drop(columns="name"), tuple(views))
    return [figure, *contrast_table(tables, "reasoning", "tab-reasoning", "Planned comparisons of accuracy.")]
