"""How far was the synthetic task learned? The rule-inference curve between the ideal predictors, and the rung of every run."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nca_interp.report.charts import distributions as charts
from nca_interp.report.charts.numbers import DASH, fixed, interval, listing, plural, short, signed, whole
from nca_interp.report.page import Chart, Figure, Item, Section, Table
from nca_interp.report.sections import sources
from nca_interp.report.sections.outcome import NATS, missing
from nca_interp.report.tables import Tables, each

SHOWN = ("free-running", "teacher-forced", "copy", "mode", "lookup", "backoff", "oracle")
KINDS = {"trained": "trained rules", "new": "new rules", "other band": "other band"}
CONTROLS = ("context swap", "frame shuffle")
DRAWN = ("teacher-forced", *CONTROLS, "oracle")
"""Whose loss is drawn."""
NO_RULE, OPEN = "no rule to learn", ("inconclusive", "not measured")
RULE = (
    "How far a model came, on rules that its data never had, free-running, in the last third of the frames: no better than the mode (or "
    "copy, cell-mode); uses its context (another rule’s frames cost, and the loss falls over frames); beats mode and copy; beats lookup; "
    "beats back-off; near the oracle (certainly less than 0.02 of the cells below it). Each rung is tested only where the one before it holds, "
    "by 95 % intervals over rules. Only a model that beats back-off, counting without a rule at its best, and that pays for another rule’s "
    "frames is said to have inferred the rule."
)


def unlearned(tables: Tables) -> dict[str, tuple[int, int]]:
    """Regime -> (runs that were shown to have inferred the rule, runs), of the regimes where these differ."""
    found = {}
    for regime, rows in tables.learned.groupby("regime", sort=False):
        if set(rows.verdict) != {NO_RULE}:
            n = int((rows.inferred | (rows.verdict == NO_RULE)).sum())
            if n < len(rows):
                found[str(regime)] = (n, len(rows))
    return found


def task(tables: Tables) -> list[Item]:
    """Curves of each regime's first run, and the verdicts of all runs."""
    if tables.learned.empty:
        return [missing("pre-pre-training on NCA", "learned.csv")]
    return [*_figures(tables), *_course(tables), _verdicts(tables)]


def _figures(tables: Tables) -> list[Item]:
    rows, accuracy, losses = tables.inference, [], []
    for regime, part in rows.groupby("regime", sort=False):
        first = part[(part.run == part.run.iloc[0]) & (part.step == part.step.max())].rename(columns={"frame": "x"})
        title = f"{tables.label(str(regime))}, seed {whole(first.seed.iloc[0])}"
        cells = first[(first.rules == "new") & (first.quantity == "cell_accuracy")].assign(name=lambda f: f.predictor)
        names = [n for n in SHOWN if n in set(cells.name)]
        chart = charts.labelled(cells[cells.name.isin(names)], names, "frames seen before", "share of cells")
        accuracy.append(Chart(chart, f"Cells predicted of new rules, {title}", title))
        loss = _losses(first)
        chart = charts.labelled(loss, list(dict.fromkeys(loss.name)), "frames seen before", NATS)
        losses.append(Chart(chart, f"Loss by frame, {title}", title))
    if not accuracy:
        return []
    keep = ["run", "regime", "seed", "rules", "predictor", "frame", "value", "low", "high", "n"]
    seeds = "The first run of each regime; the table below has all. "
    encoding = (
        f"{seeds}New rules, mean over {whole(rows.n.max())} rules with its 95 % interval. free-running: the model generates the frame; "
        "teacher-forced: it sees the true patches before each. copy: the frame before. mode: the most frequent state so far. lookup: what "
        "followed the same 3 × 3 neighbourhood. backoff: the same with ever smaller neighbourhoods where it is new. oracle: the rule itself. "
    )
    controls = (
        f"{seeds}Teacher-forced loss a patch token, delimiters left out. Trained rules start from new cells; other band: rules of a "
        "neighbouring range of gzip ratios. context swap: all frames but the last one seen are another rule's; frame shuffle: they are in "
        "another order. A model that infers the rule in context loses by both. oracle: the noise of the rule."
    )
    new = rows[rows.rules == "new"]
    return [
        Figure(
            "fig-learned", _finding(tables), encoding + RULE, new[new.quantity == "cell_accuracy"][keep], tuple(accuracy),
            swatches=False,
        ),
        Figure("fig-inference", _loss_finding(tables), controls, rows[(rows.quantity == "loss") & rows.predictor.isin(DRAWN)][keep], tuple(losses), swatches=False),
    ]  # fmt: skip


