"""The tables of a sweep from those of a study: places, distances, the manipulation check, who is left out and why."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from nca_interp.analysis.inference.rungs import CONTEXT, NEAR_ORACLE
from nca_interp.analysis.sweep.arms import AXIS, distances, learned, sweep_table
from nca_interp.analysis.sweep.power import arms_plan
from nca_interp.analysis.sweep.tables import tables
from nca_interp.config import Domain, ModelConfig, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.specs import NcaSpec, TextSpec
from nca_interp.sweep import sweep_arms

STAGE = StageConfig(steps=2, batch_size=2, lr=1e-3)
NCA = Regime(name="nca", label="NCA", source=NcaSpec(grid=6, n_states=2, band=(0.3, 0.4)))
ARMS = sweep_arms(NCA, levels={f"l{i}": (i / 10, i / 10 + 0.1) for i in range(3, 10)})
SHUFFLED = Regime(
    name="shuffled", label="S", source=NCA.source.model_copy(update={"control": "shuffle_tokens"}), role="control"
)
PLACES = {"nca": 0.5, **{a.name: 0.3 + 0.1 * i for i, a in enumerate(ARMS)}}
CORPORA = {"web": 0.8, "code": 0.45}


def study(**change):
    text = TextSpec(source="site:code")
    base = Study(
        name="s", title="S", seeds=paired_seeds(3), pt=STAGE, ppt=STAGE, model=ModelConfig(n_layers=1, d_model=16, n_heads=1, d_mlp=32, n_ctx=64),
        regimes=(Regime(name="scratch", label="scratch"), NCA, SHUFFLED, NCA.model_copy(update={"name": "keep", "keep": ("attn",), "role": "transfer"}), *ARMS),
        domains=tuple(Domain(name=d, label=d, source=text) for d in CORPORA),
    )  # fmt: skip
    return base.model_copy(update=change)


def made(worse=(), corpora=CORPORA, slope=-0.1, places=PLACES):
    """Tables of a study in which gain falls by 0.1 nats for each unit of distance; models of arms in `worse` learned nothing."""
    rng = np.random.default_rng(0)
    complexity = [{"measure": AXIS, "regime": n, "domain": "", "value": x} for n, x in places.items()]
    complexity += [
        {"measure": AXIS, "regime": "", "domain": d, "value": x} for d, x in corpora.items() if x is not None
    ]
    complexity += [{"measure": "activity", "regime": n, "domain": "", "value": rng.uniform()} for n in places]
    contrasts, pairs = [], []
    for domain, corpus in CORPORA.items():
        for name, x in places.items():
            gains = slope * abs(x - corpus) + 0.0005 * rng.normal(size=3)
            head = {"domain": domain, "metric": "val_loss", "treated": name, "control": "scratch"}
            contrasts.append(
                {**head, "n": 3, "effect": -gains.mean(), "low": -gains.max(), "high": -gains.min(), "verdict": "worse"}
            )
            pairs += [{**head, "seed": s, "difference": -g, "counted": True} for s, g in enumerate(gains)]
    rungs, curve = [], []
    for name in places:
        for seed in range(3):
            run = {"run": f"ppt.{name}.s{seed}", "regime": name, "step": 2}
            right = 0.55 if name in worse else 0.7 + 0.1 * rng.uniform()
            verdict = CONTEXT if name in worse else NEAR_ORACLE
            rungs.append({**run, "verdict": verdict, "accuracy": right, "first_frame": 2, "last_frame": 3})
            curve += [
                {**run, "rules": "new", "predictor": p, "frame": f, "quantity": "cell_accuracy", "value": v}
                for p, v in (("mode", 0.6), ("copy", 0.5), ("backoff", 0.95)) for f in (1, 2, 3)
            ]  # fmt: skip
    frames = {"complexity": complexity, "contrasts": contrasts, "pairs": pairs, "learned": rungs, "inference": curve}
    return {name: pd.DataFrame(rows) for name, rows in frames.items()}


def told(given, of=None):
    return tables(SimpleNamespace(study=of or study()), given, None)


def test_an_arm_lies_where_it_was_measured_and_its_gain_is_scratch_minus_its_own():
    rows = sweep_table(study(), made())
    assert set(rows.regime) == {"nca", *(a.name for a in ARMS)}, "controls and re-initialised arms are none"
    first = rows[(rows.regime == "nca") & (rows.domain == "web")].iloc[0]
    assert first.gain == pytest.approx(-0.03, abs=0.001)
    assert first.low < first.gain < first.high
    assert (first.complexity, first.corpus) == (0.5, 0.8)
    assert math.isnan(first.corpus_second)
    assert first.distance == pytest.approx(0.3 / np.std(list(PLACES.values())))
    assert first.second == "activity"
    assert rows.counted.all()


def test_distances_count_the_axes_that_the_corpus_has():
    arms = [{"a": 0.0, "b": 0.0}, {"a": 2.0, "b": 4.0}]  # standard deviations 1 and 2
    assert distances(arms, {"a": 0.0, "b": math.nan}) == [0, 2]
    assert distances(arms, {"a": 0.0, "b": 4.0}) == [1, 1]
    assert np.isnan(distances(arms, {"a": math.nan, "b": math.nan})).all()


def test_what_was_learned_is_the_share_of_cells_above_the_best_of_mode_and_copy():
    given = made(worse=("nca",))
    assert learned("nca", given)[:3] == ("no", 0, 3)
    assert learned("nca", given).margin == pytest.approx(-0.05)
    good = learned(ARMS[0].name, given)
    assert (good.word, good.rival) == ("yes", pytest.approx(0.6))
    two = given["learned"].copy()
    two.loc[two.run == "ppt.nca.s0", "verdict"] = NEAR_ORACLE
    assert learned("nca", {**given, "learned": two})[:3] == ("no", 1, 3)
    two.loc[two.run == "ppt.nca.s1", "verdict"] = NEAR_ORACLE
    assert learned("nca", {**given, "learned": two})[:3] == ("yes", 2, 3), "most seeds"
    nothing = {**given, "learned": given["learned"].iloc[:0]}
    assert learned("nca", nothing)[:3] == ("not measured", 0, 0)


def test_matching_that_is_planted_is_found_and_an_arm_that_did_not_learn_is_named_and_left_out():
    found = told(made(worse=("nca",)))
    rows = found["sweep_tests"]
    declared = rows[rows.family == "declared"].set_index("hypothesis")
    assert declared.verdict["matching"] == "supported"
    assert declared.arms["matching"] == 7
    assert (
        "Left out, 1 of 8 arms: nca (models that do not beat the mode or a copy on new rules)"
        in declared.sentence["matching"]
    )
    assert not found["sweep"].set_index("regime").counted["nca"].any()
    explored = rows[rows.family == "exploration"]
    assert set(explored.domain) == {"web", "code", ""}
    assert set(explored[explored.domain == ""].arms) == {8}
    assert "activity" in set(explored.predictor)
    assert (explored.verdict == "").all()


def test_too_few_arms_that_learned_cannot_tell():
    rows = told(made(worse=[a.name for a in ARMS[:4]]))["sweep_tests"]
    declared = rows[rows.family == "declared"]
    assert set(declared.verdict) == {"cannot tell"}
    assert "4 arms and 3 seeds that have them all; it takes 5 arms and 2 seeds" in declared.sentence.iloc[0]


def test_a_corpus_that_cannot_be_measured_leaves_its_domain_out_by_name():
    found = told(made(corpora={"web": 0.8, "code": None}))
    out = found["sweep"][found["sweep"].domain == "code"]
    assert set(out.why) == {f"the corpus of code has no {AXIS}: its rows are too short to be measured"}
    rows = found["sweep_tests"][found["sweep_tests"].family == "declared"]
    assert set(rows.domains) == {1}
    assert "No distance from code: rows of the corpus are too short" in rows.sentence.iloc[0]
    assert "With web alone" in rows.sentence.iloc[0]


def test_nothing_of_a_study_without_automata_and_of_checkpoints_from_elsewhere():
    bare = study(regimes=(Regime(name="scratch", label="scratch"),))
    for collection in (SimpleNamespace(study=bare), SimpleNamespace(study=None)):
        assert all(frame.empty for frame in tables(collection, made(), None).values())


def test_a_dry_run_says_what_the_arms_can_show():
    assert "8 sources of automata" in next(arms_plan(study()))
    few = study(regimes=study().regimes[:2] + ARMS[:2])
    assert "too few to ask what gain follows, it takes 5" in next(arms_plan(few))
    assert list(arms_plan(study(regimes=study().regimes[:2]))) == []
    assert "one domain" in list(arms_plan(study(domains=study().domains[:1])))[-1]
