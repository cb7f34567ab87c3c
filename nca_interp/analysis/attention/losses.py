"""Loss of every target from hidden states that are there already: the backbone runs once, its logits never stand whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
import torch.nn.functional as F

LOGIT_ELEMENTS = 2**22
"""Logits held at a time."""


class _Given(torch.nn.Module):
    """Stands in for a backbone and returns what that returned, with other hidden states."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = copy(output)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.output


@contextmanager
def _without_backbone(model: Any, output: Any) -> Iterator[_Given]:
    """`model` with its backbone replaced, so that calling it applies the head alone, as its family does."""
    name, backbone, given = model.base_model_prefix, model.base_model, _Given(output)
    setattr(model, name, given)
    try:
        yield given
    finally:
        setattr(model, name, backbone)


def read_logits(
    model: Any, output: Any, hidden: torch.Tensor, ids: torch.Tensor, read: Callable[[slice, torch.Tensor], None]
) -> None:
    """Call read(places, logits [place, vocabulary] in fp32) for all of hidden [place, d_model], a few at a time.

    `output` is what the backbone returned for some input; `ids` [place] are the tokens that stand there.
    """
    step = max(1, LOGIT_ELEMENTS // model.config.get_text_config().vocab_size)
    with torch.inference_mode(), _without_backbone(model, output) as given:
        for start in range(0, len(hidden), step):
            part = slice(start, min(len(hidden), start + step))
            given.output.last_hidden_state = hidden[None, part]
            read(part, model(input_ids=ids[None, part], use_cache=False).logits[0].float())


def token_losses(model: Any, output: Any, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Loss in nats [batch, position], fp32, of targets [batch, <= position] given what the backbone returned."""
    n = targets.shape[1]
    # the head treats every position alike: all of them as one long sequence, in pieces
    hidden, ids, wanted = output.last_hidden_state[:, :n].flatten(0, 1), inputs[:, :n].flatten(), targets.flatten()
    losses = torch.empty(targets.numel(), dtype=torch.float32, device=targets.device)

    def read(part: slice, logits: torch.Tensor) -> None:
        losses[part] = F.cross_entropy(logits, wanted[part], reduction="none")

    read_logits(model, output, hidden, ids, read)
    return losses.view(targets.shape)
