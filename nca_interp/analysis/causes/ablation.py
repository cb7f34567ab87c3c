"""What a model loses without a head, a sublayer or a layer: the effect on every metric of every task, sequence by sequence.

A head is ablated by replacing its output z (hook_z) by its mean over the stimulus (for each position where positions mean
the same in all sequences), by zero, or by its output on another sequence. Only what comes after it is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, get_args

import torch

from nca_interp.analysis.attention.heads import PROJECTIONS, child
from nca_interp.analysis.causes.effects import Task, score
from nca_interp.analysis.causes.resume import Passage, Trunk
from nca_interp.base import UserError

How = Literal["mean", "zero", "resample"]
HOW = get_args(How)
Head = tuple[int, int]
"""Layer and head."""


class Site(NamedTuple):
    """What is taken out."""

    kind: Literal["head", "attn", "mlp", "layer"]
    layer: int
    head: int | None = None


class Effects(NamedTuple):
    """Metrics of a task [sequence] without intervention and after each."""

    full: dict[str, torch.Tensor]
    after: dict[Site, dict[str, torch.Tensor]]

    def change(self, site: Site, metric: str) -> torch.Tensor:
        """metric(ablated) - metric(full) of each sequence."""
        return self.after[site][metric] - self.full[metric]


def mean_outputs(trunk: Trunk, task: Task) -> list[torch.Tensor]:
    """Mean hook_z over a task of every layer: [position or 1, head, d_head], fp32."""
    sums: list[torch.Tensor | float] = [0.0] * trunk.n_layers
    parts = [child(trunk.attention(n), PROJECTIONS, "output projection") for n in range(trunk.n_layers)]

    def add(n: int) -> Callable[..., None]:
        def hook(_: object, args: tuple[torch.Tensor, ...]) -> None:
            z = args[0].double()
            sums[n] = sums[n] + (z.sum(0) if task.aligned else z.sum((0, 1))[None])

        return hook

    handles = [part.register_forward_pre_hook(add(n)) for n, part in enumerate(parts)]
    try:
        for part in task.slices():
            with torch.inference_mode():
                trunk.backbone(input_ids=part.tokens(trunk.model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    count = len(task.batch.inputs) * (1 if task.aligned else task.batch.length)
    return [(torch.as_tensor(s) / count).float().unflatten(-1, (trunk.n_heads, -1)) for s in sums]


def ablate(
    trunk: Trunk,
    task: Task,
    how: How = "mean",
    on_step: Callable[[], None] | None = None,
    knock_outs: bool = True,
    heads: Iterable[Head] | None = None,
    means: list[torch.Tensor] | None = None,
) -> Effects:
    """Every head (or `heads`) ablated alone, and (`knock_outs`) every attention, MLP and layer left out. `means`: those of
    `mean_outputs` where they are known, or of more sequences. `on_step` is called after each layer of each slice.

    Heads cost the layers above theirs and the MLP of their own. Raises NotApplicable where the model's layers cannot be
    resumed, UserError for an unknown `how`.
    """
    if how not in HOW:
        raise UserError(f"how: {how!r}; legal: {', '.join(HOW)}")
    means = (means or mean_outputs(trunk, task)) if how == "mean" else None
    chosen = {(n, h) for n in range(trunk.n_layers) for h in range(trunk.n_heads)} if heads is None else set(heads)
    pieces = []
    for part in task.slices():
        passage = trunk.passage(part.tokens(trunk.model.device))
        full, after = score(trunk, passage, passage.residuals[-1], part), {}
        for layer in range(trunk.n_layers):
            for site, resid_post in _changed(trunk, passage, layer, how, means, chosen, knock_outs):
                after[site] = score(trunk, passage, trunk.finish(passage, layer + 1, resid_post), part)
            if on_step is not None:
                on_step()
        pieces.append(Effects(full, after))
    return _joined(pieces)


def _changed(
    trunk: Trunk,
    passage: Passage,
    layer: int,
    how: How,
    means: list[torch.Tensor] | None,
    chosen: set[Head],
    knock_outs: bool,
) -> Iterable[tuple[Site, torch.Tensor]]:
    """resid_post of one layer after each intervention in it."""
    ours = [head for head in range(trunk.n_heads) if (layer, head) in chosen]
    heads = trunk.heads(passage, layer) if ours else None
    for head in ours:
        assert heads is not None
        z = heads.z[:, :, head]
        instead = (
            means[layer][:, head].to(z) if means is not None else z.roll(1, 0) if how == "resample" else torch.zeros_like(z)
        )  # fmt: skip
        written = heads.written + trunk.change(layer, head, instead - z)
        yield Site("head", layer, head), trunk.resume(passage, layer, heads, written)
    if knock_outs:
        yield Site("attn", layer), trunk.without(passage, layer, "attn")
        yield Site("mlp", layer), trunk.without(passage, layer, "mlp")
        yield Site("layer", layer), passage.residuals[layer]


def _joined(pieces: list[Effects]) -> Effects:
    def cat(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}

    after = {site: cat([p.after[site] for p in pieces]) for site in pieces[0].after}
    return Effects(cat([p.full for p in pieces]), after)


def ablate_sets(
    trunk: Trunk,
    task: Task,
    sets: Iterable[frozenset[Head]],
    on_step: Callable[[], None] | None = None,
    means: list[torch.Tensor] | None = None,
) -> dict[frozenset[Head], dict[str, torch.Tensor]]:
    """Change of every metric [sequence] where all heads of a set are mean-ablated together, for each set."""
    means, found = means or mean_outputs(trunk, task), {}
    chosen = list(dict.fromkeys(sets))
    pieces: dict[frozenset[Head], list[dict[str, torch.Tensor]]] = {s: [] for s in chosen}
    for part in task.slices():
        passage = trunk.passage(part.tokens(trunk.model.device))
        full = score(trunk, passage, passage.residuals[-1], part)
        for heads in chosen:
            edits = {}
            for layer in {n for n, _ in heads}:
                ours = sorted(h for n, h in heads if n == layer)
                edits[layer] = (ours, means[layer][:, ours])
            first = min(edits, default=trunk.n_layers)
            after = score(trunk, passage, trunk.finish(passage, first, passage.residuals[first], edits), part)
            pieces[heads].append({name: after[name] - full[name] for name in full})
            if on_step is not None:
                on_step()
    for heads, parts in pieces.items():
        found[heads] = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    return found
