"""The section on what carries the transfer says what its tables say; the forest has every comparison, the primary one first."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_study import write_study

from nca_interp.analysis.verdicts.contrasts import Values
from nca_interp.arms import control_arms, layer_arms, once, shapley_arms
from nca_interp.report.page import Figure, Note, Table
from nca_interp.report.sections.carriers import all_contrasts, carriers
from nca_interp.report.tables import Tables
from tests.analysis.verdicts.test_shares import tables_of
from tests.test_arms import NCA, study

ARMS = once(*shapley_arms(NCA), *control_arms(NCA, ("permuted",)), *layer_arms(NCA, 4))


def values(gap: float) -> Values:
    """Attention carries all of a gap; single layers a quarter each; permuted weights nothing."""
    rng, rows = np.random.default_rng(0), []
    for seed in range(3):
        level = 3 + rng.normal(0, 0.02)
        for regime in study(*ARMS).regimes:
            graft = regime.graft
            kept = 1.0 if regime.source else 0.0
            if "attn" in graft.parts:
                kept = 1.0 if graft.mode == "keep" else (0.75 if graft.layers != "all" else 0.0)
            elif graft.mode == "keep":
                kept = 0.0
            rows.append((regime.name, "web", seed, level - gap * kept + rng.normal(0, 0.002)))
    return Values(pd.DataFrame(rows, columns=["regime", "domain", "seed", "value"]), "val_loss", 0.01)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_study(tmp_path_factory.mktemp("base") / "study")


def tables(base: Path, path: Path, gap: float) -> Tables:
    folder = shutil.copytree(base, path)
    for name, frame in tables_of(values(gap), study(*ARMS)).items():
        if name != "contrasts":
            frame.to_csv(folder / "tables" / f"{name}.csv", index=False)
    return Tables(folder)


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory) -> Tables:
    return tables(base, tmp_path_factory.mktemp("whole") / "study", 0.4)


def test_the_matrix_has_every_part_and_layer_and_names_what_is_needed(whole: Tables):
    figure, shapley, numbers, arms, controls = carriers(whole)
    assert isinstance(figure, Figure)
    assert [c.title.split(",")[0] for c in figure.charts] == [
        "Necessity: what is lost without it", "Sufficiency: what it alone brings",
    ]  # fmt: skip
    assert len(figure.data) == 6 + 4
    assert set(figure.data.layers) == {"all", "0", "1", "2", "3"}
    assert "needed: attention, " in figure.finding
    assert "alone carries some: attention." in figure.finding
    assert isinstance(shapley, Figure)
    assert len(shapley.data) == 6 * 3  # the seeds behind every mean
    assert "attention +0.4" in shapley.finding
    assert isinstance(numbers, Table)
    assert [row[2] for row in numbers.rows] == [
        "share: attn", "share: mlp", "share: norm", "interaction: attn x mlp", "interaction: attn x norm", "interaction: mlp x norm",
    ]  # fmt: skip
    assert isinstance(arms, Table)
    assert len(arms.rows) == 6 + 4
    assert isinstance(controls, Table)
    assert [row[2] for row in controls.rows] == ["necessity", "sufficiency"]
    assert controls.rows[0][-1] == "needed"


def test_without_a_gap_there_are_nats_and_no_shares(base: Path, tmp_path: Path):
    note, figure, *rest = carriers(tables(base, tmp_path / "study", 0.0))
    assert isinstance(note, Note)
    assert note.text.startswith("No transfer to explain where the interval of the gap to scratch holds zero")
    assert isinstance(figure, Figure)
    assert "no part is shown to be needed; none is shown to carry some alone" in figure.finding
    assert figure.data.share.isna().all()
    assert all("%" not in cell for item in rest if isinstance(item, Table) for row in item.rows for cell in row[6:8])


def test_a_study_without_arms_has_no_such_items(base: Path):
    assert carriers(Tables(base)) == []


def test_the_forest_has_every_comparison_of_losses_the_primary_first(whole: Tables):
    (figure,) = all_contrasts(whole)
    assert isinstance(figure, Figure)
    losses = whole.contrasts[whole.contrasts.metric == "val_loss"]
    assert len(figure.data) == len(losses)
    assert figure.finding.startswith("No comparison was declared primary")
    assert sum(len(chart.spec.to_dict()["layer"]) > 0 for chart in figure.charts) == len(whole.domains)


def test_a_declared_primary_comparison_comes_first(base: Path, tmp_path: Path):
    folder = shutil.copytree(base, tmp_path / "study")
    path = folder / "tables" / "contrasts.csv"
    frame = pd.read_csv(path)
    loss = frame[frame.metric == "val_loss"]
    frame["primary"] = frame.index == loss.index[-1]
    frame.to_csv(path, index=False)
    (figure,) = all_contrasts(Tables(folder))
    assert figure.data.primary.iloc[0]
    assert figure.finding.startswith("The primary comparison: ")
