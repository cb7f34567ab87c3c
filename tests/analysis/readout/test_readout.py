"""Read-out of rules against planted truths: what is written into a stream is found there and not before it; counts are counts."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from nca_interp.analysis.readout.regression import GROUPS, jackknife, judge, make_folds, predict
from nca_interp.analysis.readout.rules import (
    APART,
    RULE_FRAMES,
    SPLIT,
    contexts,
    count_statistics,
    draw_rules,
    frame_means,
    token_counts,
)
from nca_interp.analysis.readout.study import (
    COUNTS,
    MODEL,
    PERMUTED,
    RANDOM,
    STATISTICS,
    chosen_steps,
    decode_rules,
    rivals_of,
)
from nca_interp.config import ModelConfig
from nca_interp.data.complexity.measures import entropy
from nca_interp.data.nca.dynamics import activity
from nca_interp.data.nca.rows import trajectory
from nca_interp.data.sample import draw
from nca_interp.data.specs import NcaSpec
from nca_interp.model.llama import build

SPEC = NcaSpec(grid=6, n_states=2, band=None)
WIDTH = SPEC.tokens_per_frame
TINY = ModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=24, n_ctx=4 * WIDTH)
N = 160


@pytest.fixture(scope="module")
def rules():
    return draw_rules(SPEC, seed=3, n_frames=4, n=N)


@pytest.fixture
def model():
    return build(TINY, SPEC.vocab_size, seed=0, stream="ppt").eval()


@contextmanager
def written_after(model, block: int, values: np.ndarray):
    """The model with `values` [rule] times a fixed direction added to what a block leaves in the stream."""
    direction = torch.randn(TINY.d_model, generator=torch.Generator().manual_seed(1))
    left: list[float] = []  # rows come in order, all of them in each reading

    def write(module, args, out):
        if not left:
            left.extend(values)
        now, left[:] = left[: len(out)], left[len(out) :]
        return out + torch.tensor(now, dtype=torch.float32)[:, None, None] * direction

    handle = model.base_model.layers[block].register_forward_hook(write)
    try:
        yield
    finally:
        handle.remove()


def scores(frame, source: str, attribute: str, score: str = "spearman"):
    rows = frame[(frame.source == source) & (frame.attribute == attribute) & (frame.frames == frame.frames.max())]
    return rows.set_index(rows.layer.fillna(-1))[score]


def test_what_is_written_into_the_stream_is_decoded_there_and_not_before(model, rules):
    values = np.random.default_rng(0).normal(size=N)
    planted = rules._replace(attributes={"planted": values, "absent": np.random.default_rng(1).normal(size=N)})
    with written_after(model, 0, 0.2 * values):
        frame = decode_rules(model, planted)
    found, verdicts = scores(frame, MODEL, "planted"), {d["attribute"]: d for d in frame.attrs["decoded"]}
    assert found[0] < 0.35
    assert found[1] > 0.9
    assert found[2] > 0.8
    assert verdicts["planted"]["verdict"] == "decoded"
    assert verdicts["planted"]["layer"] in (1, 2)
    assert (
        "planted is read out beyond what needs no training: after 4 frames of 160 new rules"
        in verdicts["planted"]["sentence"]
    )
    for source in (RANDOM, PERMUTED, COUNTS, STATISTICS):
        assert scores(frame, source, "planted").max() < 0.35, source
    assert abs(scores(frame, PERMUTED, "planted")).max() < 0.1
    assert verdicts["absent"]["verdict"] != "decoded"


def test_an_attribute_that_is_a_count_is_found_in_the_counts_and_not_called_decoded(model, rules):
    rows = rules.tokens.astype(int)
    often = (rows == rows[0, 1]).sum(1).astype(float)
    spread = np.array([entropy(np.bincount(row)) for row in rows])
    chance = np.random.default_rng(2).normal(size=N)
    planted = rules._replace(attributes={"a count": often, "of counts": spread, "no count": chance})
    with written_after(model, 0, 0.2 * often):
        frame = decode_rules(model, planted)
    verdicts = {d["attribute"]: d for d in frame.attrs["decoded"]}
    assert scores(frame, MODEL, "a count", "r2").max() > 0.95
    assert scores(frame, COUNTS, "a count", "r2")[-1] > 0.98
    assert verdicts["a count"]["verdict"] != "decoded"
    assert scores(frame, STATISTICS, "of counts", "r2")[-1] > 0.98
    assert scores(frame, COUNTS, "of counts", "r2")[-1] < scores(frame, STATISTICS, "of counts", "r2")[-1]
    assert scores(frame, COUNTS, "no count")[-1] < 0.3
    assert scores(frame, STATISTICS, "no count")[-1] < 0.3
    assert verdicts["of counts"]["verdict"] == "not decoded"


def test_the_last_bit_of_a_prediction_ranks_nothing():
    """Rules that look alike to the model are tied, whatever a forward pass rounds."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(N, 1))
    alike = np.repeat(rng.normal(size=(1, N // 8, 1)), 8, axis=1)
    folds = make_folds(N, groups=0)
    found = {float(judge(alike + 1e-9 * rng.normal(size=alike.shape), truth, folds).spearman[0, 0]) for _ in range(5)}
    assert found == {float(judge(alike, truth, folds).spearman[0, 0])}


def test_the_nulls_of_one_architecture_serve_several_checkpoints(model, rules):
    few = rules._replace(attributes={"activity": rules.attributes["activity"]})
    whole, shared = decode_rules(model, few), decode_rules(model, few, rivals_of(model, few))
    pd.testing.assert_frame_equal(whole, shared)
    assert set(whole.source) == {MODEL, RANDOM, PERMUTED, COUNTS, STATISTICS}
    assert set(whole.frames) == set(contexts(4))
    assert (whole.low <= whole.high).all()


def test_means_are_over_the_last_frame_read(model, rules):
    part = rules._replace(tokens=rules.tokens[:7])
    found = frame_means(model, part, [2, 4])
    assert found.shape == (2, 3, 7, TINY.d_model)
    with torch.inference_mode():
        hidden = model(torch.from_numpy(part.tokens.astype(np.int64)), output_hidden_states=True).hidden_states
    for layer in (0, 1):  # transformers normalises the last one
        for index, frame in enumerate((1, 3)):
            wanted = hidden[layer][:, frame * WIDTH : (frame + 1) * WIDTH].mean(1)
            np.testing.assert_allclose(found[index, layer], wanted, atol=1e-6)
    early = frame_means(model, part._replace(tokens=part.tokens[:, : 2 * WIDTH]), [2])
    np.testing.assert_allclose(found[:1], early, atol=1e-6)  # what comes later changes nothing


def test_attributes_are_those_of_the_rule_on_a_trajectory_that_is_not_read(rules):
    sample = draw(SPEC, n=N, length=4 * WIDTH, seed=3, split=SPLIT)
    assert np.array_equal(sample.tokens, rules.tokens)
    frames = trajectory(SPEC, 3, SPLIT, sample.candidates, APART, RULE_FRAMES)
    assert np.array_equal(rules.attributes["activity"], activity(frames))
    assert not np.array_equal(frames[:, :4], sample.frames)


def test_counts_are_of_the_frames_read(rules):
    counts = token_counts(rules, 2)
    assert (counts.sum(1) == 2 * WIDTH).all()
    assert counts.shape[1] == len(np.unique(rules.tokens[:, : 2 * WIDTH]))
    shuffled = rules._replace(tokens=rules.tokens[:, np.r_[WIDTH : 2 * WIDTH, :WIDTH, 2 * WIDTH : 4 * WIDTH]])
    np.testing.assert_allclose(count_statistics(shuffled, 2), count_statistics(rules, 2))


def test_scores_of_many_targets_are_those_of_each_and_of_scipy():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(90, 12))
    y = np.stack([x[:, 0] + 0.3 * rng.normal(size=90), rng.normal(size=90), np.round(x[:, 1])], 1)
    folds = make_folds(90)
    together = predict(x, y, folds)
    for k in range(3):
        np.testing.assert_allclose(predict(x, y[:, [k]], folds)[..., 0], together[..., k], atol=1e-9)
    found = judge(together, y, folds)
    for k in range(3):
        parts = [spearmanr(together[0, folds.of == f, k], y[folds.of == f, k]).statistic for f in range(5)]
        assert found.spearman[0, k] == pytest.approx(np.mean(parts))
        error = ((together[0, :, k] - y[:, k]) ** 2).sum() / ((y[:, k] - y[:, k].mean()) ** 2).sum()
        assert found.r2[0, k] == pytest.approx(1 - error)
    assert jackknife(found.spearman[:, 0]).low > 0.8
    assert jackknife(found.spearman[:, 1]).low < 0 < jackknife(found.spearman[:, 1]).high


def test_what_is_left_out_is_neither_fitted_nor_judged():
    rng = np.random.default_rng(5)
    x, y, folds = rng.normal(size=(60, 4)), rng.normal(size=(60, 1)), make_folds(60)
    assert folds.kept[0].all()
    assert (folds.kept[1:].sum(0) == GROUPS - 1).all()  # each rule is left out once
    assert {(~kept).sum() for kept in folds.kept[1:]} <= {5, 10}
    out = ~folds.kept[3]
    changed = y.copy()
    changed[out] += 100.0
    one, other = (predict(x, v, folds) for v in (y, changed))
    np.testing.assert_array_equal(one[3], other[3])
    assert np.isnan(one[3][out]).all()
    assert judge(one, y, folds).spearman[3] == judge(other, changed, folds).spearman[3]
    assert np.isnan(
        jackknife(judge(predict(x, y, make_folds(60, groups=0)), y, make_folds(60, groups=0)).r2[:, 0])[1:]
    ).all()


def test_intervals_hold_what_other_rules_would_give():
    rng, found, held = np.random.default_rng(6), [], []
    for _ in range(80):
        x = rng.normal(size=(80, 6))
        y = x[:, :1] + 1.5 * rng.normal(size=(80, 1))
        folds = make_folds(80)
        found.append(jackknife(judge(predict(x, y, folds), y, folds).spearman[:, 0]))
    truth = np.mean([f.value for f in found])
    held = [f.low <= truth <= f.high for f in found]
    assert np.mean(held) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / len(held))


def test_which_checkpoints_and_contexts():
    assert chosen_steps([0, 1, 2, 4, 8, 16, 32]) == [0, 2, 8, 32]
    assert chosen_steps([7]) == [7]
    assert (contexts(2), contexts(7), contexts(26)) == ([2], [2, 4, 7], [2, 7, 26])
