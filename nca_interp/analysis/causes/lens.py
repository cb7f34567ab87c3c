"""Logit lens: what the model would say if it stopped at a layer (nostalgebraist 2020; Belrose et al. 2023, arXiv 2303.08112)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from nca_interp.analysis.attention.losses import LOGIT_ELEMENTS, read_logits
from nca_interp.analysis.causes.effects import Task
from nca_interp.analysis.causes.resume import Passage, Trunk


class Lens(NamedTuple):
    """Means over counted targets [layer + 1, sequence]; row l reads resid_pre of layer l, the last row the model itself."""

    nll: torch.Tensor
    """Loss in nats."""
    kl: torch.Tensor
    """Divergence of the layer's distribution from the final one, KL(final || layer), in nats."""
    agreement: torch.Tensor
    """Share of targets at which the likeliest token is the final one."""
    entropy: torch.Tensor
    """Of the layer's distribution, in nats."""


def logit_lens(trunk: Trunk, task: Task) -> Lens:
    """The residual stream at every layer through the final norm and the unembedding, on a task's counted targets."""
    return Lens(*(torch.cat(parts, 1) for parts in zip(*(_slice(trunk, part) for part in task.slices()), strict=True)))


def _slice(trunk: Trunk, task: Task) -> Lens:
    passage = trunk.passage(task.tokens(trunk.model.device))
    places = torch.as_tensor(task.counts, device=passage.inputs.device).nonzero()[:, 0]
    targets = torch.as_tensor(task.batch.targets, device=places.device)[:, places].flatten()
    step = max(1, LOGIT_ELEMENTS // trunk.model.config.get_text_config().vocab_size)
    shape = (trunk.n_layers + 1, len(targets))
    found = Lens(*(torch.zeros(shape, device=places.device) for _ in Lens._fields))
    for start in range(0, len(targets), step):
        part = slice(start, min(len(targets), start + step))
        final = log_probabilities(trunk, passage, trunk.n_layers, places, part)
        for layer in range(trunk.n_layers + 1):
            ours = log_probabilities(trunk, passage, layer, places, part)
            found.nll[layer, part] = F.nll_loss(ours, targets[part], reduction="none")
            found.kl[layer, part] = (final.exp() * (final - ours)).sum(-1)
            found.agreement[layer, part] = (ours.argmax(-1) == final.argmax(-1)).float()
            found.entropy[layer, part] = -(ours.exp() * ours).sum(-1)
    n = len(passage.inputs)
    return Lens(*(values.view(shape[0], n, -1).double().mean(-1).cpu() for values in found))


def log_probabilities(trunk: Trunk, passage: Passage, layer: int, places: torch.Tensor, part: slice) -> torch.Tensor:
    """Log probabilities [target, vocabulary] of some of the targets, read at a layer."""
    with torch.inference_mode():
        hidden = trunk.final_norm(passage.residuals[layer][:, places].flatten(0, 1)[part][None])[0]
    out: list[torch.Tensor] = []
    read_logits(
        trunk.model, passage.output, hidden, passage.inputs[:, places].flatten()[part],
        lambda _, logits: out.append(logits.log_softmax(-1)),
    )  # fmt: skip
    return torch.cat(out)
