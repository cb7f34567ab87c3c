"""Must the automata be as complex as the domain? Gain over two axes, gain against distance, and the hypotheses side by side."""

from __future__ import annotations

import pandas as pd

from nca_interp.report.charts import sweep as charts
from nca_interp.report.charts.numbers import DASH, absent, fixed, interval, listing, p_value, plural, signed, whole
from nca_interp.report.page import Chart, Figure, Item, Note, Section, Table, Verdict, VerdictBox
from nca_interp.report.tables import SCRATCH, Tables, each

NATS = "nats a token"
FEWEST = 5
"""Arms below which nothing is drawn against distance (docs/sweep.md)."""
RULE = (
    "The arm is the unit: gains are dealt out anew to the arms, those of all domains by one order. A hypothesis is judged by the largest p of its own "
    "and of what is left of it given each rival, corrected over this family (Holm). Where two predictors order the arms alike, no seeds can tell them apart: cannot tell."
)
DECLARED = "declared"


def section(tables: Tables) -> tuple[Section, ...]:
    """The sweep; a sentence for a study that has too few arms, nothing for checkpoints from elsewhere."""
    if tables.collection is not None:
        return ()
    return (Section("sweep", "Must the data be as complex as the domain?", (*_items(tables),)),)


def _items(tables: Tables) -> list[Item]:
    arms = tables.sweep
    n = arms.regime.nunique()
    if n < FEWEST:
        return [_too_few(n)]
    return [_verdicts(tables), _map(tables, arms), *_against(tables, arms), _arms(tables, arms), *_exploration(tables)]


def _too_few(n: int) -> Note:
    has = f"only {plural(n, 'source')}" if n else "no source"
    return Note(
        f"This study cannot say whether data must be as complex as the domain: it has {has} of automata that is compared with scratch, and "
        f"the test takes at least {FEWEST}, some simpler and some more complex than the corpus (nca-interp train sweep).",
        quiet=True,
        absent=True,
    )


def _verdicts(tables: Tables) -> VerdictBox:
    rows = tables.sweep_tests[tables.sweep_tests.family == DECLARED]
    verdicts = tuple(
        Verdict(
            "All domains together", r.hypothesis, r.verdict, r.sentence,
            (
                ("arms", whole(r.arms)), ("seeds", whole(r.seeds)), ("gain a sd", signed(r.effect, 4)), ("95 %", interval(r.low, r.high, 4)),
                ("correlation", signed(r.rho, 2)), ("p", p_value(r.p)), ("p, corrected", p_value(r.p_holm)),
            ),
        )
        for r in each(rows)
    )  # fmt: skip
    return VerdictBox(verdicts, RULE)


