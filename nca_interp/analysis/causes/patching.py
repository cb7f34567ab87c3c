"""Activation patching and path patching on repeated tokens: which layers, heads and edges carry what is copied.

Clean: a block of random tokens twice. Corrupted: the first block replaced by other tokens, so that the second, whose loss
is measured, says the same words with nothing to copy them from (Wang et al. 2022, arXiv 2211.00593).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from nca_interp.analysis.attention.anatomy import anatomy
from nca_interp.analysis.causes.ablation import Head, Site, mean_outputs
from nca_interp.analysis.causes.effects import Task, score
from nca_interp.analysis.causes.resume import Passage, Trunk
from nca_interp.analysis.stimuli.base import NotApplicable

METRIC = "repeated_token_loss"


class Patched(NamedTuple):
    """Loss of the second block [sequence] on both inputs, and on the corrupted one with one activation of the clean one."""

    clean: torch.Tensor
    corrupted: torch.Tensor
    patched: dict[Site, torch.Tensor]

    @property
    def denominator(self) -> float:
        """Mean corrupted minus clean loss: what there is to recover, in nats."""
        return float((self.corrupted - self.clean).mean())

    def recovery(self, site: Site) -> float:
        """(corrupted - patched) / (corrupted - clean) of the means; not clipped. 1: all is recovered, 0: nothing."""
        return float((self.corrupted - self.patched[site]).mean()) / self.denominator


def corrupt(task: Task) -> Task:
    """The task with every first block replaced by the block of the next sequence (fresh tokens, equally distributed)."""
    batch = task.batch
    if batch.period is None:
        raise ValueError("patching needs a repeated_tokens task")
    inputs, targets = np.array(batch.inputs), np.array(batch.targets)
    block = slice(batch.start, batch.start + batch.period)
    inputs[:, block] = np.roll(inputs[:, block], 1, axis=0)
    return replace(task, batch=replace(batch, inputs=inputs, targets=targets))


def patch(
    trunk: Trunk, task: Task, heads: Iterable[Head] | None = None, on_step: Callable[[], None] | None = None
) -> Patched:
    """Each head's z (or that of `heads`), each attention's output, and each layer's resid_pre over the second block, one at a time from clean
    to corrupted. Raises NotApplicable where the model's layers cannot be resumed."""
    period = task.batch.period
    assert period is not None
    second = slice(task.batch.start + period, None)
    chosen = {(n, h) for n in range(trunk.n_layers) for h in range(trunk.n_heads)} if heads is None else set(heads)
    pieces: list[Patched] = []
    for ours, theirs in zip(task.slices(), corrupt(task).slices(), strict=True):
        clean, bad = (trunk.passage(t.tokens(trunk.model.device)) for t in (ours, theirs))
        after: dict[Site, torch.Tensor] = {}
        for layer in range(trunk.n_layers):
            for site, resid_post in _patched(trunk, clean, bad, layer, second, chosen):
                after[site] = score(trunk, bad, trunk.finish(bad, layer + 1, resid_post), theirs)[METRIC]
            if on_step is not None:
                on_step()
        full, broken = (score(trunk, p, p.residuals[-1], t)[METRIC] for p, t in ((clean, ours), (bad, theirs)))
        pieces.append(Patched(full, broken, after))
    return Patched(
        torch.cat([p.clean for p in pieces]), torch.cat([p.corrupted for p in pieces]),
        {site: torch.cat([p.patched[site] for p in pieces]) for site in pieces[0].patched},
    )  # fmt: skip


def _patched(
    trunk: Trunk, clean: Passage, bad: Passage, layer: int, second: slice, chosen: set[Head]
) -> Iterable[tuple[Site, torch.Tensor]]:
    from_clean, from_bad = trunk.heads(clean, layer), trunk.heads(bad, layer)
    for head in (h for h in range(trunk.n_heads) if (layer, h) in chosen):
        written = from_bad.written + trunk.change(layer, head, from_clean.z[:, :, head] - from_bad.z[:, :, head])
        yield Site("head", layer, head), trunk.resume(bad, layer, from_bad, written)
    yield Site("attn", layer), trunk.resume(bad, layer, from_bad, from_clean.written)
    resid_pre = bad.residuals[layer].clone()
    resid_pre[:, second] = clean.residuals[layer][:, second]
    yield Site("layer", layer), trunk.step(bad, layer, resid_pre)


class Edge(NamedTuple):
    """What one head owes to the direct path from an earlier one, as change of the second block's loss [sequence]."""

    change: torch.Tensor
    """Path ablated: only the later head sees the earlier one's mean output instead of its output."""
    later: torch.Tensor
    """The later head mean-ablated: the most that any path into it can cost."""


def edge(trunk: Trunk, task: Task, earlier: Head, later: Head, means: list[torch.Tensor] | None = None) -> Edge:
    """Path patching of one edge: the earlier head's output enters the later head, and nothing else, as its mean.

    The direct path only: heads, MLPs and layers between keep their outputs (Goldowsky-Dill et al. 2023, arXiv
    2304.05969). Raises NotApplicable where the family normalises what attention writes before it is added, or does anything
    else with it than to scale it.
    """
    (l1, h1), (l2, h2) = earlier, later
    if l1 >= l2:
        raise ValueError(f"edge {earlier} -> {later}: the first head must be in an earlier layer")
    block = anatomy(trunk.model, task.batch.inputs).block_of(trunk.layers[l1])
    if block.after:
        raise NotApplicable(
            "what a head writes is normalised with the others before it is added: paths do not separate"
        )
    means = means or mean_outputs(trunk, task)
    changes: list[torch.Tensor] = []
    alone: list[torch.Tensor] = []
    for part in task.slices():
        passage = trunk.passage(part.tokens(trunk.model.device))
        full = score(trunk, passage, passage.residuals[-1], part)[METRIC]
        z = trunk.heads(passage, l1).z[:, :, h1]
        without = passage.residuals[l2] + block.scale * trunk.change(l1, h1, means[l1][:, h1].to(z) - z)
        ours = trunk.heads(passage, l2)
        for instead, found in (
            (trunk.heads(passage, l2, without).z[:, :, h2], changes),
            (means[l2][:, h2].to(z), alone),
        ):
            written = ours.written + trunk.change(l2, h2, instead - ours.z[:, :, h2])
            resid_post = trunk.resume(passage, l2, ours, written)
            found.append(score(trunk, passage, trunk.finish(passage, l2 + 1, resid_post), part)[METRIC] - full)
    return Edge(torch.cat(changes), torch.cat(alone))
