"""The gzip ratio is gzip's, and blind to order."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nca_interp.data import nca
from nca_interp.data.gzip_score import gzip_floor_ceiling, gzip_ratio
from nca_interp.data.specs import NcaSpec


@given(st.binary(min_size=1, max_size=3000))
def test_ratio_is_gzips(data):
    assert gzip_ratio(data) == len(gzip.compress(data, 9)) / len(data)


def test_empty_is_refused():
    with pytest.raises(ValueError, match="at least one byte"):
        gzip_ratio(b"")


@pytest.mark.parametrize(
    ("states", "int32", "uint16"),
    [(2, 0.246, 0.443), (4, 0.425, 0.762), (8, 0.624, 0.951), (10, 0.670, 1.02), (15, 0.725, 1.03)],
)
def test_reach_for_the_papers_length(states, int32, uint16):
    """360 iid tokens of 2x2 patches, as measured on the released code (int32) and as uint16."""
    assert gzip_floor_ceiling(360, states**4, np.int32).ceiling == pytest.approx(int32, abs=0.015)
    assert gzip_floor_ceiling(360, states**4, np.uint16).ceiling == pytest.approx(uint16, abs=0.025)
    assert gzip_floor_ceiling(360, states**4, np.int32).floor == pytest.approx(0.022, abs=0.003)


def test_permuted_tokens_score_nearly_the_same():
    """So a band selects the distribution of tokens, hardly their dynamics; nobody should read more into it."""
    spec = NcaSpec(variant="release", tau=1e-4, band=None)
    keys = nca.rule_keys(0, "train", np.arange(40))
    frames = nca.simulate(spec, nca.make_rules(spec, keys), nca.trajectory_keys(keys, 0), 10)
    tokens = nca.patch_tokens(spec, frames).reshape(40, -1).astype("<i4")
    shuffled = np.random.default_rng(0).permuted(tokens, axis=1)
    scores = np.array(
        [[gzip_ratio(a.tobytes()), gzip_ratio(b.tobytes())] for a, b in zip(tokens, shuffled, strict=True)]
    )
    active = scores[scores[:, 0] > 0.4]
    assert len(active) > 10
    assert np.abs(active[:, 0] - active[:, 1]).max() < 0.05
