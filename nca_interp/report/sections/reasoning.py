"""What the checkpoints can do: accuracy by task, pass@k curves, learning curves, contrasts of regimes, the published numbers."""

from __future__ import annotations

import pandas as pd

from nca_interp.report.charts import effects
from nca_interp.report.charts.bands import bands
from nca_interp.report.charts.numbers import DASH, fixed, interval, listing, p_value, whole
from nca_interp.report.page import Chart, Figure, Item, Note, Section, Table
from nca_interp.report.tables import Tables, each

ACCURACY = "share of problems"


def section(tables: Tables) -> tuple[Section, ...]:
    """The section, where something was asked."""
    if tables.evaluations.empty:
        return ()
    return (
        Section(
            "tasks", "What it can do: reasoning tasks",
            (*_forest(tables), *_curves(tables), *_learning(tables), *_all(tables), *_contrasts(tables), *_published(tables), *_notes(tables)),
        ),
    )  # fmt: skip


def _whole(tables: Tables) -> pd.DataFrame:
    """Rows of whole tasks at the last checkpoint of each run."""
    rows = tables.evaluations[(tables.evaluations.part == "") & tables.evaluations.value.notna()]
    return rows[rows.final == 1]


def _forest(tables: Tables) -> list[Item]:
    """Regimes by task, each with the chance level of the task in its name."""
    regimes = tables.evaluation_regimes
    if regimes.empty:
        return []
    rows = _first_k(regimes).assign(seed=lambda f: f.regime + f.stage, accuracy=lambda f: f.value)
    chance = _whole(tables).groupby("task").chance.mean()
    rows = rows.assign(name=[f"{t}, chance {100 * chance.get(t, 0):.0f} %" for t in rows.task])
    rows = rows.assign(name=[f"{n}{_place(r)}" for n, r in zip(rows.name, each(rows), strict=True)])
    chart = effects.estimates(rows, _regimes(tables, rows))
    told = [f"{r.task} {r.regime} {100 * r.value:.1f} %" for r in each(rows.head(8))]
    encoding = (
        "A mark is a regime, its line the 95 % interval with the error of few seeds and of few problems together (with one seed: of the "
        "problems alone). Problems that did not fit the context are left out, never counted as right."
    )
    data = rows.drop(columns=["name", "accuracy", "seed"])
    return [Figure("fig-tasks", f"{listing(told)}.", encoding, data, (Chart(chart, "Accuracy by task", "tasks"),))]


def _first_k(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows.k == rows.groupby("task").k.transform("min")]


def _place(row: object) -> str:
    stage = {"ft": "fine-tuned", "pt": "pre-trained", "ppt": "before language"}.get(getattr(row, "stage", ""), "")
    told = ", ".join(part for part in (getattr(row, "domain", ""), stage) if part)
    return f" ({told})" if told else ""


def _regimes(tables: Tables, rows: pd.DataFrame) -> list[str]:
    """Compared regimes first, then any other that was asked."""
    return [*tables.main, *(r for r in rows.regime.unique() if r not in tables.main)]


def _curves(tables: Tables) -> list[Item]:
    """pass@k against k, a view a task."""
    regimes = tables.evaluation_regimes
    views, kept = [], []
    for (task, _, _), rows in regimes.groupby(["task", "domain", "stage"], sort=False):
        if rows.k.nunique() < 2:
            continue
        drawn = rows.assign(x=rows.k, n=rows.seeds)
        kept.append(rows)
        name = f"{task}{_place(next(each(rows)))}"
        views.append(
            Chart(
                bands(
                    drawn[["regime", "stage", "x", "value", "low", "high", "n"]],
                    _regimes(tables, rows),
                    "k",
                    "pass@k",
                    log=True,
                ),
                f"pass@k of {name}",
                name,
            )
        )
    if not views:
        return []
    samples = whole(tables.evaluations.samples.max())
    encoding = (
        f"pass@k: the probability that one of k answers is right, unbiased, from {samples} answers to each problem (arXiv 2107.03374). Line: mean "
        "over seeds; band: 95 % interval with the errors of seeds and problems."
    )
    rows = pd.concat(kept)
    first, last = rows[rows.k == rows.k.min()], rows[rows.k == rows.k.max()]
    finding = f"From k = {whole(rows.k.min())} to {whole(rows.k.max())}: mean over tasks and regimes {100 * first.value.mean():.1f} to {100 * last.value.mean():.1f} %."
    return [Figure("fig-passk", finding, encoding, rows, tuple(views))]


