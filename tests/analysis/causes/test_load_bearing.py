"""Whether heads that score high are needed, and whether the same heads carry two tasks: planted answers over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from nca_interp.analysis.causes.load_bearing import LOADS, load_tables
from nca_interp.analysis.verdicts.contrasts import ACCURACY_MARGIN

HEADS = 12
ROLES = {"dyck": "regime", "nca": "regime", "scratch": "regime", "no-attn": "transfer"}
MARGIN = 0.05
LOSS, OWN, ACCURACY = "repeated_token_loss", "own_loss", "nca_patch_accuracy"
UP = np.arange(HEADS, dtype=float)
"""An order of heads."""
AROUND = (UP - UP.mean()) ** 2
"""Uncorrelated with UP, exactly."""


class Planted:
    """Rows of causes, probes and runs of a study whose answers are known."""

    def __init__(self) -> None:
        self.causes: list[dict[str, Any]] = []
        self.probes: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []

    def run(
        self, name: str, harms: dict[str, np.ndarray], scores: dict[str, np.ndarray] | None = None, state: str = "done"
    ) -> dict[str, Any]:
        """A run STAGE.REGIME.DOMAIN.sSEED whose heads cost `harms` when lost; of an accuracy the value falls."""
        stage, regime, *domain, seed = name.split(".")
        who = {
            "run": name,
            "regime": regime,
            "domain": "".join(domain),
            "seed": int(seed[1:]),
            "stage": stage,
            "step": 8,
        }
        self.runs.append({"run": name, "state": state})
        for head in range(HEADS):
            place = {**who, "layer": head // 4, "head": head % 4}
            for metric, harm in harms.items():
                worse = -1 if metric == ACCURACY else 1
                row = {"probe": "ablation", "metric": metric, "value": worse * harm[head], "worse": worse}
                self.causes.append({**place, **row})
            for probe, score in (scores or {}).items():
                self.probes.append({**place, "probe": probe, "value": score[head]})
                self.probes.append({**place, "probe": probe, "value": -score[head], "step": 4})  # an earlier checkpoint
        return who

    def top(
        self, who: dict[str, Any], metric: str, effect: float, others: list[float], probe: str = "induction"
    ) -> None:
        """Losing the top heads of a run, and each other set of their round; all as harm."""
        worse = -1 if metric == ACCURACY else 1
        unit = "share" if metric == ACCURACY else "nats per token, a note"
        same = {**who, "by": probe, "metric": metric, "unit": unit, "worse": worse}
        spread = {"chance": worse * np.mean(others), "sd": np.std(others), "n": len(others), "at": "1.2"}
        self.causes.append({**same, **spread, "probe": "top_heads", "value": worse * effect, "p": 0.5})
        self.causes += [{**same, "probe": "random_heads", "value": worse * harm} for harm in others]

    def crossed(self, who: dict[str, Any], metric: str, by: str, parent: str = "") -> None:
        """The row that names a pair of losses."""
        probe = "cross_stage" if parent else "cross_task"
        self.causes.append({**who, "probe": probe, "metric": metric, "by": by, "value": 0.0, "at": parent})

    def tables(self) -> dict[str, pd.DataFrame]:
        """What the analysis says."""
        columns = ["chance", "sd", "p", "n", "unit", "at", "by", "head"]
        causes = pd.DataFrame(self.causes)
        causes = causes.reindex(columns=[*causes, *(c for c in columns if c not in causes)])
        probes = pd.DataFrame(self.probes, columns=["run", "step", "layer", "head", "probe", "value"])
        return load_tables(causes, probes, pd.DataFrame(self.runs), ROLES, ["web", "code"], MARGIN)


def test_planted_orders_are_found_and_none_is_left_open():
    study = Planted()
    for seed in range(3):
        harms = {LOSS: 0.1 * UP + seed, OWN: -UP, ACCURACY: UP**3, "nca_loss": AROUND}
        study.run(f"pt.nca.web.s{seed}", harms, {"induction": np.exp(UP)})
    told = study.tables()["score_harm"].set_index("metric")
    for metric, rho, verdict in (
        (LOSS, 1, "rises with harm"), (OWN, -1, "falls with harm"), (ACCURACY, 1, "rises with harm")
    ):  # fmt: skip
        row = told.loc[metric]
        assert (row.rho, row.low, row.high, row.verdict) == (rho, rho, rho, verdict)
        assert (row.p, row.seeds, row.heads) == (pytest.approx(1e-4), 3, HEADS)
    none = told.loc["nca_loss"]
    assert (none.rho, none.p, none.p_bh, none.verdict) == (pytest.approx(0, abs=1e-9), 1, 1, "inconclusive")


def test_p_is_adjusted_over_probes_and_metrics_of_one_place_and_regime():
    rng, study = np.random.default_rng(0), Planted()
    for name in ("pt.nca.web.s0", "pt.nca.web.s1", "pt.nca.code.s0", "ppt.nca.s0", "pt.dyck.web.s0"):
        scores = {f"probe_{i}": rng.normal(size=HEADS) + 1.5 * i * UP for i in range(3)}
        study.run(name, {LOSS: UP, OWN: rng.normal(size=HEADS)}, scores)
    told = study.tables()["score_harm"]
    groups = told.groupby(["domain", "stage", "regime"], sort=False)
    places = [("web", "pt", "nca"), ("web", "pt", "dyck"), ("code", "pt", "nca"), ("", "ppt", "nca")]
    assert [place for place, _ in groups] == places  # the studied regime first, the end of pre-pre-training last
    for _, part in groups:
        assert len(part) == 6
        np.testing.assert_allclose(part.p_bh, multipletests(part.p, method="fdr_bh")[1])
    clear = (told.p_bh < 0.05) & (told.rho > 0)
    assert 0 < clear.sum() < len(told)
    assert ((told.verdict == "rises with harm") == clear).all()


def test_ties_are_those_of_scipy_and_heads_equal_within_layers_have_no_correlation():
    study, tied = Planted(), np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 5.0])
    other = np.array([3, 1, 2, 0, 2, 2, 0, 1, 1, 0, 3, 2.0])
    study.run("pt.nca.web.s0", {LOSS: tied, OWN: np.repeat(UP[:3], 4)}, {"induction": other, "uniform": np.ones(HEADS)})
    told = study.tables()["score_harm"]
    assert list(zip(told.probe, told.metric, strict=True)) == [("induction", LOSS)]
    ranks = [np.concatenate([stats.rankdata(p) - 2.5 for p in v.reshape(3, 4)]) for v in (other, tied)]
    assert told.rho[0] == pytest.approx(stats.pearsonr(*ranks).statistic)  # Spearman's, within layers


def test_one_seed_has_an_interval_over_heads_and_no_verdict_on_sets():
    study = Planted()
    who = study.run("pt.nca.web.s0", {LOSS: UP}, {"induction": np.roll(UP, 2)})
    study.top(who, LOSS, 5.0, [0.0, 0.1, 0.2])
    tables = study.tables()
    row = tables["score_harm"].iloc[0]
    assert row.seeds == 1
    assert row.low < row.rho < row.high
    top = tables["top_sets"].iloc[0]
    assert (top.seeds, top.excess, top.p, top.p_floor) == (1, pytest.approx(4.9), 0.25, 0.25)
    assert top.verdict == "cannot tell with 4 heads a layer and 1 seed"
    assert np.isnan([top.low, top.high, top.p_none]).all()


def test_unmeasured_heads_and_probes_of_some_seeds_give_no_number():
    study = Planted()
    study.run("pt.nca.web.s0", {LOSS: UP}, {"induction": UP, "sink": UP})
    gap = UP.copy()
    gap[3] = np.nan
    study.run("pt.nca.web.s1", {LOSS: UP}, {"induction": UP, "sink": gap})
    told = study.tables()["score_harm"]
    assert list(told.probe) == ["induction"]
    assert told.seeds[0] == 2


def test_sets_of_top_heads_get_their_planted_verdicts():
    study = Planted()
    for seed in range(3):
        shake = 0.001 * (seed - 1)
        for regime, excess in (("nca", 0.4), ("scratch", 0.0), ("dyck", 0.3 * (seed - 1))):
            who = study.run(f"pt.{regime}.web.s{seed}", {LOSS: UP})
            study.top(who, LOSS, 0.1 + excess + shake, [0.08, 0.1, 0.12])
            study.top(who, ACCURACY, 0.1 + excess / 20 + shake, [0.095, 0.1, 0.105])
    told = study.tables()["top_sets"].set_index(["regime", "metric"])
    assert list(told.index.unique("regime")) == ["scratch", "nca", "dyck"]
    nca = told.loc[("nca", LOSS)]
    assert (nca.family, nca.p, nca.p_floor, nca.p_holm) == ("declared", 4**-3, 4**-3, 4**-3)  # the sum of three seeds
    assert np.isnan(nca.p_bh)
    half = stats.t.ppf(0.975, 2) * 0.001 / np.sqrt(3)
    assert (nca.effect, nca.random, nca.excess) == pytest.approx((0.5, 0.1, 0.4))
    assert (nca.low, nca.high) == pytest.approx((0.4 - half, 0.4 + half))
    sd = np.std([0.08, 0.1, 0.12])
    assert (nca.random_low, nca.random_high) == pytest.approx((0.1 - 2 * sd, 0.1 + 2 * sd))
    assert (nca.sets, nca["at"], nca.unit, nca.heads) == (3, "1.2; 1.2; 1.2", "nats per token", 4)
    # an accuracy that falls is harm, within a margin of its own; it was not declared
    assert set(told.loc["nca"].verdict) == {"load-bearing"}
    accuracy = told.loc[("nca", ACCURACY)]
    assert (accuracy.excess, accuracy.family, accuracy.p_bh) == (pytest.approx(0.02), "exploration", 4**-3)
    assert (accuracy.margin, nca.margin) == (ACCURACY_MARGIN, MARGIN)
    assert set(told.loc["scratch"].verdict) == {"not load-bearing"}
    assert set(told.loc["dyck"].verdict) == {"inconclusive"}
    assert told.loc[("scratch", LOSS)].p_none == pytest.approx(stats.t.sf((MARGIN - 0) / (0.001 / np.sqrt(3)), 2))


def test_certain_harm_below_the_margin_is_negligible_and_no_spread_is_not_certainty():
    study = Planted()
    for seed in range(3):
        who = study.run(f"pt.nca.web.s{seed}", {LOSS: UP})
        study.top(who, LOSS, 0.01 + 0.0001 * seed, [0.0, 0.001, -0.001])
        study.top(who, OWN, 0.0, [0.0, 0.0, 0.0])
    told = study.tables()["top_sets"].set_index("metric")
    assert told.loc[LOSS].verdict == "load-bearing, negligibly"
    assert np.isnan(told.loc[OWN].p_none)
    assert told.loc[OWN].verdict == "inconclusive"


def test_less_harm_than_random_sets_is_not_load_bearing():
    study = Planted()
    for seed in range(2):
        study.top(study.run(f"pt.nca.web.s{seed}", {LOSS: UP}), LOSS, 0.1, [0.5 + 0.001 * seed, 0.4, 0.6])
    assert list(study.tables()["top_sets"].verdict) == ["not load-bearing"]


def _carried(n: int, seeds: int, rng: np.random.Generator, hit: bool, probes: int = 13) -> pd.DataFrame:
    """Models of 3 layers of n heads, one of which carries everything; the top heads of the probes lie anywhere, but that of
    the first is the carrier (`hit`). Verdicts."""
    study = Planted()
    for seed in range(seeds):
        who, carrier = study.run(f"pt.nca.web.s{seed}", {LOSS: UP}), int(rng.integers(3 * n))
        for row in study.causes:
            row.setdefault("head", 0)
        for number in range(probes):
            head = carrier if hit and number == 0 else int(rng.integers(3 * n))
            harms = 5.0 * (np.arange(n) + n * (head // n) == carrier) + 0.01 * rng.normal(size=n)
            for metric in (LOSS, OWN):
                probe = ("induction", "previous_token", *(f"probe_{i}" for i in range(11)))[number]
                study.top(who, metric, harms[head % n], np.delete(harms, head % n).tolist(), probe)
    return study.tables()["top_sets"]


@pytest.mark.parametrize(
    ("heads", "seeds", "found"),
    [(4, 1, 0), (4, 2, 0), (4, 3, 1), (4, 5, 1), (8, 1, 0), (8, 2, 1), (2, 3, 0), (2, 6, 1)],
)
def test_a_head_that_carries_everything_is_found_where_the_floor_allows_it(heads, seeds, found):
    told = _carried(heads, seeds, np.random.default_rng(0), hit=True).set_index(["probe", "metric"])
    row = told.loc[("induction", LOSS)]
    assert row.p == row.p_floor == pytest.approx(heads**-seeds)
    assert (row.verdict == "load-bearing") == bool(found)
    assert found or row.verdict.startswith("cannot tell with")
    if (heads, seeds) == (4, 3):  # one probe among 13 by exploration: out of reach, and said so
        assert told.loc[("induction", OWN)].verdict == "cannot tell with 4 heads a layer and 3 seeds"


def test_chance_hits_are_rarely_called_load_bearing():
    rng, studies = np.random.default_rng(1), 20
    said = [_carried(4, 3, rng, False, probes=4).verdict.eq("load-bearing").any() for _ in range(studies)]
    assert np.mean(said) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / studies)


def test_shared_heads_are_paired_with_the_run_that_the_weights_come_from():
    study = Planted()
    for seed in range(3):
        order = np.roll(UP, 5 * seed)  # each seed has its own special heads
        study.run(f"ppt.nca.s{seed}", {"nca_loss": order})
        who = study.run(f"pt.nca.web.s{seed}", {LOSS: -order, OWN: order**2})
        study.crossed(who, LOSS, OWN)
        study.crossed(who, "nca_loss", OWN, parent=f"ppt.nca.s{seed}")
    told = study.tables()["shared_heads"]
    assert list(zip(told.one_stage, told.one, told.other, told.rho, told.verdict, strict=True)) == [
        ("ppt", "nca_loss", OWN, 1, "the same heads"), ("pt", LOSS, OWN, -1, "opposite heads")
    ]  # fmt: skip
    assert list(told.stage) == ["pt", "pt"]
    assert told.p_holm.tolist() == pytest.approx([2e-4, 2e-4])
    assert (told.seeds == 3).all()
    assert (told.heads == HEADS).all()


def test_unfinished_runs_and_arms_that_are_not_compared_are_left_out():
    study = Planted()
    study.run("pt.nca.web.s0", {LOSS: UP}, {"induction": UP})
    study.run("pt.nca.web.s1", {LOSS: -UP}, {"induction": UP}, state="diverged")
    study.run("pt.no-attn.web.s0", {LOSS: UP}, {"induction": UP})
    told = study.tables()["score_harm"]
    assert list(zip(told.regime, told.seeds, told.rho, strict=True)) == [("nca", 1, 1)]


def test_what_was_not_measured_gives_empty_tables_with_their_columns():
    study = Planted()
    study.run("pt.nca.web.s0", {LOSS: UP})
    for name, frame in study.tables().items():
        assert list(frame.columns) == LOADS[name]
        assert frame.empty
