"""From final numbers of runs to questions: signs, seeds, what is pending and what will not come; planted shares."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from nca_interp.analysis.mediation.arms import blinded_arms as pairs
from nca_interp.analysis.mediation.arms import grafted_arms
from nca_interp.analysis.mediation.power import mediation_plan
from nca_interp.analysis.mediation.tables import INTERIM, tables
from nca_interp.arms import blinded_arms, mediation_arms, published, swap_arms
from nca_interp.config import Domain, ModelConfig, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.specs import DyckSpec, TextSpec
from nca_interp.head_rule import HeadRule
from nca_interp.measurement import Asked

STAGE = StageConfig(steps=10, batch_size=2, lr=1e-3)
SCRATCH, DYCK = Regime(name="scratch", label="scratch"), Regime(name="dyck", label="Dyck", source=DyckSpec(k=4))
RULE = HeadRule(probe="induction", k=1)
SHARES = {"scratch": 0.0, "dyck": 1.0}
"""Share of the gain that a regime keeps; of arms below."""


def study(*regimes: Regime) -> Study:
    return Study(
        name="told", title="t", model=ModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=24, n_ctx=32), ppt=STAGE, pt=STAGE,
        regimes=regimes, domains=(Domain(name="web", label="web", source=TextSpec(source="arithmetic:")),), seeds=paired_seeds(3),
    )  # fmt: skip


def kept(name: str) -> float:
    """What an arm keeps of the gain: its heads carry 0.8 of it, random ones nothing."""
    if name in SHARES:
        return SHARES[name]
    carried = 0.0 if "-r" in name else 0.8
    if "blind" in name:
        return 0.0
    return 1 - carried if "without" in name else carried


def told(study: Study, lose: tuple[str, ...] = (), diverged: tuple[str, ...] = ()) -> dict[str, pd.DataFrame]:
    runs, metrics, probes, retrieval = [], [], [], []
    for regime in study.regimes:
        for seed in range(3):
            run, gain = f"pt.{regime.name}.web.s{seed}", 0.2 + 0.02 * seed
            if run in lose:
                continue
            same = {"run": run, "regime": regime.name, "domain": "web", "seed": seed, "stage": "pt"}
            runs.append({**same, "state": "diverged" if run in diverged else "done"})
            better = gain * kept(regime.name) + 1e-4 * ((7 * seed + 3 * len(regime.name)) % 5)
            metrics += [
                {**same, "step": 5, "val_loss": 9.0},
                {**same, "step": 10, "val_loss": 3.0 + 0.1 * seed - better},
            ]
            probes += [
                {**same, "step": 10, "probe": "in_context_learning", "head": None, "value": -0.5 - better},
                {**same, "step": 10, "probe": "induction", "head": 0.0, "value": 0.9},
            ]
            retrieval.append({**same, "step": 10, "quantity": "gain", "value": 0.1 + better})
    frames = {"runs": runs, "metrics": metrics, "probes": probes, "retrieval": retrieval}
    asked = Asked(SimpleNamespace(settings=None), None)
    collection = SimpleNamespace(study=study, runs=(), folder=Path("nowhere"))
    return tables(collection, {name: pd.DataFrame(rows) for name, rows in frames.items()}, asked)


WHOLE = study(SCRATCH, DYCK, *mediation_arms(DYCK, RULE, 4), *blinded_arms(DYCK, SCRATCH))


def test_every_measure_is_signed_so_that_more_gain_is_better_and_shares_come_out():
    found = told(WHOLE)
    rows = found["mediation"]
    assert set(zip(rows.way, rows.measure, strict=True)) == {
        (way, measure) for way in ("without", "only") for measure in ("val_loss", "in_context_learning", "retrieval")
    }  # fmt: skip
    assert rows.share.to_numpy() == pytest.approx(0.8, abs=0.01)
    assert rows.random_share.to_numpy() == pytest.approx(0.0, abs=0.01)
    assert (rows.gain > 0.2).all()
    assert set(rows.verdict) == {"mediates"}
    assert set(rows.family[rows.measure == "val_loss"]) == {"declared"}
    assert len(found["mediation_seeds"]) == 6 * 3 * 5
    assert "a share of 0.80" in rows.sentence.iloc[0]


def test_hindered_training_is_compared_with_scratch_hindered_alike():
    row = told(WHOLE)["blinded"].iloc[0]
    assert (row.regime, row.scratch, row.stages, row.n) == ("dyck", "scratch", "pt", 3)
    assert row.share == pytest.approx(1.0, abs=0.02)
    assert row.verdict == "removes"
    assert told(WHOLE, lose=("pt.scratch-blind-pt.web.s2",))["blinded"].verdict.iloc[0] == INTERIM


def test_no_verdict_before_all_runs_are_there_and_one_without_those_that_diverged():
    late, lost = "pt.dyck-without-induction-r2.web.s1", "pt.dyck-without-induction.web.s2"
    rows = told(WHOLE, lose=(late,))["mediation"]
    assert set(rows[rows.way == "without"].verdict) == {INTERIM}
    assert INTERIM not in set(rows[rows.way == "only"].verdict)
    rows = told(WHOLE, diverged=(lost,))["mediation"]
    row = rows[(rows.way == "without") & (rows.measure == "val_loss")].iloc[0]
    assert (row.n, row.planned) == (2, 3)
    assert row.verdict != INTERIM
    assert "2 of 3 planned seed(s)" in row.sentence


def test_arms_are_compared_within_their_swap_policy():
    policy = {"published": published(16)}
    scratch, dyck = swap_arms(SCRATCH, policy)[0], swap_arms(DYCK, policy)[0]
    whole = study(
        SCRATCH, DYCK, scratch, dyck, *mediation_arms(dyck, RULE, 2), *blinded_arms(DYCK, SCRATCH, ("ppt", "pt"))
    )
    assert {(a.full, a.scratch, len(a.random)) for a in grafted_arms(whole)} == {
        ("dyck-published", "scratch-published", 2)
    }
    (pair,) = pairs(whole)
    assert (pair.full, pair.scratch, pair.blind, pair.blind_scratch) == (
        "dyck", "scratch", "dyck-blind-ppt-pt", "scratch-blind-ppt-pt",
    )  # fmt: skip


def test_the_plan_says_before_anything_runs_what_its_seeds_and_sets_can_show():
    assert list(mediation_plan(WHOLE)) == [
        "mediation   2 question(s) about heads together: with 3 seed(s) and 4 random set(s) corrected p can be 0.016"
    ]
    few = study(SCRATCH, DYCK, *mediation_arms(DYCK, RULE, 4, runs={"web": 1}))
    (line,) = mediation_plan(few)
    assert line.endswith('with 1 seed(s) and 4 random set(s) no verdict "mediates" is possible; legal: 3 seeds or more')
    assert list(mediation_plan(study(SCRATCH, DYCK))) == []


def test_a_study_without_such_arms_has_empty_tables():
    found = told(study(SCRATCH, DYCK))
    assert {name: len(frame) for name, frame in found.items()} == {
        "head_rules": 0, "mediation": 0, "mediation_seeds": 0, "blinded": 0,
    }  # fmt: skip
