"""What is chosen for a machine."""

from __future__ import annotations

import pytest
import torch

from nca_interp import machine


@pytest.mark.parametrize(
    ("native", "gpu", "d_model", "expected"),
    [
        (True, False, 64, "fp32"),
        (True, False, 128, "bf16"),
        (True, True, 64, "bf16"),
        (False, False, 2048, "fp32"),
        (False, True, 2048, "fp32"),
    ],
)
def test_auto_precision_is_bf16_where_it_is_faster(monkeypatch, native, gpu, d_model, expected):
    monkeypatch.setattr(machine, "native_bf16", lambda: native)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert machine.resolve_precision("auto", d_model) == expected
    assert machine.resolve_precision("fp32", d_model) == "fp32"
    assert machine.resolve_precision("bf16", d_model) == "bf16"
