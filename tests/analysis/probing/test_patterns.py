"""Which heads are exported whole, and thumbnails that keep a line one token wide."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.tiny import families, tiny_model
from nca_interp.analysis.attention.forward import in_place
from nca_interp.analysis.probing.patterns import (
    LONGEST,
    THUMBNAIL_CELLS,
    WHOLE,
    WHOLE_CELLS,
    export_patterns,
    notable,
    thumbnails,
    whole_limit,
)
from nca_interp.analysis.stimuli.base import repeated_tokens


@pytest.mark.parametrize(("length", "side"), [(128, 32), (100, 32), (17, 17)])
def test_a_thumbnail_is_the_largest_of_each_block(length: int, side: int):
    maps = np.random.default_rng(0).random((2, 3, length, length)).astype(np.float16)
    found = np.stack([thumbnails(layer, 6) for layer in maps])
    assert found.shape == (2, 3, side, side)
    edges = [i * length // side for i in range(side)] + [length]
    for q, k in ((0, 0), (3, 5), (side - 1, side - 1)):
        block = maps[1, 2, edges[q] : edges[q + 1], edges[k] : edges[k + 1]]
        assert found[1, 2, q, k] == block.max()


def test_a_line_one_token_wide_stays_and_large_models_have_smaller_thumbnails():
    maps = np.zeros((24, 32, 128, 128), np.float16)
    maps[5, 7, np.arange(40, 128), np.arange(88)] = 1
    found = np.stack([thumbnails(layer, 24 * 32) for layer in maps])
    assert found.shape == (24, 32, 14, 14)
    assert found.size <= THUMBNAIL_CELLS
    assert (found[5, 7].max(1)[5:] == 1).all()
    assert found.sum() == found[5, 7].sum()


def test_small_models_export_all_heads_and_large_ones_the_best_of_each_probe():
    assert notable(pd.DataFrame({"probe": [], "layer": [], "head": [], "value": []}), 2, 2) == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    rng = np.random.default_rng(1)
    rows = [
        {"probe": probe, "layer": layer, "head": head, "value": rng.random()}
        for probe in ("a", "b", "c") for layer in range(8) for head in range(8)
    ]  # fmt: skip
    rows += [
        {"probe": "whole model", "layer": None, "head": None, "value": 9.0},
        {"probe": "a", "layer": 0, "head": 0, "value": None},
    ]
    scores = pd.DataFrame(rows)
    chosen = notable(scores, 8, 8, limit=9)
    assert len(chosen) == 9
    assert chosen == sorted(chosen)
    for probe in ("a", "b", "c"):
        best = scores[scores.probe == probe].nlargest(2, "value")
        assert {(int(r.layer), int(r.head)) for r in best.itertuples()} <= set(chosen)
    assert len(notable(scores[:0], 8, 8, limit=9)) == 9  # nothing measured: the first heads


def test_more_sequences_leave_fewer_whole_patterns():
    assert whole_limit(4) == WHOLE
    for sequences in (4, 8, 10, 15):
        assert whole_limit(sequences) * sequences * LONGEST**2 <= WHOLE_CELLS
    assert whole_limit(100) == 8  # the fewest, whatever it costs


def test_layers_without_attention_keep_their_place(tmp_path):
    """RecurrentGemma: layer 0 is recurrent, layer 1 attends."""
    tiny_model(families()["recurrent_gemma"]).save_pretrained(tmp_path)
    found = export_patterns(tmp_path, pd.DataFrame(), {"twice": repeated_tokens(period=8, sequences=2)})[0]
    heads = found.thumbnails.shape[1]
    assert found.thumbnails.shape[0] == 2
    assert not found.thumbnails[0].any()
    assert found.thumbnails[1].reshape(heads, -1).any(1).all()
    assert found.entry["whole"] == [[1, head] for head in range(heads)]
    np.testing.assert_allclose(found.patterns.sum(-1), 1, atol=0.01)


def test_layers_are_put_in_their_place():
    found = in_place({1: np.ones((2, 5)), 3: np.full((1, 5), 2.0)}, (3, 2))
    assert found.shape == (4, 2, 5)
    assert found.sum((1, 2)).tolist() == [0, 10, 0, 10]
    assert np.array_equal(in_place({0: np.arange(6.0).reshape(2, 3)}, (1, 2))[0], np.arange(6.0).reshape(2, 3))
