"""One checkpoint on its sequence: against the model's own attention and probabilities, and a head that is known to matter."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from nca_interp.analysis.attention.access import access
from nca_interp.analysis.circuit_player.capture import ABLATED, effects, see
from nca_interp.analysis.circuit_player.sequence import LONGEST, choose, repeats
from nca_interp.analysis.collection.collection import Settings
from nca_interp.analysis.stimuli.base import Subject
from nca_interp.codes import ATTENTION_ERROR, SHARE_ERROR, attention_of, triangle
from nca_interp.data.nca.rows import Search, nca_rows
from nca_interp.data.nca.rules import tokens_to_frames
from nca_interp.data.specs import NcaSpec
from tests.analysis.models import tiny

SPEC = NcaSpec(grid=6, n_states=3, patch=2, band=None)


@pytest.fixture(scope="module")
def grid() -> Subject:
    rows = np.concatenate(list(nca_rows(SPEC, 0, "val", 32, 97, 1, Search())))
    return Subject("nca", SPEC.vocab_size, 96, rows=rows, spec=SPEC.model_dump(mode="json"), rows_from="rows", own=True)


@pytest.fixture(scope="module")
def text() -> Subject:
    rows = np.random.default_rng(0).integers(0, 20, (40, 90))
    return Subject("text", 97, 96, rows=rows, spec={"kind": "text"}, rows_from="rows", own=True)


def test_a_grid_is_whole_frames_of_the_row_of_median_activity(grid: Subject):
    found = choose(grid, Settings())
    assert found.said["kind"] == "grid"
    assert len(found.inputs) == found.frames * SPEC.tokens_per_frame <= LONGEST
    assert (found.said["rows"], found.said["patch"], found.said["states"], found.said["reach"]) == (3, 2, 3, 1)
    assert grid.rows is not None
    activity = [np.mean([(a != b).mean() for a, b in pairwise(tokens_to_frames(SPEC, row))]) for row in grid.rows[:32]]
    row = next(i for i, r in enumerate(grid.rows) if (r[: len(found.inputs)] == found.inputs).all())
    assert activity[row] == pytest.approx(np.sort(activity)[16])


def test_the_text_is_the_row_in_which_most_comes_again(text: Subject):
    found = choose(text, Settings())
    assert text.rows is not None

    def brute(row: np.ndarray) -> int:
        return sum(any(row[j] == row[q] and row[j + 1] == row[q + 1] for j in range(q)) for q in range(len(row) - 1))

    counts = [brute(row[:89]) for row in text.rows[:32]]
    assert [repeats(row[:89]) for row in text.rows[:32]] == counts
    assert found.inputs.tolist() == text.rows[int(np.argmax(counts))][:89].tolist()
    assert found.said["texts"] == [str(t) for t in found.inputs]


def test_without_text_random_tokens_are_shown_twice(text: Subject):
    found = choose(replace(text, rows=None), Settings())
    assert (found.inputs[:24] == found.inputs[24:]).all()
    assert repeats(found.inputs) == 23


@pytest.mark.parametrize("family", ["llama", "llama-gqa", "gpt2"])
def test_attention_and_predictions_are_the_model_s_own(family: str, text: Subject):
    model = tiny(family)
    sequence = choose(text, Settings())
    found = see(model, sequence)
    own = tiny(family, attn_implementation="eager")
    with torch.no_grad():
        out = own(torch.from_numpy(sequence.inputs[None]), output_attentions=True)
    maps = triangle(np.stack([a[0].numpy() for a in out.attentions]))
    assert np.abs(attention_of(found.attention) - maps).max() <= ATTENTION_ERROR + 1e-4
    shares = out.logits[0, :-1].softmax(-1).numpy()
    assert (found.top[:, 0] == shares.argmax(-1)).all()
    truth = shares[np.arange(len(shares)), sequence.inputs[1:]]
    assert np.abs(found.truth / 255 - truth).max() <= SHARE_ERROR + 1e-4
    assert found.cells.size == 0


def test_cells_are_those_of_the_likeliest_patch_and_as_sure_as_all_patches_say(grid: Subject):
    model = tiny("llama", vocab_size=SPEC.vocab_size)
    sequence = choose(grid, Settings())
    found = see(model, sequence)
    with torch.no_grad():
        logits = model(torch.from_numpy(sequence.inputs[None])).logits[0]
    patches = logits[:, : SPEC.n_states**4].softmax(-1).numpy()
    side, width = SPEC.grid // SPEC.patch, SPEC.tokens_per_frame
    for frame in range(1, sequence.frames):
        for patch in range(side * side):
            shares = patches[frame * width + patch]
            guess = int(shares.argmax())
            for cell in range(4):
                state = guess // SPEC.n_states**cell % SPEC.n_states
                row, column = 2 * (patch // side) + cell // 2, 2 * (patch % side) + cell % 2
                sure = sum(p for t, p in enumerate(shares) if t // SPEC.n_states**cell % SPEC.n_states == state)
                assert found.cells[frame, row, column] == state
                assert found.cells_sure[frame, row, column] / 255 == pytest.approx(sure, abs=SHARE_ERROR + 1e-4)


def test_the_effect_of_a_head_is_the_loss_without_it(text: Subject):
    """A head that writes nothing costs nothing; the others cost what replacing their output by its mean does to the loss."""
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight[:, 8:16] = 0.0
    access(model)
    found = effects(model, text, grid=False).set_index(["layer", "head"])
    assert len(found) == 8
    assert set(found.metric) == {"own_loss"}
    assert set(found.n) == {ABLATED}
    assert abs(found.value[1, 1]) < 1e-6
    assert (found.low <= found.value).all()
    projection, kept = model.model.layers[1].self_attn.o_proj, slice(16, 24)
    tokens = torch.from_numpy(text.rows[:ABLATED, :90])

    def losses() -> torch.Tensor:
        with torch.no_grad():
            logits = model(tokens[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none").mean(1)

    seen: list[torch.Tensor] = []
    handle = projection.register_forward_pre_hook(lambda m, a: seen.append(a[0].clone()))
    before = losses()
    handle.remove()
    mean = seen[0][..., kept].mean((0, 1))

    def ablate(module, args):
        changed = args[0].clone()
        changed[..., kept] = mean
        return (changed,)

    handle = projection.register_forward_pre_hook(ablate)
    after = losses()
    handle.remove()
    assert found.value[1, 2] == pytest.approx(float((after - before).mean()), abs=1e-5)


def test_a_model_of_many_heads_is_not_taken_apart(text: Subject):
    model = tiny("llama", num_hidden_layers=9, num_attention_heads=16, num_key_value_heads=16, hidden_size=64)
    assert effects(model, text, grid=False).empty
