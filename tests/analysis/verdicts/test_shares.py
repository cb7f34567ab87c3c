"""Shapley shares against brute force and axioms; Fieller's interval and every interval shown against simulated truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from nca_interp.analysis.verdicts.carriers import (
    NO_TRANSFER,
    arms_of,
    coalition,
    complement,
    transfer_tables,
)
from nca_interp.analysis.verdicts.contrasts import Values, contrast_tables
from nca_interp.analysis.verdicts.plan import contrasts_of
from nca_interp.analysis.verdicts.shares import Losses, fieller, interaction_weights, shapley_weights
from nca_interp.arms import control_arms, layer_arms, once, shapley_arms
from nca_interp.config import MODULES, Regime, reinit_arms
from nca_interp.graft import Graft
from tests.test_arms import NCA, study

ARMS = shapley_arms(NCA)
SUBSETS = [frozenset(s) for n in range(4) for s in itertools.combinations(MODULES, n)]
KEPT = {coalition(a.graft): a.name for a in ARMS} | {frozenset(): "scratch", frozenset(MODULES): "nca"}


def value_of(weights, v):
    return sum(factor * v[s] for s, factor in weights.items())


def by_permutations(player, v):
    orders = list(itertools.permutations(MODULES))
    gains = []
    for order in orders:
        before = frozenset(order[: order.index(player)])
        gains.append(v[before | {player}] - v[before])
    return float(np.mean(gains))


def test_shares_are_the_mean_gain_over_all_orders_and_sum_to_the_whole():
    rng = np.random.default_rng(0)
    for _ in range(20):
        v = dict(zip(SUBSETS, rng.normal(size=8), strict=True))
        shares = [value_of(shapley_weights(p, MODULES), v) for p in MODULES]
        assert shares == pytest.approx([by_permutations(p, v) for p in MODULES])
        assert sum(shares) == pytest.approx(v[frozenset(MODULES)] - v[frozenset()])


def test_an_interaction_is_that_of_the_definition():
    rng = np.random.default_rng(1)
    v = dict(zip(SUBSETS, rng.normal(size=8), strict=True))
    whole = frozenset(MODULES)

    def necessity(*lost):
        return v[whole] - v[whole - set(lost)]

    assert value_of(interaction_weights(("attn", "mlp"), MODULES), v) == pytest.approx(
        necessity("attn", "mlp") - necessity("attn") - necessity("mlp")
    )
    either = {s: float(bool(s & {"attn", "mlp"})) for s in SUBSETS}  # each alone is enough
    both = {s: float({"attn", "mlp"} <= s) for s in SUBSETS}  # neither alone is
    alone = {s: 0.3 * ("attn" in s) + 0.7 * ("mlp" in s) for s in SUBSETS}
    assert [value_of(interaction_weights(("attn", "mlp"), MODULES), v) for v in (either, both, alone)] == pytest.approx(
        [1, -1, 0]
    )


def losses_of(v, n, rng, *, spread=0.02, own=0.002, level=3.0):
    """Final losses of `n` seeds: L(scratch) - v(S), a spread that all arms of a seed share, and one of each run's own."""
    rows = []
    for seed in range(n):
        shared = level + rng.normal(0, spread)
        rows += [(KEPT[s], "web", seed, shared - v[s] + rng.normal(0, own)) for s in SUBSETS]
    return Values(pd.DataFrame(rows, columns=["regime", "domain", "seed", "value"]), "val_loss", 0.01)


def tables_of(values, made=None):
    made = made or study(*ARMS)
    roles = {r.name: r.role for r in made.regimes}
    contrasts = contrast_tables(roles, {"web": "web"}, values, None, contrasts_of(made))["contrasts"]
    return transfer_tables(made, values, contrasts) | {"contrasts": contrasts}


ONLY_ATTENTION = {s: 0.5 * ("attn" in s) for s in SUBSETS}
ONLY_MLP = {s: 0.5 * ("mlp" in s) for s in SUBSETS}
EITHER = {s: 0.5 * bool(s & {"attn", "mlp"}) for s in SUBSETS}
NOTHING = dict.fromkeys(SUBSETS, 0.0)


