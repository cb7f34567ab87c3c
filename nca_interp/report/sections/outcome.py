"""What came out: verdicts, effects with single seeds, speed-up; and what the sections share."""

from __future__ import annotations

import pandas as pd

from nca_interp.report.charts import effects
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
    told = f"Of {plural(len(rows), 'planned comparison')}: {listing(parts)}."
    undecided = rows.verdict.str.startswith("inconclusive")
    closed = undecided & ~rows.primary & ((rows.low > 0) | (rows.high < 0))
    if (undecided & rows.primary).any() and closed.any():
        told += f" {plural(int(closed.sum()), 'interval')} that {'excludes' if closed.sum() == 1 else 'exclude'} zero, each alone, wait{'s' if closed.sum() == 1 else ''} for the primary comparison, which is open."
    return told


def mean_over_seeds(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Mean of `value` over seeds at every common point of training."""
    return rows.groupby(keys, as_index=False, sort=False).agg(value=("value", "mean"), seeds=("value", "size"))


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
