"""Patterns as text in a page: read back within the error that is said, and never more than the budget."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest

from nca_interp.codes import attention_bytes, evenly, levels, linear
from nca_interp.report.packing import COUNTS, Pattern, fit, packed


def unpacked(pattern: Pattern) -> np.ndarray:
    """As player.js reads it."""
    found = np.frombuffer(zlib.decompress(base64.b64decode(pattern.data)), np.uint8).reshape(len(pattern.at), -1)
    return np.cumsum(found, 0, dtype=np.uint8) if pattern.changed else found


def codes_of(stages: list[int], size: int = 300):
    def codes(stage: int, head: tuple[int, int]) -> np.ndarray:
        rng = np.random.default_rng([stage, *head])
        return levels(attention_bytes(rng.dirichlet(np.full(size, 0.1), stages[stage])))

    return codes


HEADS = [(layer, head) for layer in range(3) for head in range(4)]


@pytest.mark.parametrize("allowance", [0, 500, 5_000, 20_000, 80_000, 10_000_000])
def test_what_fits_is_whole_and_no_more_than_allowed(allowance: int):
    stages = [60, 9, 5]
    codes = codes_of(stages)
    found = fit(stages, HEADS, codes, 2, allowance)
    assert sum(p.size for p in found.values()) <= allowance
    for (stage, head), pattern in found.items():
        assert pattern.at[-1] == stages[stage] - 1
        assert (unpacked(pattern) == codes(stage, head)[pattern.at]).all()
    if allowance == 10_000_000:
        assert {(s, h): len(p.at) for (s, h), p in found.items()} == {
            (s, h): n for s, n in enumerate(stages) for h in HEADS
        }
    if allowance == 0:
        assert not found


def test_heads_that_rank_higher_come_first():
    stages = [30, 30]
    found = fit(stages, HEADS, codes_of(stages), 1, 30_000)
    whole = [h for h in HEADS if (p := found.get((0, h))) is not None and len(p.at) > 1]
    assert 0 < len(whole) < len(HEADS)
    assert whole == HEADS[: len(whole)]


def test_of_many_checkpoints_fewer_are_kept():
    stages = [60]
    found = fit(stages, HEADS, codes_of(stages), 1, 30_000)
    counts = {len(p.at) for p in found.values()} - {1}
    assert counts <= set(COUNTS)
    assert max(counts) < 60


def test_scores_are_read_back_within_half_a_step():
    values = np.array([[0.0, 0.3, np.nan, 2.0]])
    codes = linear(values, 0.0, 2.0)
    assert codes[0, 2] == 255
    assert np.nanmax(np.abs(np.where(codes == 255, np.nan, codes / 254 * 2.0) - values)) <= 2.0 / 508
    assert linear(np.array([1.0]), 1.0, 1.0)[0] == 0
    assert packed(np.zeros(3)) == base64.b64encode(zlib.compress(bytes(3), 9)).decode()
    assert evenly(60, 15)[0] == 0
