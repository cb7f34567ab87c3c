"""The gzip ratio is gzip's, and blind to order."""

from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nca_interp.data.complexity.gzip_score import gzip_floor_ceiling, gzip_ratio, gzip_ratios
from nca_interp.data.nca import rules as nca
from nca_interp.data.specs import NcaSpec


@given(st.binary(min_size=1, max_size=3000))
def test_ratio_is_gzips(data):
    assert gzip_ratio(data) == len(gzip.compress(data, 9)) / len(data)


def check_ratios(rows: np.ndarray) -> None:
    if "ng" in zlib.ZLIB_RUNTIME_VERSION:
        pytest.skip("this Python has zlib-ng instead of zlib: other lengths at the same level")
    expected = [len(gzip.compress(row.tobytes(), 9)) / len(row) for row in rows]
    assert gzip_ratios(np.ascontiguousarray(rows)).tolist() == expected


@given(
    st.lists(st.integers(0, 255), min_size=1, max_size=40).flatmap(
        lambda part: st.lists(st.sampled_from(part), min_size=1, max_size=2000)
    )
)
def test_compiled_ratio_is_zlibs(data):
    check_ratios(np.array([data], np.uint8))


@pytest.mark.parametrize("n_bytes", [1, 2, 3, 4, 258, 262, 1024, 1025, 1440, 4100, 16_000, 16_001])
def test_compiled_ratio_is_zlibs_for_runs_periods_noise_and_skew(n_bytes):
    """Runs (long chains), noisy periods (long and far matches) and noise that cannot be compressed (a stored block)."""
    rng, rows = np.random.default_rng(n_bytes), []
    for alphabet in (1, 2, 10, 256):
        period = np.resize(rng.integers(0, alphabet, 37), n_bytes)
        rows += [
            rng.integers(0, alphabet, n_bytes),
            np.repeat(rng.integers(0, alphabet, -(-n_bytes // 20)), 20)[:n_bytes],
        ]
        rows += [np.where(rng.random(n_bytes) < 0.02, rng.integers(0, alphabet, n_bytes), period)]
    check_ratios(np.array(rows, np.uint8))


def test_compiled_ratio_is_zlibs_where_codes_get_too_long():
    """Log-normal frequencies: in some of these rows the code of the code lengths passes its limit of seven bits."""
    rng = np.random.default_rng(0)
    for _ in range(150):
        weights = rng.lognormal(0, rng.uniform(1, 2), 220)
        check_ratios(rng.choice(220, (1, rng.integers(800, 4000)), p=weights / weights.sum()).astype(np.uint8))


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
