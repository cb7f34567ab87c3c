"""Rule inference: planted players against the ideal predictors, Hugging Face alone as a second opinion, and the verdict."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from nca_interp.analysis.inference import inference
from nca_interp.analysis.inference import read as inference_read
from nca_interp.analysis.inference import trial as inference_trial
from nca_interp.analysis.inference.inference import FREE, SHUFFLE, SWAP, TEACHER
from nca_interp.analysis.inference.rungs import RIVALS
from nca_interp.analysis.inference.trial import NEW, OTHER, TRAINED
from nca_interp.base import UserError
from nca_interp.config import ModelConfig
from nca_interp.data.nca.predictors import counting
from nca_interp.data.nca.rows import trajectory
from nca_interp.data.sample import draw
from nca_interp.data.specs import NcaSpec
from nca_interp.model.llama import build

SPEC = NcaSpec(grid=6, n_states=3, tau=0.0, band=(0.4, 0.9))
WIDTH, FRAMES = SPEC.tokens_per_frame, 7
META = {"spec": SPEC.model_dump(mode="json"), "seed": 3, "n_train": 12}


class Cache:
    """The tokens that were read, cut back as transformers' caches are."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens

    def get_seq_length(self) -> int:
        return self.tokens.shape[1]

    def crop(self, length: int) -> None:
        assert length < 0
        self.tokens = self.tokens[:, :length]


class Player:
    """What a Hugging Face model is to a reader; plays a rule of thumb that sees all tokens so far."""

    device = torch.device("cpu")
    config = LlamaConfig(max_position_embeddings=WIDTH * FRAMES + 5)

    def next(self, tokens: np.ndarray) -> np.ndarray:
        """The token [row, position] that follows each position of [row, position]."""
        raise NotImplementedError

    def __call__(self, input_ids, past_key_values=None, use_cache=False, logits_to_keep=0):
        if past_key_values is not None:
            past_key_values.tokens = torch.cat([past_key_values.tokens, input_ids], 1)
        cache = past_key_values or Cache(input_ids)
        guess = torch.from_numpy(self.next(cache.tokens.numpy()))[:, -input_ids.shape[1] :]
        logits = torch.nn.functional.one_hot(guess, SPEC.vocab_size) * 20.0
        return SimpleNamespace(logits=logits, past_key_values=cache)


class Copy(Player):
    def next(self, tokens):
        return np.concatenate([np.zeros((len(tokens), WIDTH - 1), np.int64), tokens], 1)[:, : tokens.shape[1]]


class Oracle(Player):
    """Knows every row that can be asked for by its second frame; copies where a row is none of them."""

    def __init__(self) -> None:
        sets = inference_trial.rule_sets(SPEC, 3, 12, FRAMES, 24, [])
        rows = np.concatenate([sample.tokens for _, sample in sets]).astype(np.int64)
        self.rows = {row[: WIDTH + 1].tobytes(): row for row in rows}

    def next(self, tokens):
        out, n = Copy().next(tokens), tokens.shape[1]
        for guess, row in zip(out, tokens, strict=True):
            known = self.rows.get(row[: WIDTH + 1].tobytes())
            if known is not None:
                guess[:] = np.append(known, 0)[1 : n + 1]
        return out


@pytest.fixture(scope="module")
def sample():
    return draw(SPEC, n=24, length=WIDTH * FRAMES, seed=3, split="test")


@pytest.fixture(scope="module")
def llama():
    shape = ModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=24, n_ctx=WIDTH * FRAMES)
    model = build(shape, SPEC.vocab_size, 0, "ppt").eval()
    with torch.no_grad():  # as drawn, its logits hardly differ
        for p in model.parameters():
            p.mul_(4.0)
    return model


def test_a_copying_model_scores_what_copy_scores(sample):
    ideal = counting(SPEC, sample.frames)["copy"]
    every = range(1, FRAMES)
    for reading in (
        inference_read.teacher_forced(Copy(), SPEC, sample.tokens),
        inference_read.free_running(Copy(), SPEC, sample.tokens, every),
        inference_read.free_running(Copy(), SPEC, sample.tokens, every, cached=False),
    ):
        np.testing.assert_array_equal(reading.cell_accuracy, ideal.cell_accuracy)
        np.testing.assert_array_equal(reading.patch_accuracy, ideal.patch_accuracy)


