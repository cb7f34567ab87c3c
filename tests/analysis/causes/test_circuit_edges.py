"""Edges between heads of named kinds: joined with the scores, in order, and said in one sentence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nca_interp.analysis.causes.circuit_edges import circuit_edges, sentence
from nca_interp.analysis.causes.summary import strongest


def _tables(hits: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    who = {"run": "a", "domain": "", "seed": 0, "stage": "", "regime": "r", "step": 4}
    pairs = [((0, 1), (1, 2), 9.0), ((0, 3), (1, 2), 5.0), ((0, 1), (1, 0), 4.0), ((0, 0), (1, 1), 0.5)]
    causes = pd.DataFrame([
        {**who, "probe": probe, "at": at, "from_layer": a[0], "from_head": a[1], "layer": b[0], "head": b[1], "value": 0.1 + 0.01 * z, "chance": 0.1, "sd": 0.01}
        for at in ("offset 0", "mean of 3 offsets") for probe in ("q_composition", "k_composition") for a, b, z in pairs
    ])  # fmt: skip
    heads = {"previous_token": {(0, 1)}, "induction": {(1, 2), (1, 0)}, "entropy": set()}
    probes = pd.DataFrame([
        {**who, "probe": probe, "layer": n, "head": h, "value": 0.9 if (n, h) in ours else 0.1, "hit": (float((n, h) in ours) if probe != "entropy" else np.nan) if hits else np.nan}
        for probe, ours in heads.items() for n in range(2) for h in range(20)
    ])  # fmt: skip
    return causes, probes


@pytest.mark.parametrize("hits", [True, False])
def test_kinds_of_both_ends_stand_beside_the_strongest_pairs(hits):
    found = circuit_edges(*_tables(hits))
    keys = found[found.kind == "K"]
    assert list(found.kind) == ["Q"] * 4 + ["K"] * 4
    assert list(keys.order) == [1, 2, 3, 4]
    assert list(keys.z) == pytest.approx([9, 5, 4, 0.5])
    assert "previous_token" in keys.from_kinds.iloc[0].split()
    assert "induction" in keys.kinds.iloc[0].split()
    assert "entropy" not in " ".join([*keys.from_kinds, *keys.kinds])
    assert sentence(found) == (
        "2 of the 4 strongest K-compositions lead from a previous-token head to an induction head: 0.1 -> 1.2 (z 9), "
        "0.1 -> 1.0 (z 4)."
    )
    assert strongest(found)[1][4][:3] == ["K", "0.1 previous_token", "1.2 induction"]


def test_other_heads_and_no_compositions_are_said_so():
    causes, probes = _tables(True)
    none = circuit_edges(causes, probes.assign(hit=0.0))
    assert sentence(none) == "0 of the 4 strongest K-compositions lead from a previous-token head to an induction head."
    empty = circuit_edges(causes[:0], probes)
    assert empty.empty
    assert sentence(empty) == ""
