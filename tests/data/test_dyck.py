"""Dyck: every prefix is legal, depth is bounded, all types are used, and rows end balanced where they can."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_interp.data.dyck import dyck_rows
from nca_interp.data.specs import DyckSpec


def rows(spec: DyckSpec, n: int, n_tokens: int, seed: int = 0, split: str = "train") -> np.ndarray:
    return np.concatenate(list(dyck_rows(spec, seed, split, n, n_tokens)))


def deepest(spec: DyckSpec, row: np.ndarray) -> tuple[int, int]:
    """(largest, final) number of open brackets; asserts that every closing bracket is legal."""
    stack: list[int] = []
    most = 0
    for token in row.tolist():
        if token < spec.k:
            stack.append(token)
        elif spec.variant == "nested":
            assert stack
            assert stack.pop() == token - spec.k
        else:
            stack.remove(token - spec.k)  # ValueError if none of this type is open
        most = max(most, len(stack))
    return most, len(stack)


@settings(deadline=None, max_examples=60)
@given(
    variant=st.sampled_from(["nested", "shuffle"]),
    k=st.integers(1, 9),
    depth=st.integers(1, 7),
    p_open=st.floats(0.05, 0.95),
    n_tokens=st.integers(1, 60),
    seed=st.integers(0, 1000),
)
def test_prefixes_depth_and_balance(variant, k, depth, p_open, n_tokens, seed):
    spec = DyckSpec(variant=variant, k=k, max_depth=depth, p_open=p_open)
    for row in rows(spec, 3, n_tokens, seed):
        assert row.max() < spec.vocab_size
        most, final = deepest(spec, row)
        assert most <= depth
        assert final == n_tokens % 2


@pytest.mark.parametrize("variant", ["nested", "shuffle"])
def test_all_types_and_depths_are_used(variant):
    spec = DyckSpec(variant=variant, k=64, max_depth=8)
    made = rows(spec, 200, 257)
    counts = np.bincount(made.ravel(), minlength=128)
    assert counts.min() > 0.6 * counts.mean()
    assert counts.max() < 1.5 * counts.mean()
    assert max(deepest(spec, row)[0] for row in made) == 8


def test_p_open_is_the_share_of_openings_where_both_are_legal():
    made = rows(DyckSpec(k=4, max_depth=400, p_open=0.4), 500, 400)
    steps = np.where(made < 4, 1, -1)
    before = np.cumsum(steps, axis=1) - steps
    free = (before > 0) & (before < 400 - np.arange(400) - 2)
    assert (steps[free] == 1).mean() == pytest.approx(0.4, abs=0.01)


def test_shuffle_crosses_and_nested_does_not():
    row = rows(DyckSpec(variant="shuffle", k=8, max_depth=8), 1, 400)[0]
    assert deepest(DyckSpec(variant="shuffle", k=8, max_depth=8), row)[1] == 0
    with pytest.raises(AssertionError):
        deepest(DyckSpec(k=8, max_depth=8), row)


def test_rows_depend_on_seed_split_and_number_only():
    spec = DyckSpec()
    assert np.array_equal(rows(spec, 3000, 33)[:10], rows(spec, 10, 33))
    assert not np.array_equal(rows(spec, 10, 33), rows(spec, 10, 33, split="val"))
    assert not np.array_equal(rows(spec, 10, 33), rows(spec, 10, 33, seed=1))
