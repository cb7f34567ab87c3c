"""Compositions of many heads: against the partners of both, found where planted, silent on random weights, in flat memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from nca_interp.analysis.causes.composition import composition_scores
from nca_interp.analysis.causes.partners import STRONGEST, expected, spread
from tests.analysis.models import composing_heads


def test_a_product_of_strengths_is_expected_whatever_a_few_pairs_do():
    rng = np.random.default_rng(0)
    values = rng.uniform(0.1, 2, (30, 1)) * rng.uniform(0.1, 2, (1, 30))
    values[np.tril_indices(30)] = np.nan
    odd = values.copy()
    odd[2, 20] *= 5
    found = expected(odd)
    there = np.isfinite(values)
    assert np.allclose(found[there], values[there], rtol=1e-4)
    noisy = values * (1 + 0.1 * rng.normal(size=values.shape))
    assert spread(noisy, values) == pytest.approx(0.1, rel=0.1)


def test_a_planted_edge_is_the_strongest_and_no_other_kind_sees_it():
    found = composition_scores(composing_heads(6, 24, ((1, 5), (4, 7))))
    found["z"] = (found.value - found.chance) / found.sd
    assert len(found) == 3 * STRONGEST
    first = found[found.probe == "k_composition"].iloc[0]
    assert (first.from_layer, first.from_head, first.layer, first["head"]) == (1, 5, 4, 7)
    assert first.z > 8
    assert first.n == 24 * 24 * 15
    assert found[found.probe != "k_composition"].z.max() < 6


def test_few_pairs_exceed_three_where_nothing_is_planted_though_all_exceed_random_directions():
    found = composition_scores(composing_heads(6, 24))
    found["z"] = (found.value - found.chance) / found.sd
    assert (found.chance > 1.3 * 96**-0.5).mean() > 0.9  # all share a quarter of the stream
    for _, kind in found.groupby("probe"):
        assert (kind.z > 3).sum() / kind.n.iloc[0] < 0.01


MEASURE = """
import resource
from nca_interp.analysis.causes.composition import composition_scores
from tests.analysis.models import composing_heads
weights = composing_heads({layers}, 12)
composition_scores(composing_heads(11, 12))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
composition_scores(weights)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units")
def test_memory_does_not_grow_with_the_pairs_of_layers(root):
    out = subprocess.run(
        [sys.executable, "-c", MEASURE.format(layers=30)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=root,
        check=True,
    )
    pairs = (30 * 12) ** 2 * 8 * 2  # one matrix of all pairs, at offset 0 and averaged
    assert int(out.stdout) * 1024 < 30 * pairs
