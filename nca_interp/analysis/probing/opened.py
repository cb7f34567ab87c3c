"""The checkpoint that this process opened last: a worker that measures it again does not read and test it again."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nca_interp.analysis.attention.access import access
from nca_interp.analysis.probing.measure import open_scored
from nca_interp.analysis.stimuli.source import state_of
from nca_interp.machine import give_back

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LAST: dict[tuple[Any, ...], PreTrainedModel] = {}


def open_last(directory: Path, device: str = "cpu", dtype: str = "float32") -> PreTrainedModel:
    """`open_scored`, or the model itself where it was opened here last and its files are the same. For readers alone: who
    changes weights opens a model of their own."""
    key = (directory.resolve(), *state_of(directory), device, dtype)
    if key not in _LAST:
        forget()
        _LAST[key] = open_scored(directory, device, dtype)
    model = _LAST[key]
    access(model)  # whoever had it before may have left it with another attention
    return model


def forget() -> None:
    """Let the model go, if there is one, and give its memory back to the system."""
    if not _LAST:
        return
    _LAST.clear()
    gc.collect()
    give_back()
