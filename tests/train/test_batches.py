"""Batches and learning rates are functions of the step alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_interp.train.batches import batch_rows, learning_rate, permute


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


def test_learning_rate_shape():
    rates = [learning_rate(k, steps=100, lr=2.0, warmup=0.1, schedule="cosine", min_lr_ratio=0.1) for k in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == max(rates) == 2.0
    assert rates[-1] == pytest.approx(0.2)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    flat = [learning_rate(k, steps=100, lr=2.0, warmup=0.0, schedule="constant", min_lr_ratio=0.1) for k in range(100)]
    assert set(flat) == {2.0}
