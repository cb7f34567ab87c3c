"""What came out: verdicts, loss curves, final losses, speed-up, re-initialisation, reasoning."""

from __future__ import annotations

import math

import pandas as pd

from nca_interp.report.charts import effects
from nca_interp.report.charts import kinds as charts
from nca_interp.report.charts.numbers import fixed, interval, listing, p_value, percent, plural, signed, whole
from nca_interp.report.page import Chart, Choice, Figure, Item, Note, Table, Verdict, VerdictBox
from nca_interp.report.tables import SCRATCH, Tables, each

BUDGETS = {
    "pt": "pre-training tokens only",
    "pt+ppt": "pre-pre-training tokens counted too",
    "flops": "FLOPs of both stages",
}
NATS = "nats per token"
RULE = (
    "How it was decided, by the plan that was kept before the first run (see Method): the unit is the seed, and regimes are compared at "
    "equal seeds. The effect is the mean paired difference of the final validation loss, the named regime minus the other, so a "
    "negative number favours the named regime. Better or worse: the paired t-test, corrected with Holm over all planned "
    "comparisons of the study, is below 0.05; “negligibly”, if the effect is also smaller than the margin (two one-sided tests, "
    "corrected alike). Equivalent: only the latter. Cannot tell: lost runs could have made the difference, or there is nothing to judge by. "
    "Else inconclusive. “Exact p” is the sign-flip test, which assumes no distribution, uncorrected. The first interval is that of "
    "one comparison alone, the last holds for all together. “Detectable” is the difference that the test at its strictest corrected level "
    "finds four times in five with so many seeds of this spread."
)


def missing(what: str, table: str) -> Note:
    """The sentence that stands where a section has no data."""
    return Note(f"Left out: this study holds no {what} (no rows in tables/{table}).", quiet=True, absent=True)


def sentences(rows: pd.DataFrame) -> str:
    """The sentences of these contrasts, or one made from their numbers."""
    told = [s if s.endswith(".") else f"{s}." for s in rows.sentence if s]
    if not told:
        told = [
            f"{r.treated} against {r.control}: {signed(r.effect)} ({r.verdict or 'no verdict'})." for r in each(rows)
        ]
    return " ".join(told)


def verdict_box(tables: Tables) -> list[Item]:
    """Effect of the studied regime against each other regime, with the decision rule in words."""
    rows = tables.contrast("regime")
    if rows.empty:
        return [missing("planned comparison of regimes", "contrasts.csv")]
    verdicts = tuple(
        Verdict(
            group=tables.domain_label(row.domain),
            comparison=f"{row.treated} against {row.control}",
            verdict=row.verdict or "no verdict",
            sentence=row.sentence,
            cells=(
                ("effect, nats", signed(row.effect)),
                ("95 % interval, alone", interval(row.low, row.high)),
                ("perplexity", percent(row.ppl_change_pct)),
                (f"p (Holm, {whole(row.comparisons)})", p_value(row.p_holm)),
                ("seeds", whole(row.n)),
                ("detectable, nats", fixed(row.detectable)),
                ("exact p", p_value(row.p_exact)),
                ("95 % interval, all together", interval(row.low_all, row.high_all)),
            ),
        )
        for row in each(_first_things_first(rows, tables.contrast("swap")))
    )
    return [VerdictBox(verdicts, RULE), *_pooled(tables)]


def _first_things_first(rows: pd.DataFrame, swaps: pd.DataFrame) -> pd.DataFrame:
    """The primary comparison, then the arms of embedding policies, which decide what it means, then the others."""
    return pd.concat([rows[rows.primary], swaps, rows[~rows.primary]])


def _pooled(tables: Tables) -> list[Item]:
    """One summary of each comparison that several domains have."""
    rows = tables.pooled
    if rows.empty:
        return []
    body = tuple(
        (
            f"{r.treated} against {r.control}", r.metric.replace("_", " "), whole(r.domains), whole(r.n), signed(r.effect),
            interval(r.low, r.high), f"{signed(r.smallest)} to {signed(r.largest)}",
        )
        for r in each(rows)
    )  # fmt: skip
    head = ("comparison", "metric", "domains", "seeds", "effect", "95 % interval, alone", "single domains")
    caption = (
        "Over all domains, weighted equally: the mean of each seed, then over seeds (fixed over domains, random over seeds). It "
        "speaks of these domains only and gives no verdict of its own."
    )
    return [Table(head, body, caption, frozenset({2, 3, 4, 5, 6}), "tab-pooled", folded=True)]