@pytest.mark.parametrize(("v", "carrier"), [(ONLY_ATTENTION, "attn"), (ONLY_MLP, "mlp")])
def test_a_transfer_that_one_module_carries_is_told_as_such(v, carrier):
    found = tables_of(losses_of(v, 3, np.random.default_rng(2)))
    rows = found["transfer"].set_index(["question", "parts"])
    for module in MODULES:
        needed, enough = (rows.loc[(question, module)] for question in ("necessity", "sufficiency"))
        assert (needed.verdict == "needed") == (module == carrier)
        assert (enough.verdict == "carries some") == (module == carrier)
        assert needed.effect == pytest.approx(v[frozenset({module})], abs=0.01)
        assert enough.share == pytest.approx(float(module == carrier), abs=0.03)
        assert enough.share_low < float(module == carrier) < enough.share_high
    shares = found["shapley"].query("quantity == 'share'").set_index("term")
    assert shares.share[carrier] == pytest.approx(1, abs=0.03)
    assert shares.effect.sum() == pytest.approx(shares.gap.iloc[0])
    assert shares.low[carrier] > 0
    assert all(shares.low[m] < 0 < shares.high[m] for m in MODULES if m != carrier)
    assert (
        f"attention re-initialised: costs {rows.loc[('necessity', 'attn')].effect:+.4f} nats a token (95 % interval"
        in rows.loc[("necessity", "attn")].sentence
    )
    assert len(found["transfer_seeds"]) == 6 * 3
    assert len(found["shapley_seeds"]) == 6 * 3


def test_two_that_each_suffice_are_needed_together_only():
    found = tables_of(losses_of(EITHER, 3, np.random.default_rng(3)))
    rows = found["transfer"].set_index(["question", "parts"])
    assert {rows.loc[("sufficiency", m)].verdict for m in ("attn", "mlp")} == {"carries some"}
    assert all(abs(rows.loc[("necessity", m)].effect) < 0.01 for m in ("attn", "mlp"))
    pair = found["shapley"].set_index("term").loc["attn x mlp"]
    assert pair.low > 0.4
    assert pair.share == pytest.approx(1, abs=0.05)


def test_where_nothing_is_transferred_no_share_is_given():
    told = 0
    for seed in range(100):
        found = tables_of(losses_of(NOTHING, 3, np.random.default_rng(100 + seed)))
        shown = found["transfer"].share.notna().any()
        told += shown
        assert shown or all(NO_TRANSFER in s for s in found["transfer"].sentence)
        assert found["shapley"].share.notna().any() == shown
        assert not shown or not found["transfer"].gap_low.iloc[0] < 0 < found["transfer"].gap_high.iloc[0]
    assert told <= 5 + 3 * math.sqrt(100 * 0.05 * 0.95)  # the interval of the gap alone is a 5 % test


@pytest.mark.parametrize("n", [3, 5, 8])
def test_intervals_hold_the_truth_as_often_as_they_say(n):
    """Of shares of nats, and of the share of the gap, which is 0.6 with a gap of ten times its error."""
    rng, times = np.random.default_rng(n), 2000
    gap, part = 0.5, 0.3
    inside = {"mean": 0, "ratio": 0}
    for _ in range(times):
        shared, own = rng.normal(0, 0.03, n), rng.normal(0, 0.03, n)
        g = gap + shared + rng.normal(0, 0.01, n)
        x = part + 0.6 * shared + own
        found = fieller(x, g)
        inside["ratio"] += found.low <= part / gap <= found.high
        error = x.std(ddof=1) / math.sqrt(n)
        from scipy import stats

        inside["mean"] += abs(x.mean() - part) <= stats.t.ppf(0.975, n - 1) * error
    allowed = 3 * math.sqrt(times * 0.05 * 0.95)
    for name, count in inside.items():
        assert abs(count - 0.95 * times) < allowed, (name, count / times)


def test_fieller_in_closed_form():
    """A bottom without spread: the t-interval of the top, divided; a top that is a multiple: that multiple, without width."""
    top = np.array([1.0, 2.0, 4.0])
    from nca_interp.analysis.verdicts.statistics import t_interval

    assert fieller(top, np.full(3, 2.0)) == pytest.approx([x / 2 for x in t_interval(top)])
    bottom = np.array([0.9, 1.0, 1.1])
    assert fieller(0.4 * bottom, bottom) == pytest.approx((0.4, 0.4, 0.4))
    assert math.isnan(fieller(top, np.array([-1.0, 0.1, 1.0])).low)
    assert math.isnan(fieller(top[:1], bottom[:1]).low)


def test_shapley_intervals_hold_the_planted_shares():
    truth = {s: 0.2 * ("attn" in s) + 0.1 * ("mlp" in s) + 0.2 * ({"attn", "mlp"} <= s) for s in SUBSETS}
    planned = dict.fromkeys(KEPT.values(), 5)
    inside, times = dict.fromkeys(MODULES, 0), 400
    for seed in range(times):
        losses = Losses(losses_of(truth, 5, np.random.default_rng(seed)), "web", planned)
        for module in MODULES:
            weights = {KEPT[s]: -f for s, f in shapley_weights(module, MODULES).items()}
            found = losses.estimate(weights, losses.seeds(weights))
            inside[module] += found.low <= {"attn": 0.3, "mlp": 0.2, "norm": 0.0}[module] <= found.high
    for module, count in inside.items():
        assert abs(count - 0.95 * times) < 3 * math.sqrt(times * 0.05 * 0.95), module


