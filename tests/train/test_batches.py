"""Batches and learning rates are functions of the step alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_interp.data.specs import DyckSpec
from nca_interp.data.tokens import TokenFile, write_tokens
from nca_interp.model.loss import IGNORE
from nca_interp.train.batches import Loader, batch_rows, learning_rate, permute


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**40))
def test_permute_is_a_bijection(n, seed):
    assert sorted(permute(np.arange(n), n, seed).tolist()) == list(range(n))


def test_permute_spreads_evenly():
    counts = np.zeros((64, 64))
    for seed in range(400):
        counts[np.arange(64), permute(np.arange(64), 64, seed)] += 1
    expected = 400 / 64
    assert ((counts - expected) ** 2 / expected).sum() / 64**2 == pytest.approx(1.0, abs=0.1)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 200), batch=st.integers(1, 64), seed=st.integers(0, 99))
def test_every_epoch_visits_every_row_once(n, batch, seed):
    steps = -(-3 * n // batch)
    rows = np.concatenate([batch_rows(n, batch, seed, k) for k in range(steps)])
    for epoch in range(3):
        assert sorted(rows[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))


def test_batches_are_known_forever():
    assert batch_rows(1000, 4, 7, 3).tolist() == batch_rows(1000, 4, 7, 3).tolist()
    assert batch_rows(1000, 8, 7, 1)[:4].tolist() == batch_rows(1000, 4, 7, 2).tolist()
    assert batch_rows(1000, 4, 8, 3).tolist() != batch_rows(1000, 4, 7, 3).tolist()


@pytest.mark.parametrize("masked", [False, True])
def test_a_batch_depends_on_seed_and_step_alone(tmp_path, masked):
    spec = DyckSpec(k=4, max_depth=4)
    write_tokens(tmp_path / "d", spec, n_train=30, n_val=4, seq_len=16, seed=0)
    tokens = TokenFile.open(tmp_path / "d")
    if masked:
        tokens.train_mask = np.random.default_rng(0).integers(0, 2, (30, 17), dtype=np.uint8)

    def loader(rank=0, world=1, prefix=3):
        return Loader(tokens, 12, 5, prefix, rank, world, torch.device("cpu"))

    with loader() as one, loader() as other, loader(0, 2) as left, loader(1, 2) as right:
        forward = [one.get(k) for k in range(6)]
        for k in (5, 0, 3, 4, 1):
            batch, halves = other.get(k), (left.get(k), right.get(k))
            assert torch.equal(batch.inputs, forward[k].inputs)
            assert torch.equal(torch.cat([h.targets for h in halves]), forward[k].targets)
            n = int((forward[k].targets != IGNORE).sum())
            assert n == batch.n_targets == halves[0].n_targets == halves[1].n_targets
        assert 0 < one.waited < 5


def test_learning_rate_shape():
    rates = [learning_rate(k, steps=100, lr=2.0, warmup=0.1, schedule="cosine", min_lr_ratio=0.1) for k in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == max(rates) == 2.0
    assert rates[-1] == pytest.approx(0.2)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    flat = [learning_rate(k, steps=100, lr=2.0, warmup=0.0, schedule="constant", min_lr_ratio=0.1) for k in range(100)]
    assert set(flat) == {2.0}