def _learning(tables: Tables) -> list[Item]:
    """Accuracy over training, where more than the last checkpoint was asked."""
    rows = tables.evaluations[
        (tables.evaluations.part == "") & tables.evaluations.value.notna() & (tables.evaluations.sampling != "harness")
    ]
    rows = _first_k(rows)
    views = []
    for task, part in rows.groupby("task", sort=False):
        if part.groupby("run").step.nunique().max() < 2:
            continue
        mean = part.groupby(["regime", "stage", "step"], as_index=False).agg(
            value=("value", "mean"), low=("low", "mean"), high=("high", "mean"), n=("run", "nunique")
        )
        mean.loc[mean.n > 1, ["low", "high"]] = float("nan")
        views.append(
            Chart(
                bands(mean.rename(columns={"step": "x"}), _regimes(tables, part), "training step", ACCURACY),
                f"Accuracy on {task} over training",
                str(task),
            )
        )
    if not views:
        return []
    encoding = "Mean over seeds at each checkpoint; band, of single runs: 95 % interval over problems."
    return [Figure("fig-task-learning", "Accuracy over training, by task.", encoding, rows, tuple(views))]


def _all(tables: Tables) -> list[Item]:
    rows = _whole(tables)
    head = ("run", "task", "sampling", "k", "value, %", "95 % interval", "normalised", "chance", "problems", "skipped")
    body = tuple(
        (
            r.run, r.task, r.sampling, whole(r.k), fixed(100 * r.value, 1), _percents(100 * r.low, 100 * r.high), fixed(r.normalised), fixed(r.chance),
            whole(r.problems), whole(r.skipped),
        )
        for r in each(rows)
    )  # fmt: skip
    caption = (
        "Last checkpoint of each run, mean over the parts of a task. The interval is that of the problems alone. Normalised: (value - chance) / "
        "(1 - chance), part by part. Skipped problems did not fit the context."
    )
    return [Table(head, body, caption, frozenset(range(3, 10)), "tab-tasks", folded=True)]


def _contrasts(tables: Tables) -> list[Item]:
    rows = tables.evaluation_contrasts
    if rows.empty:
        return []
    views = []
    drawn = rows.assign(
        name=[f"{r.task}: against {r.control}{f' ({r.domain})' if r.domain else ''}" for r in each(rows)],
        regime=rows.control,
    )
    known = drawn.drop_duplicates("name")
    views.append(
        Chart(
            effects.forest(
                known,
                known.iloc[:0].assign(difference=[], seed=[]),
                _regimes(tables, known),
                "difference of accuracies",
            ),
            "Differences by task",
            "tasks",
        )
    )
    told = " ".join(s if s.endswith(".") else f"{s}." for s in rows.sentence.head(4) if s)
    encoding = "Mark: mean difference over paired seeds; line: its 95 % interval alone, with the errors of seeds and of problems. Right of zero favours the studied regime."
    body = tuple(
        (r.task, r.domain or DASH, f"{r.treated} against {r.control}", whole(r.k), whole(r.n), fixed(100 * r.effect, 1), _percents(100 * r.low, 100 * r.high), p_value(r.p_holm), r.verdict or DASH)
        for r in each(rows)
    )  # fmt: skip
    head = (
        "task",
        "domain",
        "comparison",
        "k",
        "seeds",
        "difference, points",
        "95 % interval, alone",
        "p (Holm)",
        "verdict",
    )
    caption = "Paired over seeds and problems. p is corrected over all comparisons of this table; no plan was fixed before these results."
    return [
        Figure("fig-task-contrasts", told, encoding, rows, tuple(views)),
        Table(head, body, caption, frozenset({3, 4, 5, 6, 7}), "tab-task-contrasts", folded=True),
    ]


def _published(tables: Tables) -> list[Item]:
    rows = tables.evaluation_published
    if rows.empty:
        return []
    body = tuple(
        (r.task, r.metric, whole(r.k), r.regime, fixed(r.published, 2), DASH if pd.isna(r.ours) else fixed(r.ours, 2), _percents(r.ours_low, r.ours_high), r.why)
        for r in each(rows)
    )  # fmt: skip
    head = ("task", "metric", "k", "regime", "published, %", "here, %", "95 % interval", "settings")
    return [
        Table(
            head,
            body,
            "Published (arXiv 2603.10055) and here; the settings differ as the last column says.",
            frozenset({2, 4, 5, 6}),
            "tab-task-published",
        )
    ]


def _percents(low: float, high: float) -> str:
    """An interval in percent."""
    return interval(low, high, 1, False)


def _notes(tables: Tables) -> list[Item]:
    return [Note(f"{note}.", quiet=True) for note in tables.evaluation_notes.note.drop_duplicates()]
