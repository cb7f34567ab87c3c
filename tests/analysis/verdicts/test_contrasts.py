"""Planned comparisons: paired by seed, one family, told in a sentence; lost, pending and added runs."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nca_interp.analysis.verdicts.contrasts import Values, contrast_tables
from nca_interp.analysis.verdicts.plan import Contrast, planned

ROLES = {
    "scratch": "regime", "c4": "regime", "nca": "regime", "shuffled": "control", "no-attn": "transfer", "low": "complexity",
}  # fmt: skip
WEB = {"web": "Web text"}


def _values(seeds=3, domains=("web",)):
    rng = np.random.default_rng(0)
    effect = {"scratch": 0.0, "c4": 0.001, "nca": -0.05, "shuffled": 0.02, "no-attn": -0.01, "low": 0.03}
    rows = [
        {"regime": r, "domain": d, "seed": s, "value": 3 + 0.3 * s + e + 0.0005 * rng.normal()}
        for d in domains for r, e in effect.items() for s in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _losses(values, **more) -> Values:
    return Values(values, "val_loss", 0.01, **more)


def _contrast(seeds=(0, 1, 2), **more) -> Contrast:
    return Contrast("regime", "web", "val_loss", "nca", "scratch", tuple(seeds), 0.01, **more)


def _one(values, plan) -> pd.Series:
    return contrast_tables(ROLES, WEB, values, None, plan)["contrasts"].iloc[0]


def test_every_comparison_is_planned_once():
    plan = [(p.family, p.treated, p.control) for p in planned(ROLES)]
    assert plan == [
        ("regime", "nca", "scratch"), ("regime", "nca", "c4"), ("regime", "nca", "shuffled"), ("transfer", "no-attn", "nca"),
        ("transfer", "no-attn", "scratch"), ("complexity", "low", "scratch"),
    ]  # fmt: skip
    assert planned({"scratch": "regime"}) == []


def test_contrasts_pair_by_seed_and_are_corrected_together():
    values = _values()
    tables = contrast_tables(ROLES, {**WEB, "code": "Code"}, _losses(values), None)
    contrasts, pairs = tables["contrasts"], tables["pairs"]
    row = contrasts[(contrasts.family == "regime") & (contrasts.control == "scratch")].iloc[0]
    wide = values.pivot(index="seed", columns="regime", values="value")
    difference = wide.nca - wide.scratch
    assert row.effect == pytest.approx(difference.mean())
    assert (row.low, row.high) == pytest.approx(stats.t.interval(0.95, 2, difference.mean(), stats.sem(difference)))
    joint = stats.t.interval(1 - 0.05 / 6, 2, difference.mean(), stats.sem(difference))
    assert (row.low_all, row.high_all) == pytest.approx(joint)
    assert row.ppl_change_pct == pytest.approx(100 * (math.exp(row.effect) - 1))
    assert row.p == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)
    assert (contrasts.comparisons == 6).all()
    assert row.p <= row.p_holm <= 6 * row.p
    assert (row.p_exact, row.p_exact_floor) == (0.25, 1.0)
    assert row.verdict == "better"
    assert "Web text: nca is better than scratch" in row.sentence
    assert "for this comparison alone" in row.sentence
    assert "corrected for 6 comparison(s)" in row.sentence
    own = pairs[(pairs.family == "regime") & (pairs.control == "scratch")]
    np.testing.assert_allclose(own.difference, difference)
    np.testing.assert_allclose(own.treated_value - own.control_value, own.difference)
    assert own.counted.all()


def test_order_of_runs_does_not_matter():
    values = _values()
    first = contrast_tables(ROLES, WEB, _losses(values), None)
    second = contrast_tables(ROLES, WEB, _losses(values.sample(frac=1, random_state=1)), None)
    for name in first:
        pd.testing.assert_frame_equal(first[name], second[name])


def test_one_seed_and_no_common_seed_get_a_sentence():
    tables = contrast_tables(ROLES, WEB, _losses(_values(1)), None)
    assert set(tables["contrasts"].verdict) == {"no verdict (one seed)"}
    assert tables["contrasts"].sentence.str.contains("no verdict is possible").all()
    values = _values()
    apart = values[((values.regime == "nca") & (values.seed == 0)) | ((values.regime == "scratch") & (values.seed > 0))]
    row = contrast_tables(ROLES, WEB, _losses(apart), None)["contrasts"].iloc[0]
    assert row.verdict == "no verdict (no common seed)"
    assert "have no seed in common" in row.sentence
    assert math.isnan(row.effect)


def test_equal_losses_are_no_certainty():
    values = _values().assign(value=3.0)
    row = _one(_losses(values), [_contrast()])
    assert row.verdict == "cannot tell"
    assert "are they separate runs?" in row.sentence


def test_a_study_that_is_not_finished_waits():
    values = _values()
    row = _one(_losses(values[~((values.regime == "nca") & (values.seed == 2))]), [_contrast()])
    assert (row.verdict, row.n, row.planned, row.pending) == ("inconclusive (interim)", 2, 3, "nca seed 2")
    assert "so far, with 2 of 3 planned seeds" in row.sentence
    assert math.isnan(row.p_holm)


def test_seeds_added_after_the_plan_decide_nothing():
    values = _values(5)
    values.loc[(values.regime == "nca") & (values.seed > 2), "value"] += 9.0
    row = _one(_losses(values), [_contrast()])
    assert (row.verdict, row.n, row.later_n) == ("better", 3, 2)
    assert row.effect == pytest.approx(-0.05, abs=0.002)
    assert row.later_effect > 1
    assert "2 seed(s) that are not in the plan were added and decide nothing" in row.sentence
    pairs = contrast_tables(ROLES, WEB, _losses(values), None, [_contrast()])["pairs"]
    assert list(pairs.counted) == [True, True, True, False, False]
    added = contrast_tables(ROLES, WEB, _losses(values), None, [_contrast()], [_contrast()._replace(control="c4")])
    assert added["contrasts"].verdict.iloc[1] == "no verdict (added after the plan)"
    assert (added["contrasts"].comparisons.iloc[0], math.isnan(added["contrasts"].p_holm.iloc[1])) == (1, True)


def test_lost_runs_are_named_and_not_numbers_are_no_values():
    values = _values()
    values.loc[(values.regime == "nca") & (values.seed == 1), "value"] = math.nan
    losses = _losses(values, lost={("nca", "web", 1): "pt.nca.web.s1"})
    row = _one(losses, [_contrast()])
    assert (row.verdict, row.n, row.lost, row.pending) == ("cannot tell", 2, "pt.nca.web.s1", "")
    assert "the runs that were lost could have made the difference" in row.sentence
    assert "Lost, with its pair: pt.nca.web.s1." in row.sentence


def test_documents_widen_and_missing_ones_do_not_matter():
    values, rng = _values(), np.random.default_rng(0)
    weights = np.full(20, 30.0)
    changed = 15 * rng.normal(size=20)  # by NCA, on each document, the same in all seeds
    items = {(r, "web", s): (90 + changed * (r == "nca"), weights) for r in ROLES for s in range(3)}
    plain, known = _one(_losses(values), [_contrast()]), _one(_losses(values, items=items), [_contrast()])
    assert known["items"] == 20
    assert known.low < plain.low
    assert plain.item_error == 0
    del items["scratch", "web", 1]
    assert _one(_losses(values, items=items), [_contrast()]).low == plain.low


def test_accuracy_is_better_when_higher():
    accuracy = _values().assign(value=lambda f: -f.value)
    tables = contrast_tables(ROLES, WEB, _losses(_values()), Values(accuracy, "accuracy", 0.01, True))
    row = tables["contrasts"].query("family == 'reasoning' and control == 'scratch'").iloc[0]
    assert row.verdict == "better"
    assert "percentage points of accuracy" in row.sentence
    assert math.isnan(row.ppl_change_pct)


def test_one_summary_over_domains_is_that_of_each_seeds_mean():
    domains = {"web": "Web", "code": "Code"}
    values = _values(4, tuple(domains))
    pooled = contrast_tables(ROLES, domains, _losses(values), None)["pooled"]
    row = pooled[(pooled.treated == "nca") & (pooled.control == "scratch")].iloc[0]
    wide = values.pivot_table(index="seed", columns=["domain", "regime"], values="value")
    by_seed = (wide["web"].nca - wide["web"].scratch + wide["code"].nca - wide["code"].scratch) / 2
    assert row.effect == pytest.approx(by_seed.mean())
    assert (row.low, row.high) == pytest.approx(stats.t.interval(0.95, 3, by_seed.mean(), stats.sem(by_seed)))
    assert (row.domains, row.n, row.model) == (2, 4, "fixed")
    assert "Fixed over domains" in row.sentence
    assert "no verdict of its own" in row.sentence


def test_the_summary_over_domains_covers_the_truth():
    rng, held = np.random.default_rng(5), []
    domains = {"web": "Web", "code": "Code"}
    plan = [_contrast(), _contrast()._replace(domain="code")]
    for _ in range(300):
        shared = rng.normal(size=(2, 3))  # one pre-pre-training serves both domains, so they are not independent
        rows = [
            {"regime": r, "domain": d, "seed": s, "value": shared[i, s] + rng.normal()}
            for i, r in enumerate(("scratch", "nca")) for d in domains for s in range(3)
        ]  # fmt: skip
        row = contrast_tables(ROLES, domains, _losses(pd.DataFrame(rows)), None, plan)["pooled"].iloc[0]
        held.append(row.low <= 0 <= row.high)
    assert np.mean(held) == pytest.approx(0.95, abs=3 * math.sqrt(0.05 * 0.95 / 300))
