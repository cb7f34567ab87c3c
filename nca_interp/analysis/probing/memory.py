"""A model that is already in memory, as the probes read it: its attention handed out, and all as it was afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from nca_interp.analysis.attention.kernel import register
from nca_interp.base import UserError, digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def is_model(value: Any) -> bool:
    """Whether it is a model, not the name of one; UserError for one that is not a causal language model of transformers."""
    if isinstance(value, str | Path):
        return False
    from transformers import PreTrainedModel

    if not isinstance(value, PreTrainedModel) or value.get_output_embeddings() is None:
        raise UserError(
            f"checkpoint: {type(value).__name__}; legal: a directory, org/name[@revision] of the hub, or a causal language model "
            "of transformers (a PreTrainedModel that gives logits)"
        )
    return True


@contextmanager
def handing_out(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode and the attention function that hands out scores, where the model's class allows another attention."""
    attention, training = model.config._attn_implementation, {m: m.training for m in model.modules()}
    model.eval()
    try:
        model.set_attn_implementation(register() if model._can_set_attn_implementation() else attention)
        yield
    finally:
        model.set_attn_implementation(attention)
        for module, mode in training.items():
            module.training = mode


def name_of(model: PreTrainedModel) -> str:
    """What it was loaded from, else its class."""
    return model.name_or_path or type(model).__name__


def weights_of(model: PreTrainedModel) -> str:
    """Identity of the weights: of name, precision, shape and content of every tensor."""
    tensors = ((name, tensor.detach().cpu().contiguous()) for name, tensor in model.state_dict().items())
    return digest({
        name: [str(t.dtype), list(t.shape), hashlib.sha256(t.reshape(-1).view(torch.uint8).numpy()).hexdigest()]
        for name, t in tensors
    })  # fmt: skip


@contextmanager
def on_disk(tokenizer: Any) -> Iterator[Path | None]:
    """Where the files of a tokenizer lie while the body runs: its path, or of a fast one of transformers a copy."""
    if tokenizer is None or isinstance(tokenizer, str | Path):
        yield None if tokenizer is None else Path(tokenizer)
        return
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"tokenizer: {type(tokenizer).__name__}; legal: a file, a folder, a name on the hub, or a fast tokenizer of "
            "transformers; probes are named with probes="
        )
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        yield Path(folder)
