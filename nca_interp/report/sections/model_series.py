"""Checkpoints of one training from elsewhere: scores over training, and between which checkpoints heads appeared."""

from __future__ import annotations

import pandas as pd

from nca_interp.report.charts import timelines
from nca_interp.report.charts.curves import curves
from nca_interp.report.charts.numbers import DASH, fixed, listing, plural, whole
from nca_interp.report.page import Chart, Choice, Figure, Item, Section, Table
from nca_interp.report.sections.outcome import mean_over_seeds
from nca_interp.report.tables import Tables, each

HIGHEST, AVERAGE, COUNT, WHOLE = "highest head", "mean of heads", "heads of the kind", "model"
LINES = (HIGHEST, AVERAGE, COUNT, WHOLE)
STATES = {"reached": "reached", "from start": "there from the first checkpoint", "never": "not reached", "unconfirmed": "at the last checkpoint alone"}  # fmt: skip


def sections(tables: Tables) -> tuple[Section, ...]:
    """What happens over the checkpoints of each series; nothing where every model has one checkpoint."""
    if not any(tables.series(str(run)) for run in tables.runs.run):
        return ()
    return (Section("series", "Over training", (*appearance(tables), *scores(tables))),)


def scores(tables: Tables) -> list[Item]:
    """Every probe over the checkpoints: highest head, mean of heads, how many are of the kind; behaviour of the model."""
    rows, clock = tables.clock(_lines(tables))
    if rows.empty:
        return []
    probes = sorted(rows.probe.unique(), key=lambda p: (p != "induction", p))
    # a model's own score has one line only, heads have three: what is chosen is shown where there is such a line
    part = rows[["regime", "run", "probe", "line", "tokens", "value"]]
    mean = mean_over_seeds(part, ["regime", "probe", "line", "tokens"]).sort_values(["regime", "tokens"])
    where = f"datum.probe == probe && (datum.line == line || datum.line == '{WHOLE}')"
    chart = curves(
        part.assign(run=part.run + part.line), mean, tables.main, "value", x_title=clock, where=where, labels=False, dots=True
    )  # fmt: skip
    lines = [name for name in LINES if name != WHOLE and name in set(rows.line)]
    choices = (
        Choice("probe", "Probe", tuple((p, _option(rows[rows.probe == p])) for p in probes)),
        *([Choice("line", "Of heads", tuple((name, name) for name in lines))] if lines else []),
    )
    first = rows[(rows.probe == probes[0]) & (rows.line == (lines[0] if lines else WHOLE))].sort_values("step")
    told = [
        f"{tables.names[str(run)]} {fixed(g.value.iloc[0])} at step {whole(g.step.iloc[0])}, {fixed(g.value.iloc[-1])} at step {whole(g.step.iloc[-1])}"
        for run, g in first.groupby("run", sort=False)
    ]
    encoding = (
        "Marks: checkpoints. Thin: single runs; thick: mean over the runs of one regime. Heads of the kind: above the probe's threshold, twice chance and the 95th "
        "percentile of random models. What lies between two checkpoints was not measured."
    )
    return [
        Figure(
            "fig-series", f"{probes[0]}, {lines[0] if lines else WHOLE}: {listing(told)}.", encoding,
            rows[["run", "probe", "line", "step", "tokens", "value", "chance", "null_95", "unit"]],
            (Chart(chart, "Selected probe over training"),), choices=choices, columns=1,
        )
    ]  # fmt: skip


def _lines(tables: Tables) -> pd.DataFrame:
    """A row a run, step, probe and `line`."""
    rows = tables.probes[tables.probes.value.notna() & (tables.probes.stage != "ft")]
    rows = rows[rows.run.isin([run for run in rows.run.unique() if tables.series(str(run))])]
    keys = ["run", "regime", "step", "probe", "unit"]
    rest = {"tokens": ("tokens", "first"), "chance": ("chance", "mean"), "null_95": ("null_95", "mean")}
    heads = rows[rows["head"].notna()].groupby(keys, as_index=False, sort=False)
    model = rows[rows["head"].isna()].groupby(keys, as_index=False, sort=False)
    counted = rows[rows.hit.notna()].groupby(keys, as_index=False, sort=False)
    return pd.concat(
        [
            heads.agg(value=("value", "max"), **rest).assign(line=HIGHEST),
            heads.agg(value=("value", "mean"), **rest).assign(line=AVERAGE),
            counted.agg(value=("hit", "sum"), **rest).assign(line=COUNT, chance=float("nan"), null_95=float("nan")),
            model.agg(value=("value", "mean"), **rest).assign(line=WHOLE),
        ],
        ignore_index=True,
    )


