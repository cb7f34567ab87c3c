"""The arms of a sweep: which regimes they are, where they lie on both axes, what their models learned, what they gain."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nca_interp.analysis.inference.rungs import NEAR_ORACLE, RUNGS
from nca_interp.analysis.verdicts.plan import SCRATCH, primary
from nca_interp.config import MODULES, Regime, Study
from nca_interp.data.specs import NcaSpec

AXIS = "gzip_ratio_normalised"
"""First axis: of every source and corpus, on the rows that a model reads."""
SECOND = "activity"
"""Second axis where no arm is chosen by another measure: the one with the most room beside gzip (docs/measures.md)."""
PASSED = {*RUNGS, NEAR_ORACLE}
"""Verdicts of `learned` with which a model beats rivals that know no rule, on rules that it never saw."""
FIRST_RUNG = next(iter(RUNGS))
YES, NO, OPEN = "yes", "no", "not measured"
SWEEP = [
    "domain", "regime", "label", "n_states", "band_low", "band_high", "dt", "filters", "n", "gain", "low", "high", "verdict", "complexity",
    "second", "second_value", "corpus", "corpus_second", "distance", "learnability", "learned", "learned_seeds", "measured_seeds",
    "accuracy", "rival_accuracy", "counted", "why",
]  # fmt: skip
Tables = dict[str, pd.DataFrame]


class Learned(NamedTuple):
    """The manipulation check of one arm, over its seeds."""

    word: str
    """yes: the models of more than half of its seeds beat the first rung; no; not measured."""
    passed: int
    measured: int
    accuracy: float
    """Share of cells of new rules, free-running; mean over seeds."""
    rival: float
    """Of the best predictor of the first rung."""

    @property
    def margin(self) -> float:
        """Learnability: how far the models lie above the best of these."""
        return self.accuracy - self.rival


def arms_of(study: Study) -> list[Regime]:
    """Whole transfers from automata: of role `complexity`, and the regime that the study is about if it is one; all with the swap
    policy of that regime."""
    first = primary({r.name: r.role for r in study.regimes})
    if first is None:
        return []
    swap = study.regime(first).swap
    return [
        r
        for r in study.regimes
        if isinstance(r.source, NcaSpec)
        and (r.role == "complexity" or r.name == first)
        and r.source.control == "none"
        and r.keep == MODULES
        and r.swap == swap
    ]


def second_axis(arms: list[Regime]) -> str:
    """The measure that most arms are chosen by beside the gzip band, else SECOND."""
    named = Counter(name for r in arms if isinstance(r.source, NcaSpec) for name in r.source.where)
    return named.most_common(1)[0][0] if named else SECOND


def trained_as(study: Study, regime: Regime) -> str:
    """The regime that its pre-pre-training is called after: the first with the same source and budget."""
    stage = study.ppt_of(regime)
    return next(r.name for r in study.regimes if r.source == regime.source and study.ppt_of(r) == stage)


def sweep_table(study: Study, tables: Tables) -> pd.DataFrame:
    """SWEEP, a row an arm and domain on which both it and scratch were trained."""
    arms = arms_of(study)
    second, checks = second_axis(arms), {r.name: learned(trained_as(study, r), tables) for r in arms}
    own = {r.name: {m: _value(tables, m, regime=trained_as(study, r)) for m in (AXIS, second)} for r in arms}
    rows: list[dict[str, Any]] = []
    for domain in study.domains:
        corpus = {m: _value(tables, m, domain=domain.name) for m in (AXIS, second)}
        here = [r for r in arms if _contrast(tables, domain.name, r.name) is not None]
        far = distances([own[r.name] for r in here], corpus)
        for r, distance in zip(here, far, strict=True):
            found = _contrast(tables, domain.name, r.name)
            assert found is not None
            rows.append(
                {
                    **_facts(r), "domain": domain.name, "n": found["n"], "gain": -found["effect"], "low": -found["high"], "high": -found["low"],
                    "verdict": found["verdict"], "complexity": own[r.name][AXIS], "second": second, "second_value": own[r.name][second],
                    "corpus": corpus[AXIS], "corpus_second": corpus[second], "distance": distance, **_check(checks[r.name]),
                }
            )  # fmt: skip
    table = pd.DataFrame(rows, columns=SWEEP)
    table["why"] = [_left_out({str(k): v for k, v in row.items()}) for row in table.to_dict("records")]
    table["counted"] = table.why == ""
    return table


def distances(arms: list[dict[str, float]], corpus: dict[str, float]) -> list[float]:
    """Distance of each arm from a corpus: mean over the axes that the corpus has of |arm - corpus|, in standard deviations of the arms. NaN
    where the corpus has none, or the arm lacks one."""
    axes = [m for m, value in corpus.items() if not math.isnan(value) and len(arms)]
    if not axes:
        return [math.nan] * len(arms)
    spread = {m: float(np.nanstd([arm[m] for arm in arms])) or 1.0 for m in axes}
    return [float(np.mean([abs(arm[m] - corpus[m]) / spread[m] for m in axes])) for arm in arms]


def learned(regime: str, tables: Tables) -> Learned:
    """What the models of a pre-pre-training learned of their source, by the tables `learned` and `inference`."""
    rows = tables["learned"]
    rows = rows[(rows.regime == regime) & rows.accuracy.notna()] if len(rows) else rows
    if not len(rows):
        return Learned(OPEN, 0, 0, math.nan, math.nan)
    passed = int(rows.verdict.isin(PASSED).sum())
    rival = float(np.mean(list(_rivals(rows, tables["inference"]))))
    return Learned(
        YES if 2 * passed > len(rows) else NO, passed, len(rows), float(rows.accuracy.astype(float).mean()), rival
    )


def _rivals(rows: pd.DataFrame, inference: pd.DataFrame) -> Iterator[float]:
    """Accuracy of the best predictor of the first rung on the rows behind each verdict."""
    for row in rows.itertuples():
        here = inference[(inference.run == row.run) & (inference.step == row.step) & (inference.rules == "new")]
        here = here[(here.quantity == "cell_accuracy") & here.predictor.isin(RUNGS[FIRST_RUNG])]
        here = here[(here.frame >= row.first_frame) & (here.frame <= row.last_frame)]
        yield float(here.groupby("predictor").value.mean().max()) if len(here) else math.nan


def _facts(r: Regime) -> dict[str, Any]:
    assert isinstance(r.source, NcaSpec)
    low, high = r.source.band or (math.nan, math.nan)
    where = "; ".join(f"{name} {a:g} to {b:g}" for name, (a, b) in r.source.where.items())
    return {
        "regime": r.name, "label": r.label, "n_states": r.source.n_states, "band_low": low, "band_high": high, "dt": r.source.dt, "filters": where,
    }  # fmt: skip


def _check(found: Learned) -> dict[str, Any]:
    return {
        "learned": found.word, "learned_seeds": found.passed, "measured_seeds": found.measured, "accuracy": found.accuracy,
        "rival_accuracy": found.rival, "learnability": found.margin,
    }  # fmt: skip


def _left_out(row: dict[str, Any]) -> str:
    """Why an arm is not in the verdict; nothing where it is."""
    if row["learned"] == OPEN:
        return "whether its models learned it was not measured"
    if row["learned"] == NO:
        return (
            f"its models do not beat the mode or a copy on new rules ({row['learned_seeds']} of {row['measured_seeds']} seeds do; "
            f"{row['accuracy']:.3f} of the cells, {row['rival_accuracy']:.3f} without a rule)"
        )
    if math.isnan(row["corpus"]):
        return f"the corpus of {row['domain']} has no {AXIS}: its rows are too short to be measured"
    return "" if not math.isnan(row["distance"]) else f"its source has no {AXIS}"


def _value(tables: Tables, measure: str, **where: str) -> float:
    """Mean over seeds of a measure of a regime's source or of a domain's corpus; NaN where it has none."""
    rows = tables["complexity"]
    rows = rows[rows.measure == measure]
    for column, name in where.items():
        rows = rows[rows[column] == name]
    return float(rows.value.mean()) if len(rows) else math.nan


def _contrast(tables: Tables, domain: str, arm: str) -> dict[str, Any] | None:
    rows = tables["contrasts"]
    rows = rows[(rows.domain == domain) & (rows.treated == arm) & (rows.control == SCRATCH)]
    rows = rows[(rows.metric == "val_loss") & (rows.n > 0)]
    return {str(k): v for k, v in rows.iloc[0].to_dict().items()} if len(rows) else None
