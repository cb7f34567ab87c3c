"""One forward pass of a stimulus, whose layers are handed to a sink, in slices that bound its memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nca_interp.analysis.attention.access import access, backbone, reading
from nca_interp.analysis.attention.losses import token_losses
from nca_interp.analysis.stimuli.base import Batch
from nca_interp.borders import border

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PASS_TOKENS = 2**12
"""Tokens of a forward pass; a longer stimulus goes through in slices of whole sequences."""


def slices(batch: Batch) -> list[Batch]:
    """A stimulus in slices of whole sequences, each for one forward pass."""
    rows, n = max(1, PASS_TOKENS // batch.length), len(batch.inputs)
    if rows >= n:
        return [batch]
    if ("slices", rows) not in batch.memo:  # kept, for each keeps what is known of its tokens
        batch.memo["slices", rows] = [batch.rows(start, min(n, start + rows)) for start in range(0, n, rows)]
    kept: list[Batch] = batch.memo["slices", rows]
    return kept


def forward(
    model: PreTrainedModel, part: Batch, sink: Any, loss: bool, wanted: Iterable[str], skipped: dict[str, str]
) -> torch.Tensor:
    """Run the backbone, and the head if its loss is wanted; returns the loss of each target [batch, position] (or nothing).

    Where the attention of the model cannot be read, `skipped` says for each of `wanted` why.
    """
    found = access(model)
    if sink is not None and found.way == "none":
        skipped.update(dict.fromkeys(wanted, found.reason))
        sink = None
    if sink is None and not loss:
        return torch.empty(0)
    tokens = torch.from_numpy(np.asarray(part.inputs, dtype=np.int64)).to(model.device)
    with (
        border("its forward pass fails", model.name_or_path or type(model).__name__),
        torch.inference_mode(),
        ExitStack() as stack,
    ):
        options = stack.enter_context(reading(model, sink)) if sink else {}
        out = backbone(model)(input_ids=tokens, use_cache=False, **options)
    if not loss:
        return torch.empty(0)
    targets = torch.from_numpy(np.asarray(part.targets, dtype=np.int64)).to(model.device)
    return token_losses(model, out, tokens, targets).cpu()


def in_place(layers: Mapping[int, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """[layer, head, ...] of what the layers that attend gave [head, ...], by number; 0 where one does not attend or has fewer
    heads. `shape`: layers and heads of the model, at least."""
    one = next(iter(layers.values()))
    size = max(shape[0], max(layers) + 1), max(shape[1], *(len(heads) for heads in layers.values()))
    found = np.zeros((*size, *one.shape[1:]), one.dtype)
    for number, heads in layers.items():
        found[number, : len(heads)] = heads
    return found
