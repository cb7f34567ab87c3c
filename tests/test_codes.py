"""Bytes of the player: how far they are from the numbers, and what is thinned."""

from __future__ import annotations

import numpy as np
import pytest

from nca_interp.codes import (
    ATTENTION_ERROR,
    LEVEL_ERROR,
    SHARE_ERROR,
    attention_bytes,
    attention_of,
    changes,
    evenly,
    levels,
    share_bytes,
    triangle,
    weights_of,
)

FINE = np.linspace(0, 1, 100_001)


def test_no_weight_is_further_off_than_said_and_the_bound_is_tight():
    error = np.abs(attention_of(attention_bytes(FINE)) - FINE)
    assert error.max() <= ATTENTION_ERROR
    assert error.max() > 0.98 * ATTENTION_ERROR
    assert error[np.abs(FINE - 0.01) < 1e-9] <= 0.0004


def test_no_share_is_further_off_than_said():
    error = np.abs(share_bytes(FINE) / 255 - FINE)
    assert 0.98 * SHARE_ERROR < error.max() <= SHARE_ERROR + 1e-12


def test_what_is_no_number_is_nothing():
    assert attention_bytes([np.nan, -0.1, 1.2]).tolist() == [0, 0, 255]


def test_the_triangle_holds_every_key_up_to_the_query():
    maps = np.arange(2 * 5 * 5).reshape(2, 5, 5)
    flat = triangle(maps)
    for query in range(5):
        start = query * (query + 1) // 2
        assert (flat[:, start : start + query + 1] == maps[:, query, : query + 1]).all()
    assert flat.shape == (2, 15)


@pytest.mark.parametrize(("n", "most"), [(1, 1), (5, 9), (5, 5), (9, 4), (60, 24), (7, 1), (7, 2)])
def test_the_first_and_the_last_stay(n: int, most: int):
    kept = evenly(n, most)
    assert len(kept) == min(n, most)
    assert kept[-1] == n - 1
    assert most == 1 or kept[0] == 0
    assert kept == sorted(set(kept))


def test_a_weight_is_no_further_off_than_said_and_the_bound_is_tight():
    fine = np.linspace(0, 1, 100_001)
    error = np.abs(weights_of(levels(attention_bytes(fine))) - fine)
    assert 0.9 * LEVEL_ERROR < error.max() <= LEVEL_ERROR
    assert error[1000] <= 0.004  # a weight of 0.01


def test_changes_add_up_again():
    values = np.random.default_rng(0).integers(0, 256, (7, 50)).astype(np.uint8)
    assert (np.cumsum(changes(values), 0, dtype=np.uint8) == values).all()
