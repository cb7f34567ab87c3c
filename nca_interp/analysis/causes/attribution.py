"""Attribution patching: what ablating each head would do, to first order, for all heads from one backward pass a metric.

(mean output - output) . gradient of the metric, summed over positions and d_head (Nanda 2023; Syed et al. 2023, arXiv 2310.10348).
Exact where the metric is linear in what heads put out; elsewhere a ranking, to be checked by ablation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nca_interp.analysis.attention.backbone import only_head
from nca_interp.analysis.attention.heads import PROJECTIONS, child
from nca_interp.analysis.attention.losses import LOGIT_ELEMENTS
from nca_interp.analysis.causes.ablation import mean_outputs
from nca_interp.analysis.causes.effects import Scored, Task
from nca_interp.analysis.causes.resume import Trunk

TOKENS = 2**9
"""Tokens of a backward pass, which keeps what each layer made of them."""


def attribute(trunk: Trunk, task: Task, means: list[torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """By metric, the first-order effect of mean-ablating each head [layer, head, sequence]; metrics without a gradient (an
    accuracy) are left out. `means`: those of `mean_outputs`, where they are known."""
    means = means or mean_outputs(trunk, task)
    rows, n = max(1, TOKENS // task.batch.length), len(task.batch.inputs)
    slices = [replace(task, batch=task.batch.rows(start, min(n, start + rows))) for start in range(0, n, rows)]
    parts = [_slice(trunk, part, means) for part in slices]
    return {name: torch.cat([part[name] for part in parts], -1) for name in parts[0]}


def _slice(trunk: Trunk, task: Task, means: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    inputs = task.tokens(trunk.model.device)
    with _open(trunk) as (shifts, outputs):
        output = trunk.backbone(input_ids=inputs, use_cache=False)
        hidden = output.last_hidden_state
        found = {}
        for name, gradient in _at_hidden(trunk, task, output, inputs):
            slopes = torch.autograd.grad(hidden, shifts, gradient.to(hidden.dtype), retain_graph=True)
            effects = [_effect(*each, trunk.n_heads) for each in zip(slopes, outputs, means, strict=True)]
            found[name] = torch.stack(effects).double().cpu()
    return found


def _effect(slope: torch.Tensor, output: torch.Tensor, mean: torch.Tensor, n_heads: int) -> torch.Tensor:
    """[head, sequence] of slope and output [batch, position, heads * d_head] and mean [position or 1, head, d_head]."""
    slope, output = (t.unflatten(-1, (n_heads, -1)).float() for t in (slope, output))
    return ((mean.to(output) - output) * slope).sum((1, 3)).T


@contextmanager
def _open(trunk: Trunk) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
    """Inside, a pass has gradients; yields, a layer each, zeros that are added to what its heads put out, and what they do."""
    shifts: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []

    def add(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        shifts.append(torch.zeros_like(args[0]).requires_grad_())
        outputs.append(args[0].detach())
        return (args[0] + shifts[-1], *args[1:])

    learned = [p for p in trunk.model.parameters() if p.requires_grad]
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        for parameter in learned:
            parameter.requires_grad_(False)
            stack.callback(parameter.requires_grad_, True)
        for layer in range(trunk.n_layers):
            part = child(trunk.attention(layer), PROJECTIONS, "output projection")
            stack.callback(part.register_forward_pre_hook(add).remove)
        yield shifts, outputs


def _at_hidden(trunk: Trunk, task: Task, output: Any, inputs: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Of each metric that has one, its name and gradient at the last hidden states; a few logits at a time."""
    places = torch.from_numpy(np.flatnonzero(task.counts)).to(inputs.device)
    targets = torch.from_numpy(np.asarray(task.batch.targets, dtype=np.int64)).to(inputs.device)
    hidden = output.last_hidden_state.detach()[:, places].flatten(0, 1)
    nll, slopes = _losses(trunk, output, hidden, inputs[:, places].flatten(), targets[:, places].flatten())
    whole = torch.zeros(targets.shape, device=nll.device)
    whole[:, places] = nll.view(len(targets), -1)
    whole = whole.cpu().requires_grad_()
    for name, metric in task.metrics.items():
        values = metric.values(Scored(whole, torch.zeros_like(targets).cpu()), task.batch)
        if not values.requires_grad:
            continue
        (weights,) = torch.autograd.grad(values.sum(), whole)
        gradient = torch.zeros_like(output.last_hidden_state)
        scaled = slopes * weights.to(slopes.device)[:, places].flatten()[:, None]
        gradient[:, places] = scaled.view(len(targets), len(places), -1).to(gradient.dtype)
        yield name, gradient


def _losses(
    trunk: Trunk, output: Any, hidden: torch.Tensor, ids: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each target [place] and its gradient at the hidden state that it is read from [place, d_model]."""
    model = trunk.model
    nll, slopes = torch.empty(len(hidden), device=hidden.device), torch.empty_like(hidden, dtype=torch.float32)
    step = max(1, LOGIT_ELEMENTS // model.config.get_text_config().vocab_size)
    with only_head(model, trunk.backbone, output) as given:
        for start in range(0, len(hidden), step):
            part = slice(start, start + step)
            leaf = hidden[None, part].clone().requires_grad_()
            given.last_hidden_state = leaf
            logits = model(input_ids=ids[None, part], use_cache=False).logits[0].float()
            losses = F.cross_entropy(logits, wanted[part], reduction="none")
            (slope,) = torch.autograd.grad(losses.sum(), leaf)
            nll[part], slopes[part] = losses.detach(), slope[0].float()
    return nll, slopes