def _option(rows: pd.DataFrame) -> str:
    unit, chance = rows.unit.iloc[0], rows.chance.dropna()
    known = [str(unit)] if unit else []
    known += [f"chance {fixed(chance.mean())}"] if len(chance) else []
    return f"{rows.probe.iloc[0]} ({'; '.join(known)})" if known else str(rows.probe.iloc[0])


def appearance(tables: Tables) -> list[Item]:
    """Between which two checkpoints each kind of head, or ability, appeared."""
    rows = tables.emergence[tables.emergence.checkpoints > 1]
    if rows.empty:
        return []
    steps = rows.by_tokens.isna().all() and rows.after_tokens.isna().all()
    unit, title = ("step", "training step") if steps else ("tokens", "training tokens")
    low = rows[f"after_{unit}"].fillna(0.0)
    high = rows[f"by_{unit}"].fillna(low)
    order = sorted(rows.probe.unique(), key=lambda p: (_rank(rows[rows.probe == p]), p))
    drawn = rows.assign(low=low, high=high, x=high, name=rows.probe, run=rows.run.map(tables.names))
    drawn = drawn.sort_values("probe", key=lambda names: names.map(order.index), kind="stable")
    columns = [
        "run",
        "name",
        "regime",
        "stage",
        "state",
        "low",
        "high",
        "x",
        "after_tokens",
        "by_tokens",
        "level",
        "last",
    ]
    views = [
        Chart(timelines.appearances(part[columns], tables.main, None, title, swap=False), f"When heads appeared in {run}", str(run))
        for run, part in drawn.groupby("run", sort=False)
    ]  # fmt: skip
    reached = rows[rows.state == "reached"]
    finding = f"{plural(rows.probe.nunique(), 'kind')} of head or ability, {plural(rows.run.nunique(), 'run')}: {len(reached)} appear within the checkpoints, {int((rows.state == 'from start').sum())} are there from the first, {int(rows.state.isin(['never', 'unconfirmed']).sum())} do not appear."
    encoding = (
        "Dot and bar: the first checkpoint whose highest score (median of three) is at the level and stays, and the checkpoint before: the truth lies on "
        "the bar, which is as long as the checkpoints are apart. Arrow to the right: not until there; to the left: there from the first checkpoint. The "
        "level is the probe's threshold, twice chance, or what random models reach, whatever is highest."
    )
    data = rows[["run", "probe", "level", "state", "after_step", "by_step", "after_tokens", "by_tokens", "first", "last", "highest", "checkpoints"]]  # fmt: skip
    return [
        Figure("fig-emergence", finding, encoding, data, tuple(views), columns=min(2, len(views))),
        _when(tables, rows),
    ]


def _rank(rows: pd.DataFrame) -> float:
    """Probes that appear come first, in their order."""
    known = rows.by_step.dropna()
    return float(known.min()) if len(known) else float("inf")


def _when(tables: Tables, rows: pd.DataFrame) -> Table:
    body = tuple(
        (
            tables.names[r.run], r.probe, STATES.get(r.state, r.state), whole(r.after_step), whole(r.by_step), whole(r.after_tokens),
            whole(r.by_tokens), fixed(r.level), fixed(r.first), fixed(r.last), whole(r.checkpoints),
        )
        for r in each(rows.sort_values(["run", "by_step", "probe"]))
    )  # fmt: skip
    head = (
        "model",
        "probe",
        "state",
        "after step",
        "by step",
        "after token",
        "by token",
        "level",
        "first",
        "last",
        "checkpoints",
    )
    return Table(head, body, f"Between which checkpoints each level was reached; {DASH}: not known.", frozenset(range(3, 11)), "tab-emergence", folded=True)  # fmt: skip
