"""Tables `head_rules`, `mediation`, `mediation_seeds` and `blinded` (docs/tables.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.mediation import words
from nca_interp.analysis.mediation.ablation import kept_rows
from nca_interp.analysis.mediation.arms import Grafted, blinded_arms, grafted_arms
from nca_interp.analysis.mediation.judge import Mediation, Question, judge_mediation, judge_removal
from nca_interp.analysis.mediation.records import head_rules
from nca_interp.config import Study
from nca_interp.measurement import Asked
from nca_interp.rows import each

MEDIATION = [
    "domain", "regime", "scratch", "rule", "probe", "way", "measure", "family", "n", "planned", "gain", "gain_low", "gain_high", "moved",
    "moved_low", "moved_high", "random", "excess", "excess_low", "excess_high", "share", "share_low", "share_high", "random_share",
    "sets", "p", "p_floor", "p_adjusted", "p_none_adjusted", "margin", "verdict", "sentence",
]  # fmt: skip
SEEDS = [
    "domain",
    "regime",
    "rule",
    "probe",
    "way",
    "measure",
    "seed",
    "number",
    "scratch_value",
    "full_value",
    "value",
    "gain",
    "moved",
]
BLINDED = [
    "domain", "regime", "scratch", "stages", "n", "planned", "gain", "gain_low", "gain_high", "hindered", "hindered_low", "hindered_high",
    "removed", "removed_low", "removed_high", "share", "share_low", "share_high", "p", "p_adjusted", "p_none_adjusted", "margin",
    "verdict", "sentence",
]  # fmt: skip
INTERIM = "inconclusive (interim)"
MEASURES = {"val_loss": 1, "in_context_learning": 1, "retrieval": -1}
"""Measures of trained arms, and 1 where less is better, -1 where more is. The first is declared, the others are exploration."""
ABLATED = {"own_loss": "val_loss", "in_context_learning": "in_context_learning", "repeated_token_gain": "retrieval"}
"""Metrics of the ablation, and the measure that each is the cheap counterpart of."""
Values = dict[tuple[str, str, int], float]
"""regime, domain, seed -> value, signed so that less is better."""


@dataclass(frozen=True)
class Sought:
    """A question before it is judged: who it is about, and its values by seed."""

    head: dict[str, Any]
    rows: list[dict[str, Any]]
    """SEEDS."""
    planned: int
    pending: bool

    def question(self, margin: float) -> Question:
        """As the verdict takes it."""
        chosen = [row for row in self.rows if row["number"] == 0]
        random = [
            tuple(r["moved"] for r in self.rows if r["number"] > 0 and r["seed"] == row["seed"]) for row in chosen
        ]
        return Question(
            tuple(r["gain"] for r in chosen),
            tuple(r["moved"] for r in chosen),
            tuple(random),
            margin,
            self.head["family"],
        )


def tables(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> dict[str, pd.DataFrame]:
    """The tables of mediation; empty where no regime of the study asks for it."""
    study = collection.study
    found: list[Sought] = []
    blinded: list[dict[str, Any]] = []
    if study is not None:
        values = {name: _values(name, sign, tables) for name, sign in MEASURES.items()}
        ended = _ended(collection, study, tables["runs"])
        for arm in grafted_arms(study):
            found += _trained(study, arm, values, ended)
        found += _ablated(collection, study, asked)
        blinded = _blinded(study, values["val_loss"], ended)
    margin = study.margin if study is not None else math.nan
    judged = judge_mediation([one.question(margin) for one in found])
    rows = [_row(one, verdict, margin) for one, verdict in zip(found, judged, strict=True)]
    return {
        "head_rules": head_rules(collection),
        "mediation": pd.DataFrame(rows, columns=MEDIATION),
        "mediation_seeds": pd.DataFrame([row for one in found for row in one.rows], columns=SEEDS),
        "blinded": pd.DataFrame(blinded, columns=BLINDED),
    }


def _values(name: str, sign: int, tables: dict[str, pd.DataFrame]) -> Values:
    """The measure of every finished run in language at its last step."""
    done = set(tables["runs"][tables["runs"].state == "done"].run)
    if name == "val_loss":
        rows = tables["metrics"]
        rows = rows[rows.val_loss.notna()].assign(value=rows.val_loss)
    elif name == "retrieval":
        rows = tables.get("retrieval", pd.DataFrame(columns=["quantity", "run", "stage", "value"]))
        rows = rows[rows.quantity == "gain"]
    else:
        rows = tables["probes"]
        rows = rows[(rows.probe == name) & rows["head"].isna() & rows.value.notna()]
    rows = rows[(rows.stage == "pt") & rows.run.isin(done)]
    if rows.empty:
        return {}
    rows = rows[rows.step == rows.groupby("run").step.transform("max")]
    means = rows.groupby(["regime", "domain", "seed"]).value.mean()
    known: Any = means[np.isfinite(means)].items()
    return {(str(r), str(d), int(s)): sign * float(v) for (r, d, s), v in known}


def _ended(collection: Collection, study: Study, runs: pd.DataFrame) -> set[tuple[str, str, int]]:
    """(regime, domain, seed) of arms that will not come: left out, or diverged."""
    lost = runs[(runs.stage == "pt") & (runs.state == "diverged")]
    found = {(str(r.regime), str(r.domain), int(r.seed)) for r in each(lost)}
    rules = head_rules(collection)
    for arm in grafted_arms(study):
        full = study.regime(arm.full)
        first = next(r.name for r in study.regimes if r.source == full.source and study.ppt_of(r) == study.ppt_of(full))
        own = rules[(rules.rule == arm.rule.key) & (rules.regime == first)]
        for row in each(own):
            out = [name for number, name in enumerate([arm.arm, *arm.random]) if not row.heads or number > row.sets]
            found |= {(name, domain.name, int(row.seed)) for name in out for domain in study.domains}
    return found


def _trained(
    study: Study, arm: Grafted, values: dict[str, Values], ended: set[tuple[str, str, int]]
) -> Iterator[Sought]:
    """Questions of a rule and a way to take its heads, on every domain and measure that has a value."""
    for domain in study.domains:
        planned = min(_seeds(study, name, domain.name) for name in (arm.arm, arm.full, arm.scratch))
        for measure, known in values.items():
            seen: list[dict[str, Any]] = []
            for seed in range(planned):
                scratch, full = (known.get((name, domain.name, seed)) for name in (arm.scratch, arm.full))
                own = [(i, known.get((name, domain.name, seed))) for i, name in enumerate([arm.arm, *arm.random])]
                if scratch is None or full is None or own[0][1] is None:
                    continue
                move = _lost if arm.way == "without" else _kept
                seen += [_seed(seed, number, scratch, full, value, move) for number, value in own if value is not None]
            if planned and (seen or measure == "val_loss"):
                names = (arm.scratch, arm.full, arm.arm, *arm.random)
                pending = _pending(values["val_loss"], names, domain.name, planned, ended)
                head = _head(arm, domain.name, arm.way, measure, "declared" if measure == "val_loss" else "exploration")
                yield Sought(head, [{**head, **row} for row in seen], planned, pending)


def _pending(known: Values, names: Iterable[str], domain: str, planned: int, ended: set[tuple[str, str, int]]) -> bool:
    """Whether a run of these regimes is still to come."""
    keys = ((name, domain, seed) for name in names for seed in range(planned))
    return any(key not in known and key not in ended for key in keys)


def _lost(scratch: float, full: float, value: float) -> float:
    return value - full


def _kept(scratch: float, full: float, value: float) -> float:
    return scratch - value


def _seed(
    seed: int, number: int, scratch: float, full: float, value: float, move: Callable[[float, float, float], float]
) -> dict[str, Any]:
    return {
        "seed": seed, "number": number, "scratch_value": scratch, "full_value": full, "value": value, "gain": scratch - full,
        "moved": move(scratch, full, value),
    }  # fmt: skip


def _head(arm: Grafted, domain: str, way: str, measure: str, family: str) -> dict[str, Any]:
    return {
        "domain": domain, "regime": arm.full, "scratch": arm.scratch, "rule": arm.rule.key, "probe": arm.rule.probe, "way": way,
        "measure": measure, "family": family, "words": arm.rule.words(),
    }  # fmt: skip


def _seeds(study: Study, regime: str, domain: str) -> int:
    runs = study.regime(regime).runs
    return len(study.seeds) if runs is None else runs.get(domain, 0)


def _ablated(collection: Collection, study: Study, asked: Asked) -> Iterator[Sought]:
    """Questions of the heads ablated at the end of language."""
    known = {
        (run.regime, run.domain, run.seed): kept
        for run in collection.runs
        if run.stage == "pt" and run.done and (kept := kept_rows(run, collection, asked.options)) is not None
    }
    arms = {(one.full, one.rule.key): one for one in grafted_arms(study)}
    for arm in arms.values():
        for domain in study.domains:
            planned = min(_seeds(study, name, domain.name) for name in (arm.full, arm.scratch))
            for metric, measure in ABLATED.items():
                rows: list[dict[str, Any]] = []
                for seed in range(planned):
                    pair = [known.get((name, domain.name, seed)) for name in (arm.full, arm.scratch)]
                    if pair[0] is not None and pair[1] is not None:
                        rows += _of_seed(seed, metric, arm.rule.key, pair[0], pair[1])
                if rows:
                    head = _head(arm, domain.name, "ablated", measure, "exploration")
                    yield Sought(head, [{**head, **row} for row in rows], planned, False)


def _of_seed(seed: int, metric: str, rule: str, full: pd.DataFrame, scratch: pd.DataFrame) -> Iterator[dict[str, Any]]:
    own, other = (frame[frame.metric == metric] for frame in (full, scratch))
    if own.empty or other.empty:
        return
    worse = int(own.worse.iloc[0])
    before, after = (worse * float(frame[frame.rule == ""].value.iloc[0]) for frame in (other, own))
    for row in each(own[own.rule == rule]):
        yield _seed(seed, int(row.number), before, after, after + worse * float(row.value), _lost)


def _row(one: Sought, judged: Mediation, margin: float) -> dict[str, Any]:
    verdict = INTERIM if one.pending else judged.verdict
    row = {
        **one.head, "n": judged.n, "planned": one.planned, "margin": margin, "random": judged.random,
        "random_share": judged.random_share, "sets": judged.sets, "p": judged.p, "p_floor": judged.p_floor,
        "p_adjusted": judged.p_adjusted, "p_none_adjusted": judged.p_none_adjusted, "verdict": verdict,
    }  # fmt: skip
    for name in ("gain", "moved", "excess", "share"):
        found = getattr(judged, name)
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return row | {"sentence": words.mediation(row)}


def _blinded(study: Study, losses: Values, ended: set[tuple[str, str, int]]) -> list[dict[str, Any]]:
    """Table `blinded`: final losses, those of hindered runs with the mask that they were trained with."""
    cases, heads, waits = [], [], list[bool]()
    for arm in blinded_arms(study):
        for domain in study.domains:
            names = (arm.scratch, arm.full, arm.blind_scratch, arm.blind)
            planned = min(_seeds(study, name, domain.name) for name in names)
            found = [[losses.get((name, domain.name, seed)) for name in names] for seed in range(planned)]
            whole = [[v for v in row if v is not None] for row in found]
            whole = [row for row in whole if len(row) == len(names)]
            if planned:
                cases.append(([a - b for a, b, *_ in whole], [c - d for *_, c, d in whole], study.margin))
                waits.append(_pending(losses, names, domain.name, planned, ended))
                heads.append({
                    "domain": domain.name, "regime": arm.full, "scratch": arm.scratch, "stages": " ".join(arm.stages), "planned": planned,
                })  # fmt: skip
    rows = []
    for head, wait, judged in zip(heads, waits, judge_removal(cases), strict=True):
        row = {
            **head, "n": judged.n, "margin": study.margin, "p": judged.p, "p_adjusted": judged.p_adjusted,
            "p_none_adjusted": judged.p_none_adjusted, "verdict": INTERIM if wait else judged.verdict,
        }  # fmt: skip
        for name in ("gain", "hindered", "removed", "share"):
            value = getattr(judged, name)
            row |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        rows.append(row | {"sentence": words.blinded(row)})
    return rows
