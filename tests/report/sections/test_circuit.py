"""A head drawn on the grids it reads, from a planted pattern; the rise of scores over the synthetic stage."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from nca_interp.analysis.stimuli.base import Frame
from nca_interp.analysis.stimuli.geometry import stencil
from nca_interp.data.nca.rules import frames_to_tokens, tokens_to_frames
from nca_interp.data.specs import NcaSpec
from nca_interp.report.sections import circuit
from nca_interp.report.tables import Exhibit, Tables

SPECS = [
    NcaSpec(grid=8, n_states=2),
    NcaSpec(grid=6, n_states=3, patch=3),
    NcaSpec(grid=6, n_states=4, patch=1, dt=2, band=None),
]


def exhibit(spec: NcaSpec, frames: int) -> Exhibit:
    rng = np.random.default_rng(0)
    tokens = frames_to_tokens(spec, rng.integers(0, spec.n_states, (1, frames, spec.grid, spec.grid)).astype(np.uint8))[
        0
    ]
    length, side = len(tokens), spec.grid // spec.patch
    true = stencil(Frame(side, side, 0, reach=-(-spec.dt // spec.patch)), length)
    pattern = true / np.maximum(1, true.sum(1, keepdims=True))
    names = {spec.vocab_size - 2: "<grid>", spec.vocab_size - 1: "</grid>"}
    entry = {
        "run": "ppt.nca.s0",
        "regime": "nca",
        "domain": None,
        "seed": 0,
        "stage": "ppt",
        "step": 9,
        "shown": "its own data",
    }
    labels = [names.get(int(t), str(int(t))) for t in tokens]
    return Exhibit(entry | {"tokens": labels}, np.zeros((2, 2, 4, 4)), {(1, 0): pattern})


def stage(spec: NcaSpec, shown: Exhibit) -> SimpleNamespace:
    rows = [
        {"run": "ppt.nca.s0", "step": 9, "probe": "nca_stencil", "layer": layer, "head": 0.0, "value": value}
        for layer, value in ((0, 0.1), (1, 0.9))
    ]
    study = {"regimes": [{"name": "nca", "source": spec.model_dump(mode="json")}]}
    return SimpleNamespace(
        exhibits=[shown], study=study, probes=pd.DataFrame(rows), collection=None, domain_label=lambda name: name
    )


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.grid}x{s.patch}x{s.dt}")
def test_a_head_that_reads_the_causes_is_drawn_on_them_alone(spec):
    shown = exhibit(spec, frames=4)
    figure = circuit.at_work(stage(spec, shown))[0]
    assert "layer 1 head 0" in figure.finding.lower()
    assert "100 % of the attention" in figure.finding
    rows = figure.data
    side = spec.grid // spec.patch
    assert rows["query"].nunique() == side * side
    assert set(rows[rows.attention > 0].part) == {"cause"}
    assert set(rows[rows.part == "cause"].frame) == {2}
    assert (rows[rows.part == "cause"].groupby("query").attention.sum().round(6) == 1).all()
    asked = rows[rows.part == "predicted"].set_index("query")
    assert (asked.top // spec.patch * side + asked.left // spec.patch == asked.index).all()


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.grid}x{s.patch}x{s.dt}")
def test_cells_are_those_of_the_tokens(spec):
    ids = circuit._ids(exhibit(spec, frames=3), spec.model_dump(mode="json"))
    frames, side = tokens_to_frames(spec, np.array(ids)), spec.grid // spec.patch
    for number, cells in enumerate(frames):
        start = number * spec.tokens_per_frame + 1
        drawn = circuit._cells(ids[start : start + side * side], side, spec.patch, spec.n_states)
        np.testing.assert_array_equal(drawn, cells)


def test_without_a_stencil_head_or_a_whole_frame_nothing_is_drawn():
    spec = SPECS[0]
    one = exhibit(spec, frames=1)
    assert circuit.at_work(stage(spec, one)) == []
    language = exhibit(spec, frames=3)
    language.entry["stage"] = "pt"
    assert circuit.at_work(stage(spec, language)) == []


def test_the_highest_head_of_each_checkpoint_is_drawn(study):
    tables = Tables(study)
    figure = circuit.phases(tables)[0]
    rows = tables.probes[(tables.probes.stage == "ppt") & tables.probes["head"].notna()]
    highest = rows[rows.probe == "induction"].groupby(["run", "step"]).value.max()
    drawn = figure.data[figure.data.probe == "induction"].set_index(["run", "step"]).value
    finished = highest[highest.index.get_level_values("run").isin(tables.finished)]
    pd.testing.assert_series_equal(drawn.sort_index(), finished.sort_index(), check_names=False, check_index_type=False)