def forest(tables: Tables) -> list[Item]:
    """Effect of the studied regime against each other one, with single seeds."""
    rows, pairs = tables.contrast("regime"), tables.paired("regime")
    if rows.empty:
        return [missing("planned comparison of regimes", "contrasts.csv")]
    views = []

    def coloured(frame: pd.DataFrame) -> pd.Series:
        return frame.control.where(frame.control.isin(tables.main), SCRATCH)  # the best scratch is one of them

    for domain in rows.domain.unique():
        part = rows[rows.domain == domain].assign(name=lambda f: "against " + f.control, regime=coloured)
        dots = pairs[pairs.domain == domain].assign(name=lambda f: "against " + f.control, regime=coloured)
        title = tables.domain_label(domain)
        chart = effects.forest(part, dots, tables.main, f"effect of {tables.reference}, {NATS}", _margin(rows))
        views.append(Chart(chart, f"Effects on {title} with 95 % intervals and single seeds", title))
    encoding = (
        "Filled mark: mean over seeds; bar: 95 % interval of this comparison alone; rings below it: single seeds. Left of zero "
        f"favours {tables.reference}. The grey band is the equivalence margin. No bar: no interval with one seed."
    )
    return [
        Figure("fig-effects", _forest_finding(rows), encoding, pairs.drop(columns=["family", "metric"]), tuple(views))
    ]


def _margin(rows: pd.DataFrame) -> float | None:
    known = rows.margin.dropna()
    return float(known.iloc[0]) if len(known) else None


def _forest_finding(rows: pd.DataFrame) -> str:
    counts = rows.verdict.value_counts()
    parts = [f"{count} {verdict}" for verdict, count in counts.items()]
    return f"Of {plural(len(rows), 'planned comparison')}: {listing(parts)}."


def mean_over_seeds(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Mean of `value` over seeds at every common point of training."""
    return rows.groupby(keys, as_index=False, sort=False).agg(value=("value", "mean"), seeds=("value", "size"))


def _losses(tables: Tables, stage: str) -> pd.DataFrame:
    rows = tables.metrics[
        (tables.metrics.stage == stage) & tables.metrics.regime.isin(tables.main) & tables.metrics.val_loss.notna()
    ]
    rows = rows[rows.run.isin(tables.finished)].rename(columns={"val_loss": "value"})
    return rows[["run", "regime", "domain", "seed", "step", "tokens", "value"]]


def loss_curves(tables: Tables) -> list[Item]:
    """Validation loss of every regime in pre-training, and its distance to scratch at equal tokens and seed."""
    rows = charts.thin(_losses(tables, "pt"), ["run"], "tokens")
    if rows.empty:
        return [missing("validation loss of pre-training", "metrics.csv")]
    views = []
    for domain, title in tables.domains.items():
        part = rows[rows.domain == domain]
        if len(part):
            mean = mean_over_seeds(part, ["regime", "tokens"])
            views.append(
                Chart(
                    charts.curves(part, mean, tables.main, f"validation loss, {NATS}"),
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
            chart = charts.curves(part, mean, tables.main, f"loss minus scratch, {NATS}", zero=True)
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
    rows = charts.thin(_losses(tables, "ppt"), ["run"], "tokens")
    if rows.empty:
        return []
    mean = mean_over_seeds(rows, ["regime", "tokens"])
    vocab = tables.runs[tables.runs.stage == "ppt"].groupby("regime").vocab_size.first()
    finals = [
        f"{r} {fixed(mean[mean.regime == r].sort_values('tokens').value.iloc[-1])} (chance ln {whole(vocab.get(r))} = {fixed(math.log(vocab[r]))})"
        for r in tables.main
        if r in set(mean.regime)
    ]
    chart = charts.curves(rows, mean, tables.main, f"validation loss, {NATS}")
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


def speedup(tables: Tables) -> list[Item]:
    """How many times fewer tokens a regime needs to reach scratch's final loss, in three budgets."""
    rows = tables.speedup
    if rows.empty:
        return [missing("tokens-to-target measurement", "speedup.csv")]
    rows = rows.assign(
        name=rows.regime,
        kind=rows.target_of.map({"scratch": "at scratch's best loss", "regime": "at the regime's best loss"}),
    )
    views = [
        Chart(
            effects.factors(rows[rows.domain == d].drop(columns=["domain"]), tables.main, "datum.budget == budget"),
            f"Speed-up on {t}",
            t,
        )
        for d, t in tables.domains.items()
        if d in set(rows.domain)
    ]
    budgets = [b for b in BUDGETS if b in set(rows.budget)] or list(rows.budget.unique())
    choice = Choice("budget", "Counted", tuple((b, BUDGETS.get(b, b)) for b in budgets))
    encoding = (
        "A mark is one seed: what scratch needs divided by what this regime needs to reach the lowest loss that both reach. Right of "
        "1 is faster, left of it slower. Hollow arrow: the regime never gets as low as scratch, so the loss is the regime's best."
    )
    return [
        Figure(
            "fig-speedup",
            _speed_finding(tables, rows, budgets[0]),
            encoding,
            rows.drop(columns=["name", "kind"]),
            tuple(views),
            choices=(choice,),
        )
    ]


def _speed_finding(tables: Tables, rows: pd.DataFrame, budget: str) -> str:
    means = tables.speedups
    told = means[(means.regime == tables.reference) & (means.budget == budget)].sentence
    return " ".join(told) or "Speed-up against scratch."
