"""The model that was opened last: the same object while its files are the same, never one of other weights."""

from __future__ import annotations

import weakref

import pytest
import torch

from nca_interp.analysis.attention.kernel import FAST
from nca_interp.analysis.probing import opened
from nca_interp.analysis.probing.opened import forget, open_last
from tests.analysis.models import tiny


@pytest.fixture
def folder(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "model")
    yield tmp_path / "model"
    forget()


def test_it_is_opened_once_and_read_as_before(folder):
    model = open_last(folder)
    model.set_attn_implementation("eager")
    assert open_last(folder) is model
    assert model.config._attn_implementation == FAST


def test_other_weights_precision_or_folder_are_another_model(folder, tmp_path):
    first = open_last(folder)
    assert open_last(folder, dtype="bfloat16").dtype == torch.bfloat16
    other = tiny("llama")
    with torch.no_grad():
        other.model.norm.weight.fill_(0.5)
    other.save_pretrained(folder)
    again = open_last(folder)
    assert again is not first
    assert float(again.model.norm.weight.max()) == 0.5
    tiny("llama").save_pretrained(tmp_path / "other")
    assert open_last(tmp_path / "other") is not again


def test_at_most_one_is_held(folder):
    model = weakref.ref(open_last(folder))
    open_last(folder, dtype="bfloat16")
    assert len(opened._LAST) == 1
    forget()
    assert model() is None
    assert not opened._LAST
