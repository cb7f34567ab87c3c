"""One run on several processes: how it was launched, and tensors that are sharded over them (FSDP2)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from nca_interp.base import UserError
from nca_interp.machine import refuse_lost_processes, torchrun
from nca_interp.model.roles import layers_of

SHARD = "ACCELERATE_USE_FSDP"
"""What `accelerate launch --use_fsdp` sets."""


class Execution(NamedTuple):
    """How a run is computed here; none of it is part of what the run is. Stands in the provenance of each checkpoint."""

    device: str
    processes: int
    sharded: bool
    """Whether weights, gradients and moments are sharded (FSDP2)."""
    compiled: bool
    micro_batch: int
    """Sequences a forward pass on one process."""
    forward: str = "fast"
    """The project's own pass through a Llama, or "transformers": the family's."""


def start() -> tuple[Accelerator, bool]:
    """Join the process group, if there is one; returns (accelerator, whether to shard).

    `accelerate launch --use_fsdp` or `--shard` asks for FSDP2. It is applied here through torch, on every device alike;
    accelerate leaves it out on CPUs without a word. Raises UserError for a launch that lost its processes.
    """
    refuse_lost_processes()
    sharded = os.environ.pop(SHARD, "false").lower() in ("true", "1")
    try:
        accelerator = Accelerator(mixed_precision="no")  # the forward pass has its own precision
    finally:
        if sharded:
            os.environ[SHARD] = "true"
    if (launched := int(os.environ.get("WORLD_SIZE", "1"))) != accelerator.num_processes:
        raise UserError(
            f"{launched} processes were started, but each of them sees {accelerator.num_processes}; on a machine without "
            "an accelerator set ACCELERATE_USE_CPU=true"
        )
    if sharded and accelerator.num_processes == 1:
        raise UserError(f"--shard: there is one process; start several: {torchrun(2)}")
    return accelerator, sharded


def shard(model: Any, device: torch.device) -> None:
    """Shard a Hugging Face model in place, block by block, the rest (embeddings, last norm) with the root."""
    model.to(device)
    for layer in layers_of(model):
        fully_shard(layer)
    fully_shard(model)


@contextmanager
def synchronised(accelerator: Accelerator, model: Any, last: bool) -> Iterator[None]:
    """Gradients are averaged over the processes in the last backward pass of a step only."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        yield
    elif last:
        yield
    else:
        with accelerator.no_sync(model):
            yield


def reshard(model: Any) -> None:
    """Let go of the weights that a forward pass without a backward pass has gathered; the optimiser knows only the shards."""
    if isinstance(model, FSDPModule):
        model.reshard()


def whole(tensor: Any) -> Any:
    """The whole of a tensor that may be sharded; every process has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """`value` placed as `example` is; every process has to have it."""
    if isinstance(example, DTensor):
        return distribute_tensor(value.to(example.device), example.device_mesh, example.placements)
    return value.to(example.device)
