"""The training forward pass of any causal language model: its family's own, where the fast one (model/fast.py) does not know it.

Correct and slower: the whole matrix of logits exists at a time, and no block is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from nca_interp.base import UserError
from nca_interp.model.fast import fast_forward, is_fast
from nca_interp.model.loss import IGNORE


def training_forward(
    model: Any, precision: str, *, compiled: bool = False, checkpointing: bool = False, no_previous_token: bool = False
) -> AbstractContextManager[None]:
    """While the context lasts, `model(inputs, targets)` is the summed loss of the targets in nats (fp32 scalar): by the fast
    pass where it computes the same, else by the model's own, which is never compiled. UserError where `no_previous_token` is asked
    of the latter."""
    if is_fast(model.config):
        return fast_forward(
            model, precision, compiled=compiled, checkpointing=checkpointing, no_previous_token=no_previous_token
        )
    if no_previous_token:
        raise UserError(
            f"no_previous_token: true, which {type(model).__name__} cannot be trained with; legal: false (Llama models can)"
        )
    return own_forward(model, precision, checkpointing=checkpointing)


@contextmanager
def own_forward(model: Any, precision: str, *, checkpointing: bool = False) -> Iterator[None]:
    """`precision` "bf16" is autocast: matrix products in bf16, weights and loss in fp32. `checkpointing`: as transformers does it;
    UserError where the family cannot."""
    if checkpointing and not model.supports_gradient_checkpointing:
        raise UserError(f"gradient_checkpointing: true, which {type(model).__name__} does not support; legal: false")

    def forward(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = type(model).forward(model, input_ids=inputs, use_cache=False).logits
        return F.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE, reduction="sum"
        )  # of no target at all: 0

    try:
        if checkpointing:
            _switch(model, "enable", {"use_reentrant": False})
        model.forward = forward
        yield
    finally:
        model.__dict__.pop("forward", None)
        if checkpointing:
            _switch(model, "disable")


def _switch(model: Any, how: str, *arguments: Any) -> None:
    """transformers 5 renamed it on the way."""
    known = getattr(model, f"activation_checkpointing_{how}", None)
    (known or getattr(model, f"gradient_checkpointing_{how}"))(*arguments)
