"""Planted answers: a model with known heads, and attention built to fit each definition exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nca_interp import discover
from nca_interp.analysis.attention import Attention
from nca_interp.analysis.engine import analyze
from nca_interp.analysis.geometry import controls, patch_of_target, stencil
from nca_interp.analysis.stimuli import Frame
from tests.analysis.models import attention_of, batch_of, planted_gpt2


@pytest.fixture(scope="module")
def probes():
    return {name: d.value for name, d in discover.load("probes").items()}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    frame = analyze(planted_gpt2(tmp_path_factory.mktemp("planted")))
    assert frame.attrs["problems"] == []
    return {(r.probe, r.layer, r.head): r for r in frame.dropna(subset=["head"]).itertuples()}, frame


def test_planted_heads_score_one_and_the_others_chance(planted):
    heads, _ = planted
    assert heads["previous_token", 0, 0].value == pytest.approx(1.0, abs=1e-4)
    assert heads["induction", 1, 0].value == pytest.approx(1.0, abs=1e-4)
    assert heads["induction", 1, 1].value == pytest.approx(1.0, abs=1e-4)
    for probe in ("previous_token", "induction", "duplicate_token", "self_attention", "first_token"):
        assert heads[probe, 0, 1].value == pytest.approx(heads[probe, 0, 1].chance, abs=1e-6)
    assert heads["induction", 0, 0].value < 1e-4
    assert heads["duplicate_token", 1, 0].value < 1e-4


def test_copying_and_anti_copying_heads(planted):
    heads, frame = planted
    assert heads["copying", 1, 0].value == pytest.approx(1.0, abs=1e-3)
    assert heads["copying", 1, 1].value == pytest.approx(-1.0, abs=1e-3)
    period = 19
    assert heads["copying", 0, 1].chance == pytest.approx(2 / (period + 1) - 1)
    gain = frame[frame.probe == "repeated_token_gain"].iloc[0]
    assert gain.value > 0.5
    assert gain.unit == f"nats per token, period {period}"


def test_attention_built_for_a_definition_scores_one(probes):
    period, length = 8, 16
    tokens = np.tile(np.arange(period), (2, 2))
    for name, back in {
        "induction": period - 1,
        "duplicate_token": period,
        "previous_token": 1,
        "self_attention": 0,
    }.items():
        pattern = torch.zeros(2, 1, length, length)
        for q in range(length):
            pattern[:, :, q, max(q - back, 0)] = 1.0
        score = probes[name].function(attention_of(pattern, batch_of(tokens, period=period, repeats=2)))
        torch.testing.assert_close(score, torch.ones(2, 1), atol=1e-6, rtol=0, msg=name)
    sink = torch.zeros(2, 1, length, length)
    sink[..., 0] = 1.0
    view = attention_of(sink, batch_of(tokens, period=period, repeats=2))
    assert probes["first_token"].function(view).tolist() == [[1.0], [1.0]]
    assert probes["entropy"].function(view).abs().max() < 1e-5
    torch.testing.assert_close(probes["distance"].function(view), torch.full((2, 1), 2.0))


def test_every_attention_probe_on_uniform_attention_has_its_closed_form(probes):
    period, length = 30, 60
    q = np.arange(length)
    late = q >= period
    repeated = batch_of(np.tile(np.arange(period), (2, 2)), period=period, repeats=2)
    frame = Frame(4, 4)
    frames = batch_of(np.zeros((2, 72), dtype=np.int64), frame=frame)
    grid, _, _, is_patch = patch_of_target(frame, 72)
    causes = (is_patch & (grid >= 1)).nonzero()[0]
    expected = {
        "induction": (1 / (q[late] + 1)).mean(), "duplicate_token": (1 / (q[late] + 1)).mean(),
        "previous_token": (1 / (q[1:] + 1)).mean(), "self_attention": (1 / (q + 1)).mean(),
        "first_token": (1 / (q + 1)).mean(), "entropy": 1.0, "distance": 1.0,
        "nca_grid_time": (1 / (causes + 1)).mean(), "nca_stencil": (9 / (causes + 1)).mean(), "nca_stencil_excess": 0.0,
    }  # fmt: skip
    attention = {name for name, p in probes.items() if p.reads == "attention"}
    assert attention == set(expected)
    for name, value in expected.items():
        view = Attention.uniform(frames if name.startswith("nca") else repeated)
        assert probes[name].function(view).numpy() == pytest.approx(np.full((2, 1), value), abs=1e-5), name


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (4, 4), (3, 5)])
def test_stencil_offsets_by_brute_force(rows, columns):
    frame = Frame(rows, columns)
    length = 4 * frame.tokens
    place = {
        (t, r, c): t * frame.tokens + 1 + columns * r + c for t in range(4) for r in range(rows) for c in range(columns)
    }
    expected = np.zeros((length, length), dtype=bool)
    for (t, r, c), p in place.items():
        if t >= 1:
            for (_, r2, c2), k in ((key, k) for key, k in place.items() if key[0] == t - 1):
                near = min((r - r2) % rows, (r2 - r) % rows) <= 1 and min((c - c2) % columns, (c2 - c) % columns) <= 1
                expected[p - 1, k] |= near
    found = stencil(frame, length)
    assert np.array_equal(found, expected)
    assert not np.triu(found, 1).any(), "a cause after its effect"
    assert set(found.sum(1)) == {0, min(rows, 3) * min(columns, 3)}
    if (rows, columns) == (6, 6):  # metrics.md, section 8: offset from q, all four wraps
        offsets = np.arange(length)[:, None] - np.arange(length)
        for q in np.flatnonzero(found.any(1)):
            inside = (q + 1) % 38 - 1
            r, c = divmod(int(inside), 6)
            listed = {37 - 6 * ((r + dr) % 6 - r) - ((c + dc) % 6 - c) for dr in (-1, 0, 1) for dc in (-1, 0, 1)}
            assert set(offsets[q][found[q]]) == listed


def test_stencil_excess_is_spatial_not_recency(probes):
    frame, length = Frame(6, 6), 3 * 38
    true = stencil(frame, length)
    stimulus = batch_of(np.zeros((1, length), dtype=np.int64), frame=frame)

    def view(keys):
        pattern = torch.from_numpy(keys).float()
        pattern[~keys.any(1), 0] = 1.0
        return attention_of((pattern / pattern.sum(1, keepdim=True))[None, None], stimulus)

    excess = probes["nca_stencil_excess"].function
    assert excess(view(true)).item() == pytest.approx(1.0, abs=1e-5)
    assert probes["nca_stencil"].function(view(true)).item() == pytest.approx(1.0, abs=1e-5)
    for other in controls(frame, length):
        assert excess(view(other)).item() < 0.01
    whole = true.copy()
    for q in np.flatnonzero(true.any(1)):
        t = (q + 1) // 38
        whole[q, (t - 1) * 38 + 1 : (t - 1) * 38 + 37] = True  # recency alone: the whole previous grid
    # a quarter of the mass lies on the stencil; half of the controls' mean is in the previous grid too
    assert excess(view(whole)).item() == pytest.approx(0.25 - 0.125, abs=1e-5)
    grid_time = np.zeros_like(true)
    queries = np.flatnonzero(true.any(1))
    grid_time[queries, queries - 37] = True
    assert probes["nca_grid_time"].function(view(grid_time)).item() == pytest.approx(1.0, abs=1e-5)


def test_loss_probes_on_known_losses(probes):
    tokens = np.tile(np.arange(10), (3, 2))
    stimulus = batch_of(tokens, period=10, repeats=2)
    nll = torch.full((3, 19), 4.0)
    nll[:, 10:] = 1.5
    assert probes["repeated_token_gain"].function(nll, stimulus).tolist() == [2.5, 2.5, 2.5]
    assert probes["repeated_token_gain"].function(torch.full((3, 19), 4.0), stimulus).tolist() == [0, 0, 0]
    position = torch.arange(512.0).expand(3, 512)
    natural = batch_of(np.zeros((3, 512), dtype=np.int64))
    assert probes["in_context_learning"].function(position, natural).tolist() == [500 - 51] * 3


def test_definitions_say_what_they_measure(probes):
    assert len(probes) >= 13
    for name, probe in probes.items():
        assert len(probe.doc.splitlines()) >= 4, name
        assert "hance" in probe.doc or "0" in probe.doc, name
