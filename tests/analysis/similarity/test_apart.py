"""Distance and angle of two models' tensors."""

from __future__ import annotations

import math

import pytest
import torch

from nca_interp.analysis.similarity.apart import distances

NAME = "model.layers.3.self_attn.q_proj.weight"


def _row(a: torch.Tensor, b: torch.Tensor) -> dict:
    (row,) = distances({NAME: a}, {NAME: b}).to_dict("records")
    return row


def test_planted_distances():
    a = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    same, double, opposite = (_row(a, factor * a) for factor in (1, 2, -1))
    assert (same["layer"], same["kind"]) == (3, "attn")
    assert same["distance"] == 0.0
    assert [r["distance"] for r in (double, opposite)] == pytest.approx([1.0, 2.0])
    assert [r["cosine"] for r in (same, double, opposite)] == pytest.approx([1.0, 1.0, -1.0])
    turned = _row(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    assert (turned["distance"], turned["cosine"]) == (pytest.approx(math.sqrt(2)), pytest.approx(0.0))


def test_only_what_both_hold_in_one_shape():
    a = {NAME: torch.ones(2, 2), "model.norm.weight": torch.ones(2), "lm_head.weight": torch.zeros(2)}
    b = {NAME: torch.ones(2, 3), "lm_head.weight": torch.ones(2)}
    (row,) = distances(a, b).to_dict("records")
    assert (row["tensor"], row["kind"]) == ("lm_head.weight", "embed")
    assert math.isnan(row["distance"])
    assert math.isnan(row["cosine"])
