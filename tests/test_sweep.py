"""Arms of a sweep: what they are made of, and what is refused."""

from __future__ import annotations

import pytest

from nca_interp import discover
from nca_interp.analysis.sweep.arms import arms_of, second_axis
from nca_interp.base import UserError
from nca_interp.config import Regime
from nca_interp.data.specs import DyckSpec, NcaSpec
from nca_interp.swap_policy import SwapPolicy
from nca_interp.sweep import band_of, sweep_arms

SPEC = NcaSpec(grid=8, n_states=2, tau=1e-4)
NCA = Regime(name="nca", label="NCA", source=SPEC.model_copy(update={"band": band_of(SPEC, (0.6, 0.8))}))
LEVELS = {"low": (0.2, 0.4), "high": (0.6, 0.8)}


def test_every_combination_is_an_arm_and_the_regime_s_own_is_not_trained_twice():
    arms = sweep_arms(NCA, levels=LEVELS, n_states=(2, 3), dt=(1, 4), runs={"web": 2})
    assert [a.name for a in arms] == [
        "nca-2-low", "nca-2-low-dt4", "nca-2-high-dt4", "nca-3-low", "nca-3-low-dt4", "nca-3-high", "nca-3-high-dt4",
    ]  # fmt: skip
    assert {(a.role, str(a.runs)) for a in arms} == {("complexity", "{'web': 2}")}
    assert len({str(a.source) for a in (*arms, NCA)}) == 8


def test_arms_swap_as_their_regime_does():
    published = NCA.model_copy(update={"swap": SwapPolicy(embed_std=1.0)})
    assert {arm.swap for arm in sweep_arms(published, levels=LEVELS, n_states=(2, 3))} == {published.swap}


def test_the_second_axis_is_crossed_with_every_level():
    arms = sweep_arms(NCA, levels=LEVELS, crossed=("damage", {"calm": (0, 0.3), "wild": (0.6, 2)}))
    assert [(a.name, a.source.where) for a in arms][:2] == [
        ("nca-2-low-calm", {"damage": (0, 0.3)}), ("nca-2-low-wild", {"damage": (0.6, 2)}),
    ]  # fmt: skip
    assert len(arms) == 4
    assert second_axis(list(arms)) == "damage"
    assert second_axis([NCA]) == "activity"


def test_bands_are_shares_of_the_reach_of_each_alphabet():
    for n in (2, 4, 10):
        spec = SPEC.model_copy(update={"n_states": n})
        edges = [band_of(spec, (i / 4, (i + 1) / 4)) for i in range(4)]
        assert [a[1] for a in edges[:-1]] == [b[0] for b in edges[1:]]
        assert edges[0][0] == 0
        assert edges[-1][1] > 0.5
    assert band_of(SPEC, (0, 1))[1] < band_of(SPEC.model_copy(update={"n_states": 4}), (0, 1))[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": {"odd": (0.5, 1.2)}}, r"levels.odd: \(0.5, 1.2\); legal: shares of the reach"),
        ({"levels": {"odd": (0.5, 0.5)}}, "legal: shares of the reach"),
        ({"crossed": ("damages", {})}, "unknown measure 'damages'; did you mean 'damage'"),
        ({"levels": {"l" * 40: (0.1, 0.2)}}, "at most 40; use shorter names"),
        ({"regime": Regime(name="dyck", label="Dyck", source=DyckSpec())}, "regime 'dyck' has no automata"),
    ],
)
def test_what_cannot_be_an_arm_is_refused(change, message):
    given = {"regime": NCA, "levels": LEVELS} | change
    with pytest.raises(UserError, match=message):
        sweep_arms(given.pop("regime"), **given)


def test_the_recipe_has_arms_on_both_sides_of_every_corpus():
    study = discover.find("runs", "sweep").value()
    arms = arms_of(study)
    assert len(arms) == 16
    assert {a.source.n_states for a in arms} == {2, 4}
    assert {a.source.dt for a in arms} == {1, 2}
    assert len({tuple(a.source.where.values()) for a in arms}) == 3
    assert len(study.domains) == 3
