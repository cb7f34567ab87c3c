"""The player's figure from tables: planted heads, what is missing, large models, files of another version."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_player import (
    HEADS,
    LAYERS,
    SHARES,
    STEPS,
    entry,
    followers,
    grid_sequence,
    planted,
    text_sequence,
    write_player,
)

from nca_interp.analysis.stimuli.base import Frame
from nca_interp.analysis.stimuli.geometry import stencil
from nca_interp.base import UserError
from nca_interp.codes import attention_bytes, triangle
from nca_interp.report.page import Figure, Note
from nca_interp.report.player_data import MAP_BYTES, Shown, causes, focus, targets
from nca_interp.report.player_widget import BUDGET
from nca_interp.report.sections.player import player

PROBES = ["run", "regime", "seed", "stage", "step", "tokens", "probe", "layer", "head", "value"]
EMPTY = {
    "metrics": ["run", "step", "tokens", "val_loss"], "inference": ["run", "step", "rules", "predictor", "quantity", "frame", "value"],
    "step_effects": ["run", "regime", "stage", "step", "tokens", "layer", "head", "metric", "value", "low", "high", "n"],
    "causes": ["run", "probe", "metric", "step", "layer", "head", "value", "n"],
}  # fmt: skip


def tables(folder: Path, rows: list[dict[str, Any]], collection: bool = False, **frames: pd.DataFrame) -> Any:
    """Tables as the section reads them; `rows` of probes."""
    probes = pd.DataFrame(rows, columns=PROBES)
    runs = pd.DataFrame([{"run": "ppt.nca.s0", "tokens": 512 * 4096.0}])
    empty = {name: pd.DataFrame(columns=columns) for name, columns in EMPTY.items()}
    return SimpleNamespace(
        dir=SimpleNamespace(tables=folder, analyze=lambda: "nca-interp analyze X"), collection={} if collection else None, probes=probes,
        runs=runs, main=["scratch", "nca"], label=lambda r: r, names={}, **{**empty, **frames},
    )  # fmt: skip


def scores(
    run: str, steps: list[int], layers: int, heads: int, probe: str = "induction", best: tuple[int, int] = (1, 2)
) -> list[dict[str, Any]]:
    return [
        {"run": run, "regime": "nca", "seed": 0, "stage": "ppt", "step": step, "tokens": step, "probe": probe, "layer": layer, "head": head, "value": 0.9 if (layer, head) == best else 0.1}
        for step in steps for layer in range(layers) for head in range(heads)
    ]  # fmt: skip


@pytest.mark.parametrize(("side", "reach"), [(4, 1), (3, 1), (6, 2), (2, 1)])
def test_the_causes_are_those_of_the_stencil(side: int, reach: int):
    said = {"rows": side, "columns": side, "reach": reach}
    width, true = side * side + 2, stencil(Frame(side, side, 0, reach=reach), 2 * (side * side + 2))
    for patch in range(side * side):
        assert {1 + p for p in causes(said, patch)} == set(np.flatnonzero(true[width + patch]))


def test_the_targets_of_a_query_are_the_stencil_and_what_followed_earlier():
    grid, text = grid_sequence(), text_sequence()
    assert (targets(grid) == stencil(Frame(4, 4), len(grid["tokens"]))).all()
    for query, keys in enumerate(targets(text)):
        assert set(np.flatnonzero(keys)) == followers(text["tokens"], query)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.77, 1.0])
def test_a_share_of_attention_is_within_two_hundredths_of_what_was_planted(share: float):
    """m keys of weight S / m each: at most (2 / 510) sqrt(m S) off, for all are rounded alike."""
    for sequence, place in ((grid_sequence(), 1 * 4 + 2), (text_sequence(), 2 * 4 + 1)):
        maps = planted(sequence, share)
        exact = (maps[place] * targets(sequence)).sum(1)
        found = focus(attention_bytes(triangle(maps)), sequence)[place]
        assert np.abs(found - exact).max() <= 2 / 510 * np.sqrt(targets(sequence).sum(1).max()) + 1e-4


def test_the_finding_names_the_planted_head(tmp_path: Path):
    write_player(
        tmp_path,
        [
            ("ppt.nca.s0", "nca", "ppt", None),
            ("pt.nca.web.s0", "nca", "pt", "ppt.nca.s0"),
            ("pt.scratch.web.s0", "scratch", "pt", None),
        ],
    )
    known = tables(tmp_path, scores("ppt.nca.s0", list(STEPS["ppt"]), LAYERS, HEADS))
    figure = player(known)[0]
    assert isinstance(figure, Figure)
    assert figure.finding.startswith("About to write frame 2, layer 1 head 2 of nca puts 95 % of its attention")
    assert figure.widget
    data = figure.widget.data
    assert [m["name"] for m in data["models"]] == ["nca", "scratch"]
    assert data["initial"] == [0, 1]
    stage = data["models"][0]["stages"][0]
    assert stage["clock"] == [-512 * 4096.0, -256 * 4096.0, 0.0]
    assert len(stage["patterns"]) == LAYERS * HEADS
    assert Shown(known).ranked[0] == (1, 2)
    assert len(figure.data) == sum(len(SHARES[s]) for s in ("ppt", "pt", "pt"))


def test_without_data_a_sentence_says_what_to_run(tmp_path: Path):
    note = player(tables(tmp_path, []))[0]
    assert isinstance(note, Note)
    assert note.absent
    assert "nca-interp analyze X --only player" in note.text


def test_a_model_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path):
    write_player(tmp_path, [("ppt.nca.s0", "nca", "ppt", None)])
    listing = json.loads((tmp_path / "player.json").read_text())
    listing["runs"][0] |= {"steps": [], "tokens": [], "note": "its attention cannot be read"}
    (tmp_path / "player.json").write_text(json.dumps(listing))
    note = player(tables(tmp_path, []))[0]
    assert isinstance(note, Note)
    assert "ppt.nca.s0: its attention cannot be read" in note.text


def _spoil(folder: Path, how: str) -> None:
    listing = json.loads((folder / "player.json").read_text())
    if how == "version":
        listing["version"] = 9
    elif how == "field":
        del listing["runs"][0]["heads"]
    elif how == "arrays":
        listing["runs"][0]["key"] = "r9"
    elif how == "steps":
        listing["runs"][0]["steps"].append(900)
    (folder / "player.json").write_text(json.dumps(listing))
    if how == "npz":
        (folder / "player.npz").write_bytes(b"no archive")


@pytest.mark.parametrize("how", ["version", "field", "arrays", "steps", "npz"])
def test_files_of_another_version_or_damaged_are_named(tmp_path: Path, how: str):
    write_player(tmp_path, [("ppt.nca.s0", "nca", "ppt", None)])
    _spoil(tmp_path, how)
    with pytest.raises(UserError, match=r"player\.(json|npz).*written again by"):
        player(tables(tmp_path, []))


@pytest.mark.parametrize("stage", ["pt", ""])
def test_one_language_model_has_a_text_and_no_partner(tmp_path: Path, stage: str):
    write_player(tmp_path, [("gpt", "gpt", stage, None)])
    figure = player(tables(tmp_path, scores("gpt", [1024], LAYERS, HEADS), collection=stage == ""))[0]
    assert isinstance(figure, Figure)
    assert figure.widget
    assert figure.widget.data["initial"] == [0]
    assert figure.widget.data["models"][0]["stages"][0]["sequence"]["kind"] == "text"
    assert "torus" not in figure.encoding
    assert figure.finding.startswith("Where a token stood before, layer 2 head 1 of gpt puts 9")


def test_a_large_model_over_many_checkpoints_stays_in_the_budget_and_says_what_is_left_out(tmp_path: Path):
    steps, layers, heads, n = list(range(0, 6000, 100)), 24, 32, 40
    rng, entries, stored = np.random.default_rng(0), [], {}
    for number in range(2):
        one = entry(f"r{number}", f"m{number}", f"m{number}", "", None, text_sequence(n), dict.fromkeys(steps, 0))
        chosen = [[k % layers, k] for k in range(32)]
        entries.append(one | {"tokens": steps, "shape": [layers, heads], "heads": chosen})
        weights = rng.dirichlet(np.full(n * (n + 1) // 2, 0.05), (len(steps), 32)) * n
        shares = np.zeros((len(steps), n - 1, 3), np.uint8)
        empty = np.zeros((len(steps), 0, 0, 0), np.uint8)
        stored |= {
            f"r{number}-attention": attention_bytes(weights), f"r{number}-truth": shares[..., 0], f"r{number}-top": shares.astype(np.int32),
            f"r{number}-sure": shares, f"r{number}-cells": empty, f"r{number}-cells_sure": empty,
        }  # fmt: skip
    np.savez_compressed(tmp_path / "player.npz", **stored)  # type: ignore[arg-type]
    left = [f"model {k}" for k in range(58)]
    (tmp_path / "player.json").write_text(json.dumps({"version": 1, "runs": entries, "left_out": left}))
    rows = [
        row
        for run in ("m0", "m1")
        for probe in ("induction", "entropy")
        for row in scores(run, steps, layers, heads, probe, (2, 2))
    ]
    known = tables(tmp_path, rows, collection=True)
    shown = Shown(known)
    assert sum(len(shown.mapped) * shown.map_steps * layers * heads for _ in shown.stages) <= 2 * MAP_BYTES
    figure = player(known)[0]
    assert isinstance(figure, Figure)
    assert figure.widget
    notes = " ".join(figure.widget.data["notes"])
    assert len(json.dumps(figure.widget.data, separators=(",", ":"))) <= BUDGET
    assert "and 52 more" in notes
    assert "of 768" in notes
    assert "nearest earlier one" in notes