def _domains(tables: Tables, arms: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    return [(d, title, arms[arms.domain == d]) for d, title in tables.domains.items() if (arms.domain == d).sum() > 1]


def _map(tables: Tables, arms: pd.DataFrame) -> Figure:
    second = str(arms.second.iloc[0]).replace("_", " ")
    largest, views, told = float(arms.gain.abs().max()), [], []
    for _, title, rows in _domains(tables, arms):
        shown = rows.assign(short=rows.regime.str.removeprefix(f"{tables.reference}-"))
        chart = charts.gain_map(shown, "gzip ratio (0 constant, 1 random)", second, largest, _place(rows))
        views.append(Chart(chart, f"Gain over both axes on {title}", title))
        best = next(each(rows.sort_values("gain", ascending=False)))
        where = (
            f"; the corpus at {fixed(best.corpus, 2)}"
            if not absent(best.corpus)
            else "; the corpus could not be measured"
        )
        told.append(
            f"{title}: highest gain with {best.regime}, {signed(best.gain)} {interval(best.low, best.high)} {NATS}, at {fixed(best.complexity, 2)} and "
            f"{second} {fixed(best.second_value, 2)}{where}."
        )
    encoding = (
        f"A square is a source at its measured gzip ratio and {second}, coloured by scratch's final loss minus its own, {NATS}: blue is a gain. "
        f"Dashed: the gzip ratio of the corpus. {_second_of(arms, second)} A cross: not in the verdict, see the table."
    )
    return Figure("fig-sweep-map", " ".join(told), encoding, _data(arms), tuple(views), swatches=False)


def _place(rows: pd.DataFrame) -> tuple[float, float | None] | None:
    first = next(each(rows))
    if absent(first.corpus):
        return None
    return float(first.corpus), None if absent(first.corpus_second) else float(first.corpus_second)


def _second_of(arms: pd.DataFrame, second: str) -> str:
    if arms.corpus_second.notna().all():
        return "A diamond: the corpus on both axes."
    return f"A text has no {second}, which is measured on cells and rules, so the distance from it is along gzip alone."


def _against(tables: Tables, arms: pd.DataFrame) -> list[Item]:
    pairs = tables.pairs[(tables.pairs.control == SCRATCH) & (tables.pairs.metric == "val_loss")]
    views = []
    for domain, title, rows in _domains(tables, arms[arms.distance.notna()]):
        own = pairs[(pairs.domain == domain) & pairs.treated.isin(rows.regime)]
        far = rows.set_index("regime").distance
        seeds = own.assign(regime=own.treated, gain=-own.difference, distance=own.treated.map(far))
        chart = charts.against_distance(
            rows, seeds[["regime", "seed", "gain", "distance"]], f"gain over scratch, {NATS}"
        )
        views.append(Chart(chart, f"Gain against distance on {title}", title))
    if not views:
        return [
            Note(
                "No corpus could be measured on an axis of the sources, so that there is no distance to set gain against."
            )
        ]
    rows = tables.sweep_tests[(tables.sweep_tests.family == DECLARED) & (tables.sweep_tests.hypothesis == "matching")]
    encoding = "Mark: mean gain with the 95 % interval of this comparison alone; rings: single seeds; hollow: not in the verdict. Above zero is better than scratch."
    data = _data(arms)[["domain", "regime", "distance", "gain", "low", "high", "n", "counted"]]
    return [Figure("fig-sweep-distance", " ".join(rows.sentence), encoding, data, tuple(views), swatches=False)]


def _data(arms: pd.DataFrame) -> pd.DataFrame:
    return arms[
        ["domain", "regime", "n_states", "dt", "complexity", "second_value", "corpus", "corpus_second", "distance", "gain", "low", "high", "n", "learned", "counted"]
    ]  # fmt: skip


def _arms(tables: Tables, arms: pd.DataFrame) -> Table:
    second = str(arms.second.iloc[0]).replace("_", " ")
    head = ("domain", "source", "states", "dT", "gzip", second, "distance", "gain", "95 %, alone", "verdict", "learned", "cells right", "without a rule", "left out because")  # fmt: skip
    body = tuple(
        (
            tables.domain_label(r.domain), r.regime, whole(r.n_states), whole(r.dt), fixed(r.complexity), fixed(r.second_value), fixed(r.distance, 2),
            signed(r.gain), interval(r.low, r.high), r.verdict, f"{r.learned} ({whole(r.learned_seeds)} of {whole(r.measured_seeds)})",
            fixed(r.accuracy), fixed(r.rival_accuracy), r.why or DASH,
        )
        for r in each(arms)
    )  # fmt: skip
    out = list(dict.fromkeys(arms[~arms.counted].regime))
    caption = (
        "Every source on every domain. Learned: seeds whose model, free-running on new rules, beats the mode, each cell's mode and a copy of the frame before; more than half "
        f"must. {f'Not in the verdict: {listing(out)}.' if out else 'All are in the verdict.'}"
    )
    return Table(head, body, caption, frozenset({2, 3, 4, 5, 6, 7, 11, 12}), "tab-sweep")


def _exploration(tables: Tables) -> list[Item]:
    rows = tables.sweep_tests[tables.sweep_tests.family != DECLARED]
    if rows.empty:
        return []
    head = ("domain", "arms", "gain follows", "gain a sd", "95 %", "correlation", "p", "rival", "with it", "given it")
    body = tuple(
        (
            tables.domain_label(r.domain), f"{whole(r.arms)}{'' if r.domain else ', learned or not'}", r.predictor.replace("_", " "), signed(r.effect, 4),
            interval(r.low, r.high, 4), signed(r.rho, 2), p_value(r.p), r.rival or DASH, signed(r.rival_rho, 2), signed(r.given, 2),
        )
        for r in each(rows)
    )  # fmt: skip
    caption = "Exploration, uncorrected and without verdicts: each domain alone, the second axis, and all sources whether or not their models learned."
    return [Table(head, body, caption, frozenset(range(3, 7)), "tab-sweep-tests", folded=True)]
