"""The positive controls are positive: tiny models grow what a control is for, and the project's instruments find it.

Settings and thresholds: docs/controls.md, with what several seeds gave.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import nca_interp
from nca_interp.analysis.causes.ablation import ablate_sets
from nca_interp.analysis.causes.effects import repeated_task
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.stimuli.base import Subject
from nca_interp.base import stream_seed
from nca_interp.config import ModelConfig
from nca_interp.data.control_rows import control_rows, ideal_losses
from nca_interp.data.controls.base import Control
from nca_interp.data.controls.markov import MarkovSpec
from nca_interp.data.controls.repeat import RepeatSpec
from nca_interp.model.llama import build

SEED = 0


def training(spec: Control, shape: ModelConfig, batch: int, lr: float, steps: int):
    """A model after every step on new rows, constant learning rate after 30 steps: yields (step, model)."""
    model = build(shape, spec.vocab_size, stream_seed(SEED, "controls"), "ppt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    chunks = control_rows(spec, SEED, "train", steps * batch, shape.n_ctx + 1, threads=1)
    rows = itertools.chain.from_iterable(chunk.tokens.astype(np.int64) for chunk in chunks)
    for step in range(1, steps + 1):
        tokens = torch.from_numpy(np.stack(list(itertools.islice(rows, batch))))
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, step / 30)
        loss = losses(model, tokens).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield step, model


def losses(model, tokens: torch.Tensor) -> torch.Tensor:
    """Nats [row, target]."""
    logits = model(input_ids=tokens[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
