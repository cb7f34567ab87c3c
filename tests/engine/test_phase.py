"""A phase diagram: which runs its cells share, what is on disk, which cell gets the next seed, what may change."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nca_interp import discover
from nca_interp.base import UserError
from nca_interp.config import Study
from nca_interp.engine.phase import PhaseState, check_budget, flops
from nca_interp.engine.phase_folder import claim, read_record, write_tables
from nca_interp.overrides import call_recipe, call_study, parse
from nca_interp.phase import Phase
from nca_interp.report.pages.phase import PhaseFolder
from nca_interp.store import StudyDir, write_record

SETTINGS = [
    "grid.models=['tiny', 'mini']", "grid.swaps=['small', 'crossed']", "grid.states=[2]", "grid.lrs=[1e-3]", "grid.synthetic_tokens=[4096]",
    "grid.language_tokens=4096", "grid.first_seeds=2", "grid.last_seed=5", "grid.budget=1e12",
]  # fmt: skip


def fp32(study: Study) -> str:
    return "fp32"


@pytest.fixture
def phase() -> Phase:
    found = call_recipe(discover.find("runs", "phase").value, SETTINGS)
    assert isinstance(found, Phase)
    return found


def train(folder: Path, study: str, run_id: str, loss: float | None, state: str = "done") -> None:
    """As if a run of four steps had ended."""
    run = StudyDir(folder / study).run(run_id)
    run.path.mkdir(parents=True, exist_ok=True)
    run.append_metrics({"step": 4, "loss": loss, "val_loss": loss})
    if state == "done":
        run.set_done(4)
    else:
        run.set_status(state, 2)


def regimes(phase: Phase, study: str) -> list[str]:
    return [r.name for r in phase.study(study).regimes]


def finish(phase: Phase, folder: Path, study: str, seed: int, losses: dict[str, float]) -> None:
    """One seed of every regime of a study whose name begins with a key of `losses`."""
    for name in regimes(phase, study):
        loss = next((value for key, value in losses.items() if name.startswith(key)), None)
        if loss is None:
            continue
        if name.startswith("nca"):
            parent = PhaseState(phase, folder, fp32).runs[study, f"pt.{name}.web.s{seed}"].job.payload.parent
            train(folder, study, parent, 1.0)
        train(folder, study, f"pt.{name}.web.s{seed}", loss)


def two_undecided_seeds(phase, folder):
    for seed, shift in enumerate((0.3, -0.31)):
        for study in ("tiny", "mini"):
            finish(
                phase,
                folder,
                study,
                seed,
                {"scratch": 4.0, "nca2-small": 4.0 + shift, "nca2-published": 4.2 + 2 * shift},
            )


def test_first_seeds_are_those_of_every_regime_and_shared_runs_stand_once(phase, tmp_path):
    state = PhaseState(phase, tmp_path, fp32)
    for study, plan in state.first():
        ids = [run.id for run in plan.runs]
        assert len(ids) == len(set(ids)) == 2 * (1 + 2 + 1)  # seeds x (synthetic + its two policies + scratch)
        assert {run.seed for run in plan.runs} == {0, 1}
        assert study.name in ("tiny", "mini")
    assert state.next(9) == []
    assert {one.wants(state.looks) for one in state.cells} == {"first seeds"}
    assert (state.spent, state.tokens) == (0, 0)


def test_seeds_go_to_doubt_for_its_cost_and_what_is_trained_costs_nothing(phase, tmp_path):
    for seed, shift in enumerate((0.3, -0.31)):
        for study in ("tiny", "mini"):
            finish(
                phase,
                tmp_path,
                study,
                seed,
                {"scratch": 4.0, "nca2-small": 4.0 + shift, "nca2-published": 5.0 + shift / 100},
            )
    state = PhaseState(phase, tmp_path, fp32)
    signs = {one.cell.name: one.standing.sign for one in state.cells}
    assert {name: sign for name, sign in signs.items() if ".crossed." in name} == dict.fromkeys(
        [n for n in signs if ".crossed." in n], "harms"
    )
    chosen = state.next(2)
    assert [one.cell.study for one in chosen] == [
        "tiny"
    ]  # the same doubt at less cost; mini comes in a round of its own
    assert ".small." in chosen[0].cell.name
    study, plan = state.round(chosen)
    assert {run.seed for run in plan.runs} == {2}
    assert {run.stage for run in plan.runs} == {"ppt", "pt"}
    assert flops(plan) == pytest.approx(chosen[0].cost)
    train(tmp_path, "tiny", plan.runs[0].id, 1.0)
    again = PhaseState(phase, tmp_path, fp32)
    now = next(one for one in again.cells if one.cell == chosen[0].cell)
    done = next(job for job in plan.jobs if getattr(job.payload, "id", None) == plan.runs[0].id)
    assert now.cost == pytest.approx(chosen[0].cost - done.flops)
    assert again.spent == pytest.approx(state.spent + done.flops)


def test_a_seed_that_was_begun_comes_first_and_a_lost_run_ends_its_cell(phase, tmp_path):
    two_undecided_seeds(phase, tmp_path)
    train(tmp_path, "mini", f"pt.{regimes(phase, 'mini')[0]}.web.s2", None, state="stopped")
    assert PhaseState(phase, tmp_path, fp32).next(1)[0].cell.study == "mini"
    small = next(name for name in regimes(phase, "mini") if name.startswith("nca2-small"))
    train(tmp_path, "mini", f"pt.{small}.web.s2", None, state="diverged")
    state = PhaseState(phase, tmp_path, fp32)
    lost = next(one for one in state.cells if one.cell.treated == small and one.cell.study == "mini")
    assert lost.wants(state.looks) == "lost"
    assert lost.lost == f"pt.{small}.web.s2 diverged"
    assert lost.cell.name not in {one.cell.name for one in state.next(9)}
    table = write_tables_of(phase, tmp_path)
    assert table.set_index("cell").state[lost.cell.name] == "lost"


def write_tables_of(phase: Phase, folder: Path) -> pd.DataFrame:
    write_record(
        folder / "phase.json",
        {"phase": phase.model_dump(mode="json"), "provenance": {"command": "x", "created": "2026-01-01"}},
    )
    return write_tables(PhaseState(phase, folder, fp32))


def test_the_budget_ends_it_and_more_of_it_goes_on(phase, tmp_path):
    two_undecided_seeds(phase, tmp_path)
    spent = PhaseState(phase, tmp_path, fp32).spent
    assert PhaseState(phase.model_copy(update={"budget": spent}), tmp_path, fp32).next(9) == []
    assert PhaseState(phase.model_copy(update={"budget": 10 * spent}), tmp_path, fp32).next(9) != []
    with pytest.raises(
        UserError, match=r"budget: 1e\+09 FLOPs; the first 2 seeds of 4 cells need .*; legal: that and more"
    ):
        check_budget(phase.model_copy(update={"budget": 1e9}), fp32)


def test_the_page_shows_every_cell_and_what_is_uncertain(phase, tmp_path):
    for seed, shift in enumerate((0.3, -0.31)):
        finish(
            phase,
            tmp_path,
            "tiny",
            seed,
            {"scratch": 4.0, "nca2-small": 4.0 + shift, "nca2-published": 5.0 + shift / 100},
        )
    table = write_tables_of(phase, tmp_path)
    assert list(table.cell) == [cell.name for cell in phase.cells]
    source = PhaseFolder(tmp_path)
    assert len(source.cells()) == 4
    page = source.build().read_text()
    assert "fig-phase" in page
    assert "uncertain" in page
    seeds = pd.read_csv(tmp_path / "tables" / "seeds.csv")
    assert dict(seeds.groupby("cell").size()) == {c: 2 for c in table.cell if c.startswith("tiny")}
    assert seeds[seeds.cell.str.contains("small")].difference.round(6).tolist() == [0.3, -0.31]


def test_only_budget_and_title_of_a_phase_that_has_begun_may_change(phase, tmp_path):
    made = {"command": "x", "created": "2026-01-01"}
    claim(tmp_path / "p", phase, made)
    claim(tmp_path / "p", phase.model_copy(update={"budget": 2e12, "title": "other"}), made)
    assert read_record(tmp_path / "p")["phase"]["budget"] == 2e12
    with pytest.raises(UserError, match=r"first_seeds: there 2, asked for 3"):
        claim(tmp_path / "p", phase.model_copy(update={"first_seeds": 3}), made)
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="not empty and no phase diagram"):
        claim(tmp_path / "q", phase, made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_seeds": 6}, r"first_seeds: 6; legal: 2 to 5"),
        ({"domain": "wab"}, "unknown domain 'wab'; did you mean 'web'"),
        ({"factors": ["model", "swap", "n", "learning rate", "synthetic tokens"]}, "factors: 'n' is a column of the table already"),
        ({"factors": ["model"]}, "levels: 5; legal: one for each of the factors"),
        ({"cells": []}, "cells: at least one is needed"),
    ],
)  # fmt: skip
def test_a_phase_that_cannot_be_is_refused(phase, change, message):
    with pytest.raises((UserError, ValueError), match=message):
        parse(Phase, {**phase.model_dump(mode="json"), **change})


def test_cells_name_what_there_is(phase):
    data = phase.model_dump(mode="json")
    data["cells"][0]["treated"] = "nca2-smal"
    with pytest.raises(UserError, match="unknown regime 'nca2-smal'"):
        parse(Phase, data)
    with pytest.raises(UserError, match=r"lrs: \[\]; legal: at least one level, each once"):
        call_recipe(discover.find("runs", "phase").value, ["grid.lrs=[]"])
    with pytest.raises(UserError, match="recipe 'phase' is a phase diagram of several studies"):
        call_study(discover.find("runs", "phase").value, [])
