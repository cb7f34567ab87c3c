"""The best scratch is the arm with the least mean over the seeds that all have, and stands in every comparison as one arm."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from nca_interp.analysis.verdicts.best_scratch import scratches, with_best
from nca_interp.analysis.verdicts.contrasts import Values, contrast_tables
from nca_interp.analysis.verdicts.plan import BEST, contrasts_of
from nca_interp.arms import scratch_arms, stds, swap_arms
from nca_interp.config import Domain, ModelConfig, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.specs import NcaSpec, TextSpec
from nca_interp.swap_policy import SwapPolicy

STAGE = StageConfig(steps=4, batch_size=2, lr=1e-3)
NCA = Regime(name="nca", label="NCA", source=NcaSpec(grid=6, n_states=2, band=None))
SHRUNK = SwapPolicy(body_scale="shrink_to_initial")


def study(*regimes: Regime, seeds: int = 3) -> Study:
    text = TextSpec(source="arithmetic:")
    return Study(
        name="t", title="t", model=ModelConfig(n_layers=1, d_model=16, n_heads=2, d_mlp=24, n_ctx=64), ppt=STAGE, pt=STAGE,
        seeds=paired_seeds(seeds), regimes=regimes, domains=(Domain(name="web", label="web", source=text), Domain(name="code", label="code", source=text)),
    )  # fmt: skip


def losses(table: dict[tuple[str, str], list[float]], **more) -> Values:
    rows = [
        {"run": f"pt.{r}.{d}.s{s}", "regime": r, "domain": d, "seed": s, "stage": "pt", "value": value}
        for (r, d), values in table.items()
        for s, value in enumerate(values)
        if not math.isnan(value)
    ]
    return Values(pd.DataFrame(rows), "val_loss", 0.01, **more)


WHOLE = study(*scratch_arms([1.0, 0.3]), NCA, *swap_arms(NCA, stds([1.0]) | {"shrunk": SHRUNK, "rms": SwapPolicy(embed="match_rms")}))  # fmt: skip


def test_what_is_planned_of_policies():
    plan = [(c.family, c.treated, c.control) for c in contrasts_of(WHOLE) if c.domain == "web"]
    assert plan == [
        ("regime", "nca", "scratch"), ("regime", "nca", "scratch-std-1"), ("regime", "nca", "scratch-std-0-3"), ("regime", "nca", BEST),
        ("swap", "nca-std-1", "scratch-std-1"), ("swap", "nca-std-1", BEST),
        ("swap", "nca-shrunk", "scratch"), ("swap", "nca-shrunk", BEST), ("swap", "nca-rms", BEST),
    ]  # fmt: skip


def test_with_one_scratch_arm_it_is_the_best():
    one = study(*scratch_arms([]), NCA, *swap_arms(NCA, stds([1.0])))
    assert [(c.family, c.treated, c.control) for c in contrasts_of(one) if c.domain == "web"] == [
        ("regime", "nca", "scratch"), ("swap", "nca-std-1", "scratch"),
    ]  # fmt: skip
    assert scratches(losses({("scratch", "web"): [1.0]}), one).empty


def test_the_seeds_of_the_comparison_are_those_that_all_scratch_arms_plan():
    few = study(*scratch_arms([1.0], {"web": 2, "code": 0}), NCA)
    found = {(c.domain, c.control): c.seeds for c in contrasts_of(few)}
    assert found == {("web", "scratch"): (0, 1), ("web", "scratch-std-1"): (0, 1), ("web", BEST): (0, 1)}


@pytest.fixture
def found():
    nan = math.nan
    return losses({
        ("scratch", "web"): [3.0, 3.1, 9.0], ("scratch-std-1", "web"): [2.9, 3.0, nan], ("scratch-std-0-3", "web"): [2.8, 3.2, 2.0],
        ("scratch", "code"): [2.0, 2.0, 2.0], ("scratch-std-1", "code"): [2.0, 2.0, 2.0], ("scratch-std-0-3", "code"): [2.1, 2.1, 2.1],
        ("nca", "web"): [2.0, 2.1, 2.2], ("nca", "code"): [2.0, 2.1, 2.2],
    }, lost={("scratch-std-1", "web", 2): "pt.scratch-std-1.web.s2"}, items={("scratch-std-1", "web", 0): (np.ones(2), np.ones(2))})  # fmt: skip


def test_the_least_mean_over_common_seeds_and_the_first_of_equals(found):
    table = scratches(found, WHOLE).set_index(["domain", "regime"])
    assert table.n.loc["web"].tolist() == [2, 2, 2]
    assert table.loss["web", "scratch-std-1"] == pytest.approx(2.95)
    assert {key for key, row in table.iterrows() if row.chosen} == {("web", "scratch-std-1"), ("code", "scratch")}


def test_it_takes_part_as_an_arm_with_its_documents_and_lost_runs(found):
    whole = with_best(found, scratches(found, WHOLE))
    own = whole.rows[(whole.rows.regime == BEST) & (whole.rows.domain == "web")]
    assert own.value.tolist() == [2.9, 3.0]
    assert whole.lost[BEST, "web", 2] == "pt.scratch-std-1.web.s2"
    assert (BEST, "web", 0) in whole.items
    assert len(found.rows) == len(whole.rows) - 5
    plan = [c for c in contrasts_of(WHOLE) if c.treated == "nca"]
    rows = contrast_tables({}, {"web": "Web", "code": "Code"}, whole, None, plan)["contrasts"].set_index(
        ["domain", "control"]
    )
    assert rows.effect["web", BEST] == pytest.approx(-0.9)
    assert rows.lost["web", BEST] == "pt.scratch-std-1.web.s2"
    assert "best scratch" in rows.sentence["code", BEST]


def test_while_an_arm_has_no_result_none_is_the_best(found):
    rows = found.rows[found.rows.regime != "scratch-std-0-3"]
    part = scratches(Values(rows, "val_loss", 0.01), WHOLE)
    assert not part.chosen.any()
    assert set(part.n) == {0}
    whole = with_best(Values(rows, "val_loss", 0.01), part)
    assert BEST not in set(whole.rows.regime)
    plan = [c for c in contrasts_of(WHOLE) if c.control == BEST and c.domain == "web" and c.treated == "nca"]
    row = contrast_tables({}, {"web": "Web"}, whole, None, plan)["contrasts"].iloc[0]
    assert "best scratch seed 0" in row.pending


def test_where_nothing_differs_better_than_the_best_is_said_no_more_often_than_five_in_a_hundred():
    """Three scratch arms and the regime of one truth: the selection makes `better` rarer (0.025 without it)."""
    rng, names = np.random.default_rng(0), ("scratch", "scratch-std-1", "scratch-std-0-3", "nca")
    (plan,) = [
        c
        for c in contrasts_of(study(*scratch_arms([1.0, 0.3]), NCA, seeds=5))
        if c.control == BEST and c.domain == "web"
    ]
    said = []
    for _ in range(200):
        drawn = losses({(n, "web"): list(rng.normal(3, 0.05, 5)) for n in names})
        own = study(*scratch_arms([1.0, 0.3]), NCA, seeds=5)
        tables = contrast_tables({}, {}, with_best(drawn, scratches(drawn, own)), None, [plan])
        said.append(tables["contrasts"].verdict.iloc[0].partition(",")[0])
    assert said.count("better") / len(said) < 0.025
