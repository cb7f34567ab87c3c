"""Planted answers: a model with known heads, and attention built to fit each definition exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nca_interp import discover
from nca_interp.analysis.attention.heads import Heads
from nca_interp.analysis.attention.view import Attention
from nca_interp.analysis.probing.engine import analyze
from nca_interp.analysis.stimuli.base import Frame, Subject
from nca_interp.analysis.stimuli.geometry import controls, patch_of_target, stencil
from nca_interp.analysis.stimuli.streams import nca_frames, openers
from nca_interp.data.nca.rows import Search, nca_rows
from nca_interp.data.nca.rules import initial_cells, make_rules, rule_keys, simulate, tokens_to_frames, trajectory_keys
from nca_interp.data.specs import NcaSpec
from tests.analysis.models import (
    TOKENS,
    attention_of,
    batch_of,
    letter_tokenizer,
    planted_gpt2,
    random_patterns,
)


@pytest.fixture(scope="module")
def probes():
    return {name: d.value for name, d in discover.load("probes").items()}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    directory = planted_gpt2(tmp_path_factory.mktemp("planted"))
    frame = analyze(letter_tokenizer(directory, TOKENS - 1, {"<bos>": TOKENS - 1}))
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
    for repeat in (2, 3, 4):
        assert heads[f"induction_repeat_{repeat}", 1, 0].value == pytest.approx(1.0, abs=1e-4)
        uniform = heads[f"induction_repeat_{repeat}", 0, 1]
        assert uniform.value == pytest.approx(uniform.chance, abs=1e-6)
    assert heads["offset_peak", 0, 0].value == 1
    assert heads["offset_peak_mass", 0, 0].value == pytest.approx(1.0, abs=1e-4)
    assert heads["offset_peak", 1, 0].value == 18, "the period less one"


def test_copying_and_anti_copying_heads(planted):
    heads, frame = planted
    assert heads["copying", 1, 0].value == pytest.approx(1.0, abs=1e-3)
    assert heads["copying", 1, 1].value == pytest.approx(-1.0, abs=1e-3)
    assert heads["anti_induction", 1, 1].value == pytest.approx(1.0, abs=1e-3)
    assert heads["anti_induction", 1, 0].value == pytest.approx(-1.0, abs=1e-3)
    assert heads["copying", 0, 1].chance == heads["anti_induction", 0, 1].chance == 0.0
    gain = frame[frame.probe == "repeated_token_gain"].iloc[0]
    assert gain.value > 0.5
    assert gain.unit == "nats per token, period 19"


def test_copying_is_a_matter_of_rank(probes):
    """The share of the context below the attended token less the share above it, however far."""

    tokens = np.tile(np.arange(9), (2, 2))  # query 9 + i attends to token i + 1, the last one to token 0
    pattern = torch.zeros(2, 1, 18, 18)
    for q in range(18):
        pattern[:, :, q, max(q - 8, 0)] = 1.0

    class Written(Heads):
        def __init__(self, logits):
            vars(self).update(vars(attention_of(pattern, batch_of(tokens, period=9, repeats=2))))
            self.output, self.logits = torch.zeros(2, 1, 18, 4), logits

        def logits_on_context(self, queries):
            return self.logits.expand(2, 1, 9, 9)

    def scores(logits):
        view = Written(logits)
        return [probes[name].function(view).mean().item() for name in ("copying", "anti_induction")]

    attended = torch.roll(torch.eye(9), 1, 1)
    assert scores(torch.zeros(9, 9)) == [0.0, 0.0], "a head that writes nothing"
    assert scores(torch.arange(9.0)) == pytest.approx([0.0, 0.0]), "the same logits whatever is attended to"
    assert scores(1e-6 * attended) == [1.0, -1.0]
    assert scores(-attended) == [-1.0, 1.0]
    two_above = attended + 2 * torch.roll(torch.eye(9), 3, 1) + 3 * torch.roll(torch.eye(9), 5, 1)
    assert scores(two_above) == pytest.approx([(6 - 2) / 8, -(6 - 2) / 8])


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
    four = batch_of(np.tile(np.arange(15), (2, 4)), period=15, repeats=4)
    frame = Frame(4, 4)
    places = np.full((2, 72), -1)
    for p in range(72):
        places[:, p] = -1 if p % 18 in (0, 17) else p % 18  # each patch looks the same in every grid
    frames = batch_of(np.where(places < 0, 20, places), frame=frame, places=places)
    opener = np.full((2, 40), -1)
    opener[:, 7], opener[:, 39] = 2, 0
    brackets = batch_of(np.zeros((2, 40), dtype=np.int64), opener=opener)
    grid, _, _, is_patch = patch_of_target(frame, 72)
    causes, two = (is_patch & (grid >= 1)).nonzero()[0], (is_patch & (grid >= 2)).nonzero()[0]
    lookup = [(n, 1 / (k + 1)) for k in causes if (n := (k + 1) // 18 - 1)]
    older = (18 * (grid[two] - 1) / (two + 1)).mean()
    expected = {
        "induction": (1 / (q[late] + 1)).mean(), "duplicate_token": (1 / (q[late] + 1)).mean(),
        "previous_token": (1 / (q[1:] + 1)).mean(), "self_attention": (1 / (q + 1)).mean(),
        "first_token": (1 / (q + 1)).mean(), "sink": 0.0, "entropy": 1.0, "distance": 1.0, "variability": 0.0,
        "offset_peak": 0.0, "offset_peak_mass": (1 / (q + 1)).mean(),
        **{f"induction_repeat_{r}": ((r - 1) / (np.arange(15 * (r - 1), 15 * r) + 1)).mean() for r in (2, 3, 4)},
        **{f"locality_{w}": ((w + 1) / (q[w:] + 1)).mean() for w in (1, 4, 16)},
        "nca_grid_time": (1 / (causes + 1)).mean(), "nca_stencil": (9 / (causes + 1)).mean(), "nca_stencil_excess": 0.0,
        "nca_previous_frame": (18 / (two + 1)).mean(), "nca_older_frames": older,
        "nca_current_frame": 1 - (18 / (two + 1)).mean() - older,
        "nca_induction": np.mean([n * share for n, share in lookup]),
        "nca_induction_stencil": np.mean([n * share for n, share in lookup]),
        "dyck_opener": (1 / 7 + 1 / 39) / 2, "dyck_match": (1 / 8 + 1 / 40) / 2,
    }  # fmt: skip
    attention = {name for name, p in probes.items() if p.reads == "attention"}
    words = (" the", ",", "\n", " 12", " cat", *("x" for _ in range(25)))  # one of each class in a row of 30, twice
    classes = {"function_word": (0,), "punctuation": (1,), "newline": (2,), "digit": (3,), "word_start": (0, 4)}
    for name, members in classes.items():
        count = np.array([sum(30 * r + m <= query for r in (0, 1) for m in members) for query in q])
        expected[f"to_{name}"] = (count / (q + 1))[count > 0].mean()
    expected |= {f"natural_induction_{n}": (1 / (q[q >= 29 + n] + 1)).mean() for n in (1, 2, 3)}
    assert attention == set(expected)
    natural = batch_of(np.tile(np.arange(period), (2, 2)), texts=words)
    kinds = {"RepeatedTokens": repeated, "Natural": natural, "NcaFrames": frames, "Dyck": brackets}
    for name, value in expected.items():
        stimulus = four if "repeat_" in name else kinds[probes[name].stimulus.args["kind"]]
        view = Attention.uniform(stimulus)
        assert probes[name].function(view).numpy() == pytest.approx(np.full((2, 1), value), abs=1e-5), name


def _exactly(keys: np.ndarray, stimulus):
    """Attention spread evenly over keys [batch, query, key], on the first token where there is none."""
    pattern = torch.from_numpy(keys).float()
    pattern[..., 0] += ~torch.from_numpy(keys.any(-1))
    return attention_of((pattern / pattern.sum(-1, keepdim=True))[:, None], stimulus)


def test_a_sink_is_a_head_above_three_tenths(probes):
    stimulus = batch_of(np.tile(np.arange(8), (2, 2)), period=8, repeats=2)
    for share, expected in ((0.35, 1.0), (0.25, 0.0)):
        pattern = torch.eye(16)[None, None].repeat(2, 1, 1, 1) * (1 - share)
        pattern[..., 0] += share
        assert probes["sink"].function(attention_of(pattern, stimulus)).tolist() == [[expected]] * 2


def test_variability_of_position_and_of_content(probes):
    tokens = batch_of(np.zeros((4, 12), dtype=np.int64))
    first = torch.zeros(4, 1, 12, 12)
    first[..., 0] = 1.0
    assert probes["variability"].function(attention_of(first, tokens)).abs().max() < 1e-6
    moving = torch.zeros(4, 1, 12, 12)
    for b in range(4):
        for q in range(12):
            moving[b, 0, q, b if q >= 4 else 0] = 1.0  # each row of the batch looks elsewhere in 8 of 12 queries
    expected = 8 / 12 * (1 - 1 / 4)
    assert probes["variability"].function(attention_of(moving, tokens))[0, 0].item() == pytest.approx(
        expected, abs=1e-5
    )


def test_dyck_heads(probes):
    """( [ ] ) { }: brackets whose opener stands right before do not count, so a previous-token head scores nothing."""
    tokens = np.array([[0, 1, 3 + 1, 3 + 0, 2, 3 + 2, 0, 1, 3 + 1, 3 + 0]])
    found = openers(tokens, 3)
    assert found.tolist() == [[-1, -1, 1, 0, -1, 4, -1, -1, 7, 6]]
    stimulus = batch_of(tokens, opener=found)
    ahead, at = np.zeros((1, 10, 10), dtype=bool), np.zeros((1, 10, 10), dtype=bool)
    for close, opener in ((2, 1), (3, 0), (5, 4), (8, 7), (9, 6)):
        at[0, close, opener] = True
        ahead[0, close - 1, opener] = True
    assert probes["dyck_opener"].function(_exactly(ahead, stimulus)).item() == pytest.approx(1.0, abs=1e-5)
    assert probes["dyck_match"].function(_exactly(at, stimulus)).item() == pytest.approx(1.0, abs=1e-5)
    assert probes["dyck_match"].function(_exactly(ahead, stimulus)).item() < 0.6
    previous = np.eye(10, k=-1, dtype=bool)[None]
    for name in ("dyck_opener", "dyck_match"):
        assert probes[name].function(_exactly(previous, stimulus)).item() < 1e-6, "not a matter of distance one"
    with pytest.raises(IndexError):
        openers(np.array([[3]]), 3)


@pytest.fixture(scope="module")
def trajectory():
    """Rows of a rule that repeats itself (two states), with the stimulus the probes get."""
    spec = NcaSpec(grid=6, n_states=2, band=None)
    rows = np.concatenate(list(nca_rows(spec, 3, "test", 3, 96, 1, Search()))).astype(np.int64)
    return spec, nca_frames(sequences=3).build(Subject("x", spec.vocab_size, 95, rows=rows, spec=spec.model_dump()))


def test_places_say_what_the_rule_reads(trajectory):
    """Two patches have the same place exactly if the 4 x 4 cells around them are equal, and then the next patch of the
    same noiseless rule is too (tau is tiny)."""
    spec, batch = trajectory
    windows: dict[int, set[bytes]] = {}
    successors: dict[tuple[int, int], list[int]] = {}
    for b, row in enumerate(batch.inputs):
        cells = tokens_to_frames(spec, row)
        for t, r, c in np.ndindex(len(cells), 3, 3):
            rows, columns = [(2 * r + i) % 6 for i in range(-1, 3)], [(2 * c + i) % 6 for i in range(-1, 3)]
            p = t * 11 + 1 + 3 * r + c
            windows.setdefault(int(batch.places[b, p]), set()).add(cells[t][np.ix_(rows, columns)].tobytes())
            if p + 11 < batch.length:
                successors.setdefault((b, int(batch.places[b, p])), []).append(int(row[p + 11]))
    assert all(len(seen) == 1 for seen in windows.values())
    assert len({next(iter(seen)) for seen in windows.values()}) == len(windows)
    several = [found for found in successors.values() if len(found) > 1]
    assert len(several) > 10
    assert np.mean([len(set(found)) == 1 for found in several]) > 0.9


@pytest.mark.parametrize("name", ["nca_induction", "nca_induction_stencil"])
def test_nca_induction_finds_what_followed(probes, trajectory, name):
    _, batch = trajectory
    ids = batch.inputs if name == "nca_induction" else batch.places
    keys = np.zeros((3, batch.length, batch.length), dtype=bool)
    asked = found = 0
    for b, q in np.ndindex(3, batch.length):
        p = q + 1
        if p % 11 in (0, 10) or p < 11:
            continue
        asked += b == 0
        for earlier in range(11, q + 1):
            if earlier % 11 not in (0, 10) and ids[b, earlier - 11] == ids[b, p - 11]:
                keys[b, q, earlier] = True
        found += b == 0 and keys[b, q].any()
    score = probes[name].function(_exactly(keys, batch))
    torch.testing.assert_close(score, torch.ones(3, 1), atol=1e-5, rtol=0)
    frequency = probes[name.replace("induction", "match_frequency")].function(batch)
    assert frequency[0] == pytest.approx(found / asked)
    assert probes[name].function(_exactly(np.eye(batch.length, dtype=bool)[None].repeat(3, 0), batch)).max() < 0.9


def test_frame_probes_add_up(probes, trajectory):
    _, batch = trajectory
    view = attention_of(random_patterns(5, 3, 2, batch.length), batch)
    total = sum(probes[f"nca_{part}"].function(view) for part in ("current_frame", "previous_frame", "older_frames"))
    torch.testing.assert_close(total, torch.ones(3, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (4, 4), (3, 5)])
@pytest.mark.parametrize(("start", "reach"), [(0, 1), (1, 1), (1, 2)])
def test_stencil_offsets_by_brute_force(rows, columns, start, reach):
    frame = Frame(rows, columns, start, reach)
    length = start + 4 * frame.tokens
    place = {
        (t, r, c): start + t * frame.tokens + 1 + columns * r + c
        for t in range(4)
        for r in range(rows)
        for c in range(columns)
    }
    expected = np.zeros((length, length), dtype=bool)
    for (t, r, c), p in place.items():
        if t >= 1:
            for (_, r2, c2), k in ((key, k) for key, k in place.items() if key[0] == t - 1):
                apart = max(min((r - r2) % rows, (r2 - r) % rows), min((c - c2) % columns, (c2 - c) % columns))
                expected[p - 1, k] |= apart <= reach
    found = stencil(frame, length)
    assert np.array_equal(found, expected)
    assert not np.triu(found, 1).any(), "a cause after its effect"
    assert set(found.sum(1)) == {0, min(rows, 2 * reach + 1) * min(columns, 2 * reach + 1)}
    if (rows, columns, start, reach) == (6, 6, 0, 1):  # metrics.md, section 8: offset from q, all four wraps
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


def test_the_rule_reads_the_stencil_and_nothing_else():
    """Flip each cell of a frame under six rules: only patches whose stencil holds it change one recorded frame later, and
    nearly all of them do under some rule."""
    for dt in (1, 3):
        spec = NcaSpec(grid=12, n_states=3, band=None, tau=0.0, dt=dt)
        keys = rule_keys(0, "test", np.arange(6))
        rules, noise = make_rules(spec, keys), trajectory_keys(keys, 0)
        begin = initial_cells(spec, noise)
        base = simulate(spec, rules, noise, 2, begin)[:, 1]
        changed = np.zeros((6, 6, 6, 6), dtype=bool)  # [row, column of the patch, row, column of the flipped patch]
        for r, c in np.ndindex(12, 12):
            flipped = begin.copy()
            flipped[:, r, c] = (flipped[:, r, c] + 1) % 3
            differs = simulate(spec, rules, noise, 2, flipped)[:, 1] != base
            changed[:, :, r // 2, c // 2] |= differs.any(0).reshape(6, 2, 6, 2).any((1, 3))
        frame = Frame(6, 6, reach=-(-dt // spec.patch))
        causes = stencil(frame, 2 * frame.tokens)
        parents = np.stack([causes[frame.tokens + i, 1:37].reshape(6, 6) for i in range(36)]).reshape(6, 6, 6, 6)
        assert not (changed & ~parents).any()
        assert changed[parents].mean() > (0.8 if dt == 1 else 0.5)


def test_definitions_say_what_they_measure(probes):
    assert len(probes) >= 30
    for name, probe in probes.items():
        assert len(probe.doc.splitlines()) >= 4, name
        assert "hance" in probe.doc or "0" in probe.doc, name
