"""What happens over training, on planted curves: emergence, the bend of a loss, persistence of heads, comparisons over seeds."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.dynamics.contrasts import (
    NEVER,
    TOO_FEW,
    UNINFORMATIVE,
    _persistence,
    bounded,
    compare_spans,
    decide_family,
    sign_p,
    timing_table,
)
from nca_interp.analysis.dynamics.emergence import Span, beyond, emergence_table, level_of, order_of
from nca_interp.analysis.dynamics.persistence import persistence_table, rank_correlation
from nca_interp.analysis.dynamics.threshold_crossing import crossing, smoothed

BATCH = 100
STEPS = [0, 1, 2, 4, 8, 16, 32, 64]
HITS = {"induction": 0.3}


@pytest.mark.parametrize(
    ("values", "state", "after", "by"),
    [
        ([0, 0, 0, 1, 1, 1], "reached", 2, 3),
        ([0, 0, 0, 0, 0, 0], "never", 5, None),
        ([1, 1, 1, 1, 1, 1], "from start", None, 0),
        ([0, 0, 1, 1, 0, 0], "reached", 1, 2),  # falls back later
        ([0, 0, 1, 0, 0, 0], "never", 5, None),  # an outlier
        ([0, 0, 1, 0, 1, 1], "reached", 2, 3),  # a dip
        ([1, 0, 0, 0, 0, 0], "never", 5, None),
        ([1, 1, 0, 0, 0, 0], "from start", None, 0),
        ([0, 0, 0, 0, 0, 1], "unconfirmed", 4, None),
        ([1], "unconfirmed", None, None),
        ([0, 1], "unconfirmed", 0, None),
    ],
)
def test_a_level_is_reached_where_the_curve_stays_above_it(values, state, after, by):
    assert crossing(np.array(values, float), 0.5) == (state, after, by)
    assert crossing([5.0 * v - 1 for v in values], 1.5) == (state, after, by)


@given(st.lists(st.sampled_from([0.0, 0.4, 0.5, 1.0]), min_size=1, max_size=9))
def test_a_crossing_is_the_first_pair_above(values):
    found, flat = crossing(values, 0.5), smoothed(values)
    pairs = [i for i, (a, b) in enumerate(itertools.pairwise(flat)) if a >= 0.5 and b >= 0.5]
    assert (found.by == pairs[0]) if pairs else (found.by is None)
    assert found.after == (pairs[0] - 1 if pairs and pairs[0] else None if pairs else found.after)
    assert {0} <= {abs(a - b) for a, b in zip((flat[0], flat[-1]), (values[0], values[-1]), strict=True)}


def test_values_that_are_no_numbers_are_refused():
    for bad in ([], [0.0, math.nan]):
        with pytest.raises(ValueError, match="legal: one finite number or more"):
            crossing(bad, 0.5)


def _run(stage: str, regime: str, seed: int, parent: str | None = None, losses: Any = None) -> Any:
    run_id = f"ppt.{regime}.s{seed}" if stage == "ppt" else f"pt.{regime}.web.s{seed}"
    domain = "web" if stage == "pt" else ""
    rows = [] if losses is None else [{"tokens": BATCH * s, "loss": v} for s, v in losses]
    trained: Any = SimpleNamespace(rows=rows, status={"state": "done"})
    return Run(
        run_id, Path(run_id), regime=regime, domain=domain, seed=seed, stage=stage, parent=parent, trained=trained
    )


def _scores(run: Any, curves: dict[tuple[int, int], list[float]], probe: str = "induction", **extra: Any) -> list[dict]:
    common = {**run.identity, "probe": probe, "chance": 0.0, "null_95": math.nan} | extra
    return [
        {**common, "step": s, "tokens": BATCH * s, "layer": layer, "head": head, "value": v}
        for (layer, head), values in curves.items()
        for s, v in zip(STEPS, values, strict=True)
    ]


def _step(at: int, height: float = 0.8) -> list[float]:
    return [height if s >= at else 0.1 for s in STEPS]


EMPTY = pd.DataFrame(columns=["run", "quantity", "low", "step", "tokens"])


def test_emergence_of_the_highest_head_in_each_stage():
    runs = [_run("ppt", "nca", 0), _run("pt", "nca", 0, "ppt.nca.s0"), _run("pt", "scratch", 0), _run("pt", "late", 0)]
    probes = pd.DataFrame(
        _scores(runs[0], {(0, 0): _step(99), (1, 0): _step(8)})
        + _scores(runs[1], {(0, 0): _step(99), (1, 0): _step(0)})
        + _scores(runs[2], {(0, 0): _step(16), (1, 0): _step(99)})
        + _scores(runs[3], {(0, 0): _step(99), (1, 0): _step(99)})
    )
    found = emergence_table(runs, probes, EMPTY, HITS).set_index("run")
    assert found.state.to_dict() == {
        "ppt.nca.s0": "reached", "pt.nca.web.s0": "from start", "pt.scratch.web.s0": "reached", "pt.late.web.s0": "never",
    }  # fmt: skip
    assert found.loc["ppt.nca.s0", ["after_step", "by_step", "after_tokens", "by_tokens"]].tolist() == [4, 8, 400, 800]
    assert found.loc["pt.scratch.web.s0", ["after_tokens", "by_tokens", "level"]].tolist() == [800, 1600, 0.3]
    assert math.isnan(found.loc["pt.nca.web.s0", "after_tokens"])
    assert found.loc["pt.nca.web.s0", "by_tokens"] == 0
    assert found.loc["pt.late.web.s0", "after_tokens"] == 6400
    assert math.isnan(found.loc["pt.late.web.s0", "by_tokens"])
    assert (found.checkpoints.unique(), found.resolution.unique()) == (8, 100)
    assert found.bend.isna().all()


def test_random_models_raise_the_level_and_less_can_be_better():
    run = _run("pt", "nca", 0)
    rows = _scores(run, {(0, 0): _step(8, 0.6)}, null_95=0.2)
    context = [0.0, 0.0, 0.0, -0.1, -0.3, -0.4, -0.4, -0.4]
    rows += _scores(run, {(None, None): context}, "in_context_learning", null_95=0.1)
    rows += _scores(run, {(0, 0): _step(0)}, "entropy")  # names no kind of head
    drawn = np.array([0.5, 0.55, 0.6])  # highest head of each random model
    found = emergence_table([run], pd.DataFrame(rows), EMPTY, HITS, {run.id: {"induction": drawn}}).set_index("probe")
    assert set(found.index) == {"induction", "in_context_learning"}
    assert found.loc["induction", "level"] == pytest.approx(0.55 + 0.05 * beyond(3))
    assert found.loc["induction", "state"] == "never"
    assert found.loc["in_context_learning", ["state", "after_step", "by_step", "highest"]].tolist() == [
        "reached",
        4,
        8,
        -0.4,
    ]


def test_checkpoints_that_do_not_say_their_tokens_have_steps_alone():
    run = _run("pt", "nca", 0)
    probes = pd.DataFrame(_scores(run, {(0, 0): _step(8)})).assign(tokens=pd.NA)
    found = emergence_table([run], probes, EMPTY, HITS)
    row = found.iloc[0]
    assert (row.state, row.after_step, row.by_step) == ("reached", 4, 8)
    assert math.isnan(row.after_tokens)
    assert math.isnan(row.by_tokens)
    assert row.resolution is None
    # nothing to compare in tokens, and nothing that breaks
    runs = pd.DataFrame([{"run": run.id, "ppt_tokens": math.nan}])
    assert timing_table({"nca": "regime"}, runs, found, persistence_table([run], probes, HITS)).empty


def test_the_synthetic_task_emerges_where_the_interval_leaves_zero():
    run = _run("ppt", "nca", 0)
    lows = [-0.2, -0.2, -0.1, -0.1, 0.01, 0.1, 0.1, 0.2]
    gaps = [
        {"run": "ppt.nca.s0", "quantity": "gap", "low": v, "step": s, "tokens": BATCH * s}
        for s, v in zip(STEPS, lows, strict=True)
    ]
    found = emergence_table([run], pd.DataFrame(columns=["run", "value", "probe"]), pd.DataFrame(gaps), HITS)
    assert found[["probe", "state", "after_step", "by_step"]].to_numpy().tolist() == [
        ["rule_inference", "reached", 4, 8]
    ]


def test_emergence_lies_before_or_after_a_planted_bend():
    steps = np.arange(1, 65)
    losses = list(zip(steps, 6 - 1.0 * np.maximum(np.log(steps / 8), 0), strict=True))
    told = {}
    for at in (2, 64, 10_000):
        run = replace(_run("pt", "nca", 0, losses=losses), id=f"pt{at}")
        row = emergence_table([run], pd.DataFrame(_scores(run, {(0, 0): _step(at)})), EMPTY, HITS).iloc[0]
        assert row.bend == pytest.approx(800, rel=0.1)
        told[at] = (row.order, row.distance_low, row.distance_high)
    assert told[2][0] == "earlier"
    assert told[2][2] == pytest.approx(math.log2(200 / 800), abs=0.2)
    assert told[64][0] == told[10_000][0] == "later"  # at the last checkpoint alone, and never
    assert math.isinf(told[10_000][2])
    assert order_of(-0.4, 0.6) == "together"
    assert order_of(-2, 2) == "inconclusive"


def _study(rises: dict[str, list[int]], seeds: int) -> tuple[dict[str, str], pd.DataFrame, pd.DataFrame]:
    """Runs of language by regime, with the step at which the head of each seed rises; runs table and emergence."""
    runs = [_run("pt", regime, seed) for regime in rises for seed in range(seeds)]
    probes = [row for run in runs for row in _scores(run, {(0, 0): _step(rises[run.regime][run.seed])})]
    table = pd.DataFrame([{**run.identity, "ppt_tokens": 6400 * (run.regime == "nca")} for run in runs])
    return dict.fromkeys(rises, "regime"), table, emergence_table(runs, pd.DataFrame(probes), EMPTY, HITS)


NONE = pd.DataFrame(columns=["domain", "regime", "probe", "rho", "scratch_rho"])


@pytest.mark.parametrize(
    ("nca", "scratch", "verdict", "earlier"),
    [
        ([1, 1, 1], [32, 32, 32], "earlier", 3),
        ([0, 0, 0], [16, 32, 32], "earlier", 3),  # transferred
        ([32, 32, 32], [1, 2, 1], "later", 0),
        ([2, 2, 2], [999, 999, 999], "earlier", 3),  # scratch never gets there
        ([8, 16, 8], [8, 8, 16], "inconclusive", 1),
        ([999, 999, 999], [999, 999, 999], NEVER, 0),
        ([1, 1], [32, 32], TOO_FEW, 2),
        ([0, 0, 0], [0, 0, 32], UNINFORMATIVE, 1),
    ],
)
def test_regimes_are_compared_by_their_seeds(nca, scratch, verdict, earlier):
    rows = timing_table(*_study({"scratch": scratch, "nca": nca}, len(nca)), NONE)
    row = rows[rows.budget == "pt"].iloc[0]
    assert (row.verdict, row.earlier, row.n) == (verdict, earlier, len(nca))
    assert (row.treated, row.control) == ("nca", "scratch")
    if row.later + row.earlier:
        assert row.p_sign == sign_p(row.earlier, row.later)
    assert not row.low > row.high


def test_tokens_of_pre_pre_training_are_counted_where_asked():
    roles, runs, emergence = _study({"scratch": [8, 8, 8], "nca": [8, 8, 8]}, 3)
    both = timing_table(roles, runs, emergence, NONE).set_index("budget")
    assert (both.loc["pt", "effect"], both.loc["pt", "verdict"]) == (0, "inconclusive")
    assert both.loc["pt+ppt", "verdict"] == "later"
    # log2 of (6400 + 400, 6400 + 800] over (400, 800]
    assert both.loc["pt+ppt", "effect"] == pytest.approx((math.log2(6800 / 800) + math.log2(7200 / 400)) / 2)


@given(st.integers(0, 2**31))
def test_bounds_hold_wherever_the_truth_lies(seed):
    rng = np.random.default_rng(seed)
    lows = rng.normal(size=5)
    highs = lows + rng.random(5)
    truth = lows + rng.random(5) * (highs - lows)
    wide, exact = bounded([Span(*pair) for pair in zip(lows, highs, strict=True)]), bounded([Span(v, v) for v in truth])
    assert wide.low <= truth.mean() <= wide.high
    shifted = bounded([Span(v, v) for v in lows])
    assert (wide.low, shifted.effect) == (shifted.low, pytest.approx(lows.mean()))
    assert exact.low < exact.effect < exact.high
    assert bounded([Span(1, 1)] * 3, 0.5).high > 1 == bounded([Span(1, 1)] * 3).high


def test_a_permutation_of_heads_is_no_persistence():
    rng = np.random.default_rng(0)
    layers = np.repeat(np.arange(4), 8)
    before = rng.normal(size=32) + 10 * layers  # a layer of its own height
    same = rank_correlation(before, before + 0.1 * rng.normal(size=32), layers)
    mixed = before.reshape(4, 8)[:, rng.permutation(8)].ravel()
    shuffled = rank_correlation(before, mixed, layers)
    assert same[0] > 0.98
    assert same[1] < 0.001
    assert shuffled[0] > 0.8  # layers alone
    assert shuffled[1] > 0.05
    assert np.isnan(rank_correlation(before, np.ones(32), layers)).all()


def _persistent(order: list[int], decay: dict[int, float]) -> pd.DataFrame:
    """Three runs of 2 x 4 heads: NCA, language on it with its heads in another `order`, and scratch with none."""
    heads = [(layer, head) for layer in range(2) for head in range(4)]
    ends = np.array([0.9, 0.8, 0.05, 0.06, 0.07, 0.01, 0.02, 0.03])
    runs = [_run("ppt", "nca", 0), _run("pt", "nca", 0, "ppt.nca.s0"), _run("pt", "scratch", 0)]
    fall = [decay.get(s, 1.0) for s in STEPS]
    rows = _scores(runs[0], {h: [v] * len(STEPS) for h, v in zip(heads, ends, strict=True)})
    rows += _scores(runs[1], {h: [v * f for f in fall] for h, v in zip(heads, ends[order], strict=True)})
    rows += _scores(runs[2], {h: [v] * len(STEPS) for h, v in zip(heads, ends[::-1], strict=True)})
    return persistence_table(runs, pd.DataFrame(rows), HITS)


def test_heads_that_stay_persist():
    (row,) = _persistent(list(range(8)), {}).to_dict("records")
    assert (row["heads"], row["best"], row["persisted"], row["share"]) == (8, 2, 2, 1.0)
    assert (row["rho"], row["scratch_rho"]) == (pytest.approx(1), pytest.approx(-3 / 7))
    assert (row["best_ppt"], row["best_swap"], row["best_end"]) == (pytest.approx(0.85),) * 3
    assert (row["half_state"], row["half_after"], row["half_by"]) == ("never", 6400, None)
    assert (row["run"], row["ppt_run"]) == ("pt.nca.web.s0", "ppt.nca.s0")


def test_heads_that_move_within_their_layer_do_not():
    (row,) = _persistent([2, 3, 0, 1, 4, 5, 6, 7], {}).to_dict("records")
    assert (row["best"], row["persisted"], row["share"]) == (2, 0, 0.0)
    assert row["end_highest"] == 0.9
    assert row["best_end"] == pytest.approx(0.055)
    assert row["half_state"] == "from start"
    assert row["p"] > 0.05


def test_half_life_lies_between_the_checkpoints_of_the_fall():
    (row,) = _persistent(list(range(8)), {8: 0.6, 16: 0.4, 32: 0.2, 64: 0.1}).to_dict("records")
    assert (row["half_state"], row["half_after"], row["half_by"]) == ("reached", 800, 1600)
    assert row["persisted"] == 0


def test_persistence_is_judged_against_scratch_of_the_same_seed():
    rows = pd.DataFrame({
        "domain": "web", "regime": ["nca"] * 3 + ["dyck"] * 3, "probe": "induction",
        "rho": [0.8, 0.9, 0.85, 0.2, 0.3, 0.1], "scratch_rho": [0.1, 0.2, 0.1, 0.2, 0.2, 0.2],
    })  # fmt: skip
    empty = emergence_table([], pd.DataFrame(columns=["run"]), EMPTY, HITS)
    found = timing_table({}, pd.DataFrame(columns=["run", "ppt_tokens"]), empty, rows).set_index("treated")
    assert found.verdict.to_dict() == {"nca": "persists", "dyck": "inconclusive"}
    assert found.loc["nca", "effect"] == pytest.approx(np.mean([0.7, 0.7, 0.75]))
    assert found.loc["nca", "n"] == 3


def test_the_smallest_study_has_every_table(tmp_path: Path):
    """The real command: train, analyse, report; every row lies within its run."""
    import os
    import subprocess
    import sys

    def call(*command: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "nca_interp", *command], capture_output=True, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    out = str(tmp_path / "study")
    for regime in ("scratch", "nca"):
        call("train", "smoke", "--domain", "web", "--regime", regime, "--seed", "0", "--out", out, "--workers", "1")
    call("analyze", out, "--workers", "1")
    tables = {
        name: pd.read_csv(f"{out}/tables/{name}.csv") for name in ("emergence", "persistence", "timing", "learning")
    }
    emergence, learning = tables["emergence"], tables["learning"]
    assert set(emergence.run) == {"ppt.nca.s0", "pt.nca.web.s0", "pt.scratch.web.s0"}
    assert {"induction", "repeated_token_gain", "in_context_learning"} <= set(emergence.probe)
    assert emergence.checkpoints.unique().tolist() == [5]  # steps 0, 1, 2, 4 and 6
    assert (emergence[emergence.state == "never"].after_step == 6).all()
    assert set(tables["persistence"].run) == {"pt.nca.web.s0"}
    assert (tables["persistence"].heads == 4).all()
    assert set(tables["timing"][tables["timing"].family == "regime"].verdict) <= {TOO_FEW, NEVER, UNINFORMATIVE}
    assert sorted(learning.step.unique()) == [0, 1, 2, 4, 6]
    ideal = learning[learning.predictor.isin(["copy", "lookup", "oracle"]) & (learning.quantity != "gap")]
    assert (ideal.groupby(["predictor", "quantity"]).value.nunique() == 1).all()  # the same rules at every step
    call("report", out)


@pytest.mark.parametrize("models", [3, 5, 12])
def test_one_more_maximum_of_exponential_scores_is_beyond_the_bound_once_in_twenty(models):
    rng, studies = np.random.default_rng(models), 4000
    highest = rng.exponential(size=(studies, models + 1, 60)).max(2)
    seen = highest[:, :models]
    beaten = highest[:, models] >= seen.mean(1) + beyond(models) * seen.std(1, ddof=1)
    assert beaten.mean() == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / studies))


def _random_scores(rng: np.random.Generator, heads: int = 12) -> np.ndarray:
    return rng.beta(2, 20, size=heads)


def test_a_level_is_at_least_twice_chance():
    null = np.array([0.1, np.nan])
    assert level_of(null, 0.3, chance=np.array([0.05, np.nan])) == 0.3
    assert level_of(null, 0.3, chance=np.array([0.05, 0.4])) == 0.8
    assert level_of(null, 0.3, chance=np.array([np.nan])) == 0.3
    assert level_of(np.array([0.9]), 0.3, chance=np.array([0.4])) == 0.9


def test_random_models_rarely_reach_the_level_of_their_kind():
    rng, reached, above, studies = np.random.default_rng(0), [], [], 400
    for _ in range(studies):
        null = np.stack([_random_scores(rng) for _ in range(5)])
        rows = pd.DataFrame({"null_95": [np.percentile(null, 95)]})
        highest = _random_scores(rng).max()
        reached.append(highest >= level_of(rows.null_95.to_numpy(float), 0.0, null.max(1)))
        above.append(highest >= rows.null_95[0])
    assert np.mean(reached) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)
    assert np.mean(above) > 0.3  # the percentile of heads is passed by the highest of twelve


def _spans(times: np.ndarray, factor: float) -> list[Span]:
    """Between which checkpoints, `factor` apart, each time (in tokens, log2) lies."""
    cells = np.floor(times / math.log2(factor))
    return [Span(factor**c, factor ** (c + 1)) for c in cells]


def _verdict(treated: np.ndarray, control: np.ndarray, factor: float) -> dict[str, Any]:
    head = {"family": "regime", "domain": "web", "stage": "pt", "probe": "induction", "treated": "nca", "control": "scratch", "budget": "pt"}  # fmt: skip
    pairs = list(zip(_spans(treated, factor), _spans(control, factor), strict=True))
    return decide_family([compare_spans(head, pairs, False)])[0]


@pytest.mark.parametrize("factor", [2.0, 2**0.25])
def test_regimes_that_do_not_differ_are_rarely_told_apart(factor):
    rng, said = np.random.default_rng(1), []
    for _ in range(300):
        said.append(_verdict(*(14 + rng.normal(size=(2, 5)) * 0.8), factor)["verdict"])
    assert np.mean([v in ("earlier", "later") for v in said]) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert ("together" in said) == (factor < 2)  # doublings cannot show it


def test_together_is_shown_by_dense_checkpoints_and_not_offered_by_sparse_ones():
    same = np.array([14.1, 14.15, 14.2])
    dense, sparse = _verdict(same, same, 2**0.25), _verdict(same, same, 2.0)
    assert (dense["verdict"], dense["finest"] < 2) == ("together", True)
    assert (sparse["verdict"], sparse["finest"] > 2) == ("inconclusive", True)
    assert math.isnan(sparse["p_together"])
    assert "cannot show less than a factor of" in sparse["sentence"]
    rng = np.random.default_rng(2)  # at the edge of what counts as together
    said = [
        _verdict(15 + rng.normal(size=3) * 0.05, 14 + rng.normal(size=3) * 0.05, 2**0.25)["verdict"] for _ in range(300)
    ]
    assert np.mean([v == "together" for v in said]) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_verdicts_are_corrected_over_the_family():
    rng, said = np.random.default_rng(3), []
    for _ in range(12):
        rows = pd.DataFrame({
            "domain": "web", "regime": "nca", "probe": np.repeat([f"p{i}" for i in range(10)], 4), "rho": rng.normal(size=40),
            "scratch_rho": rng.normal(size=40),
        })  # fmt: skip
        said.append({row["verdict"] for row in decide_family(list(_persistence(rows)))} != {"inconclusive"})
    assert np.mean(said) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 12)
