"""One optimiser step: gradients of the global batch, their norms, the run's health, the update."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import torch

from nca_interp.train.batches import Batch, learning_rate
from nca_interp.train.health import Verdict
from nca_interp.train.loop_state import Loop
from nca_interp.train.parallel import synchronised, whole

GROUPS = ("embed", "attn", "mlp", "norm")


class Step(NamedTuple):
    """What one step was like."""

    loss: float
    """Nats a token over the global batch, before the update."""
    grad_norms: dict[str, float]
    """Euclidean norm of the gradient before clipping, for each of GROUPS and for all ("total")."""
    verdict: Verdict


def update(loop: Loop) -> Step:
    """Take one step, or leave it out where its loss or gradient is not well."""
    stage = loop.config.config
    rate = learning_rate(
        loop.step,
        steps=stage.horizon or stage.steps,
        lr=stage.lr,
        warmup=stage.warmup,
        schedule=stage.schedule,
        min_lr_ratio=stage.min_lr_ratio,
    )
    for group in loop.optimizer.param_groups:
        group["lr"] = rate
    loss = _backward(loop, loop.loader.get(loop.step))
    norms = _grad_norms(loop)
    # the only point at which the processor waits for the device
    total, *values = torch.stack([loop.accelerator.reduce(loss, "sum"), *norms.values()]).tolist()
    grad_norms = dict(zip(norms, values, strict=True))
    verdict = loop.health.judge(total, grad_norms["total"])
    if not verdict.skip:
        frozen = loop.step < loop.config.swap.freeze_body
        if frozen:
            _forget_body(loop)
        _clip(loop, grad_norms["embed" if frozen else "total"], stage.clip)
        loop.optimizer.step()
    loop.optimizer.zero_grad(set_to_none=True)
    return Step(total, grad_norms, verdict)


def attempt(loop: Loop, rows: int) -> None:
    """Do what a step does with `rows` sequences at once, as far as memory is concerned, and leave nothing behind."""
    moments = [torch.empty_like(p) for p in loop.raw_model.parameters() for _ in range(2)]
    batch = loop.loader.get(loop.step)
    try:
        with synchronised(loop.accelerator, loop.model, last=False):
            loop.model(batch.inputs[:rows], batch.targets[:rows]).backward()
    finally:
        loop.optimizer.zero_grad(set_to_none=True)
        del moments


def _backward(loop: Loop, batch: Batch) -> torch.Tensor:
    """Accumulate the gradient of the mean over all targets of the global batch; returns this process's part of the loss."""
    total = torch.zeros((), device=loop.accelerator.device)
    parts = list(zip(*(x.split(loop.execution.micro_batch) for x in (batch.inputs, batch.targets)), strict=True))
    for index, (inputs, targets) in enumerate(parts):
        with synchronised(loop.accelerator, loop.model, last=index == len(parts) - 1):
            loss = loop.model(inputs, targets) / batch.n_targets
            (loss * loop.execution.processes).backward()  # gradients are averaged over processes, the loss is a sum
        total += loss.detach()
    return total


def _grad_norms(loop: Loop) -> dict[str, torch.Tensor]:
    gradients: dict[str, list[torch.Tensor]] = defaultdict(list)
    for name, parameter in loop.raw_model.named_parameters():
        if parameter.grad is not None:
            gradients[loop.kinds[name]].append(parameter.grad)
    norms = {group: whole(torch.nn.utils.get_total_norm(gradients[group])) for group in GROUPS}
    return norms | {"total": torch.linalg.vector_norm(torch.stack(list(norms.values())))}


def _forget_body(loop: Loop) -> None:
    """AdamW passes over what has no gradient: no update, no decay, no moments. The backward pass stays whole, so that neither a
    compiled block nor the exchange between processes depends on the step."""
    for name, parameter in loop.raw_model.named_parameters():
        if loop.kinds[name] != "embed":
            parameter.grad = None


def _clip(loop: Loop, norm: float, limit: float | None) -> None:
    if limit is None or norm <= limit:
        return
    gradients = [p.grad for p in loop.raw_model.parameters() if p.grad is not None]
    torch._foreach_mul_(gradients, limit / (norm + 1e-6))
