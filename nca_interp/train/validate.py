"""Validation: the same rows at every step, for every regime, however many processes share them."""

from __future__ import annotations

import math

import numpy as np
import torch

from nca_interp.base import digest
from nca_interp.model.loss import IGNORE
from nca_interp.store import write_json
from nca_interp.train.batches import to_tensors
from nca_interp.train.loop_state import Loop
from nca_interp.train.parallel import reshard


@torch.no_grad()
def validate(loop: Loop) -> dict[str, float | None]:
    """Mean loss over all validation rows: `val_loss` in nats a token, `val_bpb` in bits a byte (None without bytes)."""
    accelerator, meta = loop.accelerator, loop.tokens.meta
    rows, mask, micro = loop.tokens.val, loop.tokens.val_mask, loop.execution.micro_batch
    world = loop.execution.processes
    mine = np.arange(accelerator.process_index, len(rows), world)
    sums = torch.zeros(2, dtype=torch.float64)
    # sharded weights are gathered by all processes together, so all of them call the model equally often
    for start in range(0, -(-len(rows) // world), micro):
        index = mine[start : start + micro]
        real = len(index) > 0
        index = index if real else np.zeros(1, dtype=np.int64)
        x, y = to_tensors(rows[index], loop.loader.prefix, None if mask is None else mask[index])
        if not real:
            y.fill_(IGNORE)
        nll = loop.raw_model(x.to(accelerator.device), y.to(accelerator.device))
        sums += torch.tensor([float(nll), float((y != IGNORE).sum())], dtype=torch.float64)
    reshard(loop.raw_model)
    total = sums if world == 1 else accelerator.reduce(sums.to(accelerator.device), "sum")
    loss = float(total[0] / total[1])
    return {"val_loss": loss, "val_bpb": loss / math.log(2) / meta.bytes_per_token if meta.bytes_per_token else None}


@torch.no_grad()
def keep_row_losses(loop: Loop) -> None:
    """Write validation.json: summed loss in nats and number of targets of every validation row, and their hash.

    Each row goes through the model alone; sums that are not finite are null. Every process takes part, the first one writes.
    """
    accelerator, rows, mask = loop.accelerator, loop.tokens.val, loop.tokens.val_mask
    world, found = loop.execution.processes, torch.zeros(len(rows), 2, dtype=torch.float64)
    for start in range(0, len(rows), world):
        index = start + accelerator.process_index
        real = index < len(rows)  # sharded weights are gathered together, so all call the model equally often
        chosen = slice(index, index + 1) if real else slice(0, 1)
        x, y = to_tensors(rows[chosen], loop.loader.prefix, None if mask is None else mask[chosen])
        nll = loop.raw_model(x.to(accelerator.device), y.to(accelerator.device))
        if real:
            found[index] = torch.tensor([float(nll), float((y != IGNORE).sum())], dtype=torch.float64)
    reshard(loop.raw_model)
    found = found if world == 1 else accelerator.reduce(found.to(accelerator.device), "sum").cpu()
    if loop.main:
        nll = [value if math.isfinite(value) else None for value in found[:, 0].tolist()]
        kept = {"step": loop.step, "nll": nll, "targets": found[:, 1].long().tolist()}
        write_json(loop.run.validation, {**kept, "sha256": digest(kept)})