def test_documents_widen_an_interval():
    values = losses_of(ONLY_ATTENTION, 4, np.random.default_rng(5))
    rng, weights = np.random.default_rng(6), np.full(20, 50.0)
    shared = {name: rng.normal(0, 0.3, 20) for name in KEPT.values()}
    for row in values.rows.itertuples():
        nll = row.value + shared[row.regime] - shared[row.regime].mean()
        values.items[row.regime, "web", row.seed] = (nll * weights, weights)
    planned = dict.fromkeys(KEPT.values(), 4)
    sums = {"nca": -1.0, "scratch": 1.0}
    with_items, without = Losses(values, "web", planned), Losses(values, "web", planned)
    without.items = {}
    wide, narrow = (one.estimate(sums, [0, 1, 2, 3]) for one in (with_items, without))
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_a_lost_run_takes_its_seed_and_an_added_seed_is_none_of_the_plan():
    values = losses_of(ONLY_ATTENTION, 5, np.random.default_rng(7))  # the study plans three seeds
    rows = values.rows[~((values.rows.regime == "nca-no-mlp") & (values.rows.seed == 1))]
    found = tables_of(Values(rows, "val_loss", 0.01))
    n = found["transfer"].set_index("regime").n
    assert n["nca-no-mlp"] == 2
    assert n["nca-no-attn"] == 3
    assert set(found["shapley"].n) == {2}
    one = tables_of(Values(rows[rows.seed == 0], "val_loss", 0.01))["transfer"]
    assert one.low.isna().all()
    assert one.share.isna().all()


def test_relabelling_the_sign_flips_everything():
    values = losses_of(ONLY_ATTENTION, 3, np.random.default_rng(8))
    flipped = Values(values.rows.assign(value=-values.rows.value), "val_loss", 0.01)
    a, b = (tables_of(v)["transfer"] for v in (values, flipped))
    assert list(a.effect) == pytest.approx(list(-b.effect))
    assert list(a.share) == pytest.approx(list(b.share))  # of a gap of the other sign
    shuffled = Values(values.rows.sample(frac=1, random_state=0), "val_loss", 0.01)
    pd.testing.assert_frame_equal(tables_of(shuffled)["transfer"], a)


def test_arms_of_the_field_keep_answer_both_questions():
    old = reinit_arms(NCA, {"web": 3})
    made = study(*old)
    asked = [(a.regime, a.question, a.graft.parts, a.against) for a in arms_of(made, "web")]
    assert asked[:2] == [
        ("nca-reinit-attn", "necessity", ("attn",), "nca"),
        ("nca-reinit-attn", "sufficiency", ("mlp", "norm"), "scratch"),
    ]
    assert complement(Graft(mode="keep", parts=("mlp",))).parts == ("attn", "norm")


def test_what_is_no_set_of_whole_modules_is_no_coalition():
    assert coalition(Graft(parts=("attn",))) == {"mlp", "norm"}
    assert coalition(Graft(mode="keep", parts=("attn",), instead="fresh")) == {"attn"}
    for graft in (
        Graft(parts=("qk",)),
        Graft(parts=("attn",), layers="lower"),
        Graft(heads="0.1"),
        Graft(parts=("attn",), instead="permuted"),
    ):
        assert coalition(graft) is None


def test_controls_and_layers_have_rows_and_no_shapley():
    arms = once(*control_arms(NCA, ("permuted",)), *layer_arms(NCA, 4, "keep"))
    rng = np.random.default_rng(9)
    names = ["scratch", "nca", *(a.name for a in arms)]
    rows = [(name, "web", seed, 3 - 0.3 * (name == "nca") + rng.normal(0, 0.01)) for name in names for seed in range(3)]
    found = tables_of(
        Values(pd.DataFrame(rows, columns=["regime", "domain", "seed", "value"]), "val_loss", 0.01), study(*arms)
    )
    rows = found["transfer"]
    assert list(rows[rows.regime == "nca-permuted-attn-mlp-norm"].question) == ["necessity", "sufficiency"]
    assert list(rows[rows["mode"] == "keep"].layers) == ["0", "1", "2", "3"]
    assert found["shapley"].empty


def test_a_study_without_arms_or_scratch_has_no_rows():
    assert tables_of(losses_of(NOTHING, 3, np.random.default_rng(0)), study())["transfer"].empty
    assert arms_of(study(Regime(name="x", label="x")), "web") == []
