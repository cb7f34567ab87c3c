"""Loss of every target from hidden states that are there already: the backbone runs once, its logits never stand whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from nca_interp.analysis.attention.access import backbone
from nca_interp.analysis.attention.backbone import only_head

LOGIT_ELEMENTS = 2**22
"""Logits held at a time."""
PLACES = 2**12
"""Positions at a time, whatever the vocabulary: some heads lie in wrappers that make masks of all positions."""


def read_logits(
    model: Any, output: Any, hidden: torch.Tensor, ids: torch.Tensor, read: Callable[[slice, torch.Tensor], None]
) -> None:
    """Call read(places, logits [place, vocabulary] in fp32) for all of hidden [place, d_model], a few at a time.

    `output` is what the backbone returned for some input; `ids` [place] are the tokens that stand there.
    """
    step = min(PLACES, max(1, LOGIT_ELEMENTS // model.config.get_text_config().vocab_size))
    with torch.inference_mode(), only_head(model, backbone(model), output) as given:
        for start in range(0, len(hidden), step):
            part = slice(start, min(len(hidden), start + step))
            given.last_hidden_state = hidden[None, part]
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
