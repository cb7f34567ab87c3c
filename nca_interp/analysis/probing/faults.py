"""What a probe or a stimulus may not return: wrong type or shape, NaN, values outside the declared range, unknown tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nca_interp.analysis.probing.probe import Probe
from nca_interp.analysis.stimuli.base import Batch, Subject

TOLERANCE = 1e-4
"""A result may leave its declared range by this much (rounding)."""


def fault_of_value(value: Any, shape: tuple[int, ...], probe: Probe, nan: bool) -> str | None:
    if not isinstance(value, torch.Tensor):
        return f"{type(value).__name__}; legal: a tensor of shape {list(shape)}"
    if value.is_complex():
        return f"{value.dtype}; legal: real numbers"
    if tuple(value.shape) != shape:
        return f"shape {list(value.shape)}; legal: {list(shape)}"
    finite = value[~value.isnan()].float()
    if (value.isnan().any() and not nan and probe.reads not in ("attention", "heads")) or finite.isinf().any():
        return "NaN or infinity"
    for bound, outside in (
        (probe.low, lambda b: finite.min() < b - TOLERANCE),
        (probe.high, lambda b: finite.max() > b + TOLERANCE),
    ):
        if bound is not None and len(finite) and bool(outside(bound)):
            return f"values from {finite.min():.6g} to {finite.max():.6g}; its declared range is {probe.low} to {probe.high}"
    return None


def fault_of_batch(batch: Any, subject: Subject) -> str | None:
    """What makes a built stimulus one that the model cannot take."""
    if not isinstance(batch, Batch):
        return f"its stimulus built a {type(batch).__name__}; legal: a Batch"
    for what, tokens in (("inputs", batch.inputs), ("targets", batch.targets)):
        if not (isinstance(tokens, np.ndarray) and tokens.dtype.kind in "iu" and tokens.ndim == 2 and tokens.size):
            told = f"{tokens.dtype} {list(tokens.shape)}" if isinstance(tokens, np.ndarray) else type(tokens).__name__
            return f"its stimulus has {what} {told}; legal: whole numbers of NumPy [sequence, position]"
    if len(batch.inputs) != len(batch.targets) or batch.length - batch.targets.shape[1] not in (0, 1):
        return (
            f"its stimulus has inputs {list(batch.inputs.shape)} and targets {list(batch.targets.shape)}; legal: a target for each "
            "input, or for each but the last"
        )
    if batch.length > subject.n_ctx:
        return f"its stimulus has {batch.length} tokens a sequence; the model's context holds {subject.n_ctx}"
    for tokens in (batch.inputs, batch.targets):
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < subject.vocab_size:
            return f"its stimulus holds tokens {tokens.min()} to {tokens.max()}; the model knows 0 to {subject.vocab_size - 1}"
    return None