def _course(tables: Tables) -> list[Item]:
    """Accuracy and loss on new rules over training, between the ideal predictors."""
    rows, views = tables.learning, []
    for regime, part in rows.groupby("regime", sort=False):
        first = part[part.run == part.run.iloc[0]].rename(columns={"tokens": "x"}).assign(name=lambda f: f.predictor)
        title = f"{tables.label(str(regime))}, seed {whole(first.seed.iloc[0])}"
        for quantity, names, unit in (
            ("cell_accuracy", _drawn(first), "share of cells"),
            ("loss", ("teacher-forced", "oracle"), NATS),
        ):
            shown = first[(first.quantity == quantity) & first.predictor.isin(names)]
            if shown.step.nunique() > 1:
                chart = charts.labelled(shown, [n for n in names if n in set(shown.name)], "training tokens", unit)
                views.append(Chart(chart, f"{quantity} of new rules over training, {title}", f"{title}: {unit}"))
    if not views:
        return []
    encoding = (
        "The same new rules at every checkpoint, mean of the last third of the frames with its 95 % interval over rules. Names as above; the "
        "ideal predictors do not depend on training. The first run of each regime is drawn; the table of the figure has all."
    )
    return [Figure("fig-course", _course_finding(tables), encoding, rows, tuple(views), swatches=False)]


def _drawn(first: pd.DataFrame) -> list[str]:
    """What is drawn of accuracy; of the two modes the better one, so that the best rival is always there."""
    cells = first[first.quantity == "cell_accuracy"].groupby("name").value.mean()
    better = max(("mode", "cell-mode"), key=lambda name: cells.get(name, -1.0))
    return [better if name == "mode" else name for name in SHOWN]


def _course_finding(tables: Tables) -> str:
    reached = tables.emergence[tables.emergence.probe == "rule_inference"]
    alike: dict[str, list[str]] = {}
    for r in each(reached):
        alike.setdefault(_when(r), []).append(str(r.run))
    told = [f"{runs[0] if len(runs) == 1 else plural(len(runs), 'run')} {when}" for when, runs in alike.items()]
    return (
        f"Better than every predictor without the rule, with a 95 % interval at each checkpoint: {'; '.join(told)}."
        if told
        else "Rule inference over training."
    )


def _when(row: Any) -> str:
    if row.state == "reached":
        return f"between {short(row.after_tokens)} and {short(row.by_tokens)} tokens"
    return "from the first checkpoint" if row.state == "from start" else f"not until {short(row.after_tokens)} tokens"


def _losses(first: pd.DataFrame) -> pd.DataFrame:
    """Teacher-forced loss on each kind of rules, of the controls and of the oracle, each under its name."""
    loss = first[first.quantity == "loss"]
    forced = loss[loss.predictor == "teacher-forced"].assign(name=lambda f: f.rules.map(KINDS))
    others = loss[(loss.rules == "new") & loss.predictor.isin([*CONTROLS, "oracle"])].assign(name=lambda f: f.predictor)
    return pd.concat([forced, others])


def _finding(tables: Tables) -> str:
    told = []
    for regime, rows in tables.learned.groupby("regime", sort=False):
        counts = [f"{n} {verdict}" for verdict, n in rows.verdict.value_counts().items()]
        told.append(f"{regime}: {listing(counts)}")
    return f"Of the runs {'; '.join(told)}. {tables.learned.sentence.iloc[0]}"


def _loss_finding(tables: Tables) -> str:
    told = []
    for row in each(tables.learned.drop_duplicates("regime")):
        told.append(f"{row.regime} {signed(row.gain)} {interval(row.gain_low, row.gain_high)}")
    return f"Loss of the last frame minus that of the first predicted one, nats per patch token: {listing(told)}."


def _verdicts(tables: Tables) -> Table:
    head = (
        "run", "verdict", "inferred", "cells, free-running", "not beaten", "it gets", "difference", "95 % interval", "rules", "rule itself",
        "slope, nats per ln frame", "context swap, nats", "frame shuffle, nats",
    )  # fmt: skip
    body = tuple(
        (
            r.run, r.verdict, _inferred(r), fixed(r.accuracy), r.rival or DASH, fixed(r.rival_accuracy), signed(r.effect), interval(r.low, r.high), whole(r.n),
            fixed(r.oracle_accuracy), f"{signed(r.slope)} {interval(r.slope_low, r.slope_high)}",
            f"{signed(r.swap)} {interval(r.swap_low, r.swap_high)}", f"{signed(r.shuffle)} {interval(r.shuffle_low, r.shuffle_high)}",
        )
        for r in each(tables.learned)
    )  # fmt: skip
    caption = f"{plural(len(body), 'run')}: last checkpoint of each pre-pre-training on NCA, on new rules. Not beaten: the predictor of the next rung. Controls: what the changed context costs at the last frame."
    return Table(head, body, caption, frozenset({3, 5, 6, 7, 8, 9, 10, 11, 12}), "tab-learned")


def _inferred(row: Any) -> str:
    return DASH if row.verdict in (NO_RULE, *OPEN) else "yes" if row.inferred else "not shown"


def section(tables: Tables) -> tuple[Section, ...]:
    """The synthetic data, and whether it was learned."""
    return (
        Section("data", "What the model reads before language", (*sources.trajectory(tables),)),
        Section("learned", "How far was the synthetic task learned?", (*task(tables),)),
    )