def test_loss_and_accuracy_are_those_of_the_model_alone(sample, llama, monkeypatch):
    tokens = sample.tokens[:5]
    reading = inference_read.teacher_forced(llama, SPEC, tokens)
    monkeypatch.setattr(inference_read, "LOGIT_ELEMENTS", 1)
    one_by_one = inference_read.teacher_forced(llama, SPEC, tokens)
    for row, ids in enumerate(tokens.astype(np.int64)):
        with torch.no_grad():
            logits = llama(torch.tensor(ids[None])).logits[0].double()
        shares = logits.log_softmax(-1)
        for frame in range(1, FRAMES):
            places = range(frame * WIDTH + 1, (frame + 1) * WIDTH - 1)
            loss = -np.mean([shares[p - 1, ids[p]].item() for p in places])
            right = np.mean([logits[p - 1, :-2].argmax().item() == ids[p] for p in places])
            assert reading.loss[row, frame] == pytest.approx(loss, abs=1e-5)
            assert reading.patch_accuracy[row, frame] == pytest.approx(right)
    for name in ("loss", "cell_accuracy"):
        np.testing.assert_allclose(getattr(one_by_one, name), getattr(reading, name), atol=1e-5)
    assert np.isnan(reading.loss[:, 0]).all()


def test_a_cache_changes_nothing(sample, llama, monkeypatch):
    frames = [1, 3, FRAMES - 1]
    plain = inference_read.free_running(llama, SPEC, sample.tokens, frames, cached=False)
    cached = inference_read.free_running(llama, SPEC, sample.tokens, frames)
    monkeypatch.setattr(inference_read, "PASS_TOKENS", 5 * WIDTH * FRAMES)
    in_parts = inference_read.free_running(llama, SPEC, sample.tokens, frames)
    nearly_greedy = inference_read.free_running(llama, SPEC, sample.tokens, frames, temperature=1e-7)
    for other in (cached, in_parts, nearly_greedy):
        np.testing.assert_array_equal(other.cell_accuracy, plain.cell_accuracy)
    assert np.isfinite(plain.cell_accuracy).all(0).tolist() == [frame in frames for frame in range(FRAMES)]
    drawn = [
        inference_read.free_running(llama, SPEC, sample.tokens, frames, temperature=5.0, seed=s) for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(drawn[0].cell_accuracy, drawn[1].cell_accuracy)
    assert (drawn[0].cell_accuracy != drawn[2].cell_accuracy).any()


def test_controls_change_what_they_say_and_nothing_else(sample):
    tokens = sample.tokens.astype(np.int64)
    for frame in range(3, FRAMES):
        rows = tokens[:, : (frame + 1) * WIDTH]
        swapped, shuffled = (
            change(rows, frame) for change in (inference_read.swap_context(SPEC), inference_read.shuffle_context(SPEC))
        )
        end = (frame - 1) * WIDTH
        for changed in (swapped, shuffled):
            np.testing.assert_array_equal(changed[:, end:], rows[:, end:])
        np.testing.assert_array_equal(swapped[1:, :end], rows[:-1, :end])
        for new, old in zip(shuffled, rows, strict=True):
            new, old = (r[:end].reshape(-1, WIDTH).tolist() for r in (new, old))
            assert sorted(new) == sorted(old)
    reading = inference_read.teacher_forced(Copy(), SPEC, tokens)
    for change in (inference_read.swap_context(SPEC), inference_read.shuffle_context(SPEC)):
        changed = inference_read.changed_context(Copy(), SPEC, tokens, [3, 5], change)
        np.testing.assert_array_equal(changed.cell_accuracy[:, [3, 5]], reading.cell_accuracy[:, [3, 5]])


def test_players_get_the_verdict_they_earn():
    frame = inference.measure(Oracle(), META, rules=24)
    learned = frame.attrs["learned"]
    assert (learned["verdict"], learned["accuracy"], learned["oracle_accuracy"]) == (
        "near the oracle", 1.0, 1.0,
    )  # fmt: skip
    assert (learned["inferred"], learned["rival"], learned["effect"]) == (True, "oracle", 0)
    assert learned["swap"] > 0  # it copies where the context is not one it knows
    assert set(frame.rules) == {TRAINED, NEW, OTHER}
    assert set(frame.predictor) == {TEACHER, FREE, SWAP, SHUFFLE, *RIVALS, "oracle"}
    assert frame[frame.rules == TRAINED].n.max() == 12
    assert {(low, high) for low, high in zip(frame.band_low, frame.band_high, strict=True)} == {(0.4, 0.9), (0.2, 0.4)}
    copied = inference.measure(Copy(), META, rules=24).attrs["learned"]
    assert copied["verdict"] == "no better than mode"
    assert copied["high"] <= 0
    assert not copied["inferred"]
    assert not copied["uses_context"]
    assert copied["sentence"].startswith("The model is no better than mode; its context is not shown to be used.")


def test_a_control_has_no_rule_to_learn():
    spec = SPEC.model_copy(update={"control": "shuffle_tokens"})
    frame = inference.measure(Copy(), META | {"spec": spec.model_dump(mode="json")}, rules=8)
    assert frame.attrs["learned"]["verdict"] == inference.NO_RULE
    assert "oracle" not in set(frame.predictor)
    assert any("oracle is left out" in note for note in frame.attrs["notes"])


def test_rules_are_trained_new_or_of_the_other_band():
    notes: list[str] = []
    sets = dict(inference_trial.rule_sets(SPEC, 3, 12, FRAMES, 24, notes))
    training = draw(SPEC, n=12, length=WIDTH * FRAMES, seed=3, split="train")
    assert set(sets[TRAINED].keys) == set(training.keys)
    assert not {f.tobytes() for f in sets[TRAINED].frames} & {f.tobytes() for f in training.frames}
    assert not set(sets[NEW].keys) & set(training.keys)
    assert not set(sets[OTHER].keys) & (set(training.keys) | set(sets[NEW].keys))
    frames = trajectory(SPEC, 3, sets[NEW].split, sets[NEW].candidates, 0, FRAMES)
    np.testing.assert_array_equal(frames, sets[NEW].frames)
    assert notes == []
    free = SPEC.model_copy(update={"band": None})
    assert set(dict(inference_trial.rule_sets(free, 3, 12, FRAMES, 4, notes))) == {TRAINED, NEW}
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("band", "other"), [((0.5, 1.0), (0.3, 0.5)), ((0.3, 0.5), (0.1, 0.3)), ((0.15, 0.4), (0.4, 0.6)), (None, None)]
)
def test_the_other_band_is_next_to_the_own(band, other):
    assert inference_trial.other_band(SPEC.model_copy(update={"band": band})) == other


def test_generated_frames_cover_the_last_third():
    for n in range(2, 60):
        frames = inference_trial.generated_frames(n)
        assert frames == sorted(set(frames))
        assert (frames[0], frames[-1]) == (1, n - 1)
        late = inference_trial.last_third(frames)
        assert late[-1] == n - 1
        assert all(3 * frame > 2 * (n - 1) for frame in late)
        assert len(late) == min(4, (n - 1) - 2 * (n - 1) // 3)
    assert inference_trial.generated_frames(26) == [1, 2, 4, 8, 17, 20, 22, 25]


def test_mistakes(tiny_checkpoint):
    with pytest.raises(UserError, match="no NCA behind it"):
        inference.rule_inference(tiny_checkpoint)
    with pytest.raises(UserError, match="device: 'abacus' is not usable"):
        inference.rule_inference(tiny_checkpoint, device="abacus")
    with pytest.raises(UserError, match="rules: 1"):
        inference.rule_inference(tiny_checkpoint, rules=1)
    big = SPEC.model_copy(update={"grid": 12}).model_dump(mode="json")
    short = Copy()
    short.config = LlamaConfig(max_position_embeddings=60)
    with pytest.raises(UserError, match="less than two frames of 38"):
        inference.measure(short, META | {"spec": big})
