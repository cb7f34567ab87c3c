"""Direct logit attribution: what embedding, heads, MLPs and neurons add to a logit (Elhage et al. 2021; Wang et al. 2022,
arXiv 2211.00593).

The last residual stream is the sum of what was written to it, and the final norm, its scale held, and the unembedding are
linear. So every part has its share of a logit, and the shares sum to it exactly. A share of the logit above the mean over the
vocabulary ("centred") is what changes probabilities: a constant added to all logits does not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from nca_interp.analysis.attention.anatomy import Block, anatomy
from nca_interp.analysis.attention.heads import child
from nca_interp.analysis.causes.resume import MLP, Passage, Trunk
from nca_interp.analysis.prompts.linear import held, pulled
from nca_interp.analysis.stimuli.base import NotApplicable

TOLERANCE = 1e-3
"""What the neurons of an MLP write may differ from what it adds by this share of its size (fp32; a hundred times as much in shorter precision)."""
ROUNDING = 1e-3
"""Share of the residual stream that counts as size of what is all but nothing: times TOLERANCE, what adding rounds."""


class Directions(NamedTuple):
    """Of one logit a position, read off the last residual stream; axis 0: the logit, the logit above the vocabulary's mean."""

    vectors: torch.Tensor
    """[2, position, d_model], float64."""
    constant: torch.Tensor
    """[2, position]: biases of final norm and unembedding."""


class LayerParts(NamedTuple):
    """Contributions of one layer [2, position, ...]; `heads` and `attn_bias` sum to `attn`."""

    heads: torch.Tensor
    """[2, position, head]."""
    attn_bias: torch.Tensor
    attn: torch.Tensor
    mlp: torch.Tensor
    """All that the layer adds beside its attention."""


class Parts(NamedTuple):
    """Contributions to one logit a position; `embedding`, `bias` and `attn` and `mlp` of all layers sum to it."""

    embedding: torch.Tensor
    """[2, position]."""
    bias: torch.Tensor
    layers: list[LayerParts]

    @property
    def total(self) -> torch.Tensor:
        """The logit [2, position]."""
        return self.embedding + self.bias + sum((layer.attn + layer.mlp for layer in self.layers), torch.zeros(()))


class Neurons(NamedTuple):
    """Contributions of the neurons of one MLP to the logit above the mean, and to the logit [2, position, neuron], and of its bias."""

    each: torch.Tensor
    bias: torch.Tensor


def directions(
    trunk: Trunk, passage: Passage, targets: torch.Tensor, against: torch.Tensor | None = None
) -> Directions:
    """Of the logits of targets [position] of a passage of one sequence; `against` [position]: of the difference to the
    logits of these. NotApplicable where no chain of norms leads from the layers to the unembedding."""
    model: Any = trunk.model
    x, norms = passage.residuals[-1][0], []
    with torch.no_grad():
        for module in anatomy(model, passage.inputs.cpu().numpy()).final():
            norms.append(held(module, x))
            x = module(x[None])[0]
        head = model.get_output_embeddings()
        weight, bias = head.weight.detach(), getattr(head, "bias", None)
        bias = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device) if bias is None else bias.detach()
        rows, added = weight[targets].double(), bias[targets].double()
        if against is not None:
            rows, added = rows - weight[against].double(), added - bias[against].double()
            mean, level = torch.zeros_like(rows[0]), torch.zeros_like(added[0])
        else:
            mean, level = weight.mean(0, dtype=torch.float64), bias.mean(dtype=torch.float64)
        vectors, constant = pulled(norms, torch.stack([rows, rows - mean]))
    return Directions(vectors, constant + torch.stack([added, added - level]))


@torch.no_grad()
def parts(trunk: Trunk, passage: Passage, along: Directions) -> Parts:
    """Contributions of all parts of a passage of one sequence."""
    known = anatomy(trunk.model, passage.inputs.cpu().numpy())
    stream = [r[0].double() for r in passage.residuals]
    layers = []
    for n in range(trunk.n_layers):
        block = known.block_of(trunk.layers[n])
        heads, attn_bias = _heads(trunk, passage, n, block, along)
        attn = heads.sum(-1) + attn_bias
        layers.append(LayerParts(heads, attn_bias, attn, _along(stream[n + 1] - stream[n], along) - attn))
    return Parts(_along(stream[0], along), along.constant, layers)


def _along(vectors: torch.Tensor, along: Directions) -> torch.Tensor:
    """[position, d_model] -> [2, position]."""
    return torch.einsum("pd,kpd->kp", vectors, along.vectors)


def _heads(
    trunk: Trunk, passage: Passage, layer: int, block: Block, along: Directions
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each head of a layer adds [2, position, head], and the biases of its projection and of norms behind it."""
    found = trunk.heads(passage, layer)
    norms, x = [], found.written[0]
    for module in block.after:
        norms.append(held(module, x))
        x = module(x[None])[0]
    back, constant = pulled(norms, along.vectors)
    wrote = torch.stack([trunk.change(layer, h, found.z[0, :, h].float()).double() for h in range(trunk.n_heads)], 1)
    heads = torch.einsum("phd,kpd->kph", wrote, back)
    bias = getattr(block.projection, "bias", None)
    if bias is not None:
        constant = constant + back @ bias.detach().double()
    return block.scale * heads, block.scale * constant


@torch.no_grad()
def neurons(trunk: Trunk, passage: Passage, layer: int, along: Directions, adds: torch.Tensor) -> Neurons:
    """Contributions of the neurons of a layer's MLP, which adds `adds` [2, position] in all. NotApplicable where the MLP is no
    matrix behind its neurons, or a norm lies behind it."""
    mlp = child(trunk.layers[layer], MLP, "layer")
    seen: list[tuple[torch.nn.Module, torch.Tensor]] = []
    hooks = [
        module.register_forward_pre_hook(lambda m, args: seen.append((m, args[0])))
        for module in mlp.modules()
        if getattr(getattr(module, "weight", None), "ndim", 0) == 2 and not isinstance(module, torch.nn.Embedding)
    ]
    try:
        trunk.step(passage, layer, passage.residuals[layer])
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise NotApplicable(f"the MLP {type(mlp).__name__} has no output matrix")
    down, acts = seen[-1]
    weight: Any = down.weight
    weight = (weight if type(down).__name__ == "Conv1D" else weight.T).detach().double()
    if acts.flatten(0, -2).shape != (along.vectors.shape[1], len(weight)) or weight.shape[1] != along.vectors.shape[-1]:
        raise NotApplicable(f"the MLP {type(mlp).__name__} does not write its neurons side by side")
    each = acts.flatten(0, -2).double() * (along.vectors @ weight.T)
    bias = getattr(down, "bias", None)
    fixed = torch.zeros_like(adds) if bias is None else along.vectors @ bias.detach().double()
    stream = passage.residuals[layer + 1][0].double().norm(dim=-1) * along.vectors.norm(dim=-1)  # what is rounded
    size = float(adds.abs().max()) + float(each.abs().max()) + ROUNDING * float(stream.max())
    if (
        float((each.sum(-1) + fixed - adds).abs().max())
        > TOLERANCE * (1 if acts.dtype == torch.float32 else 100) * size
    ):
        raise NotApplicable(
            f"what the MLP {type(mlp).__name__} adds is not what its neurons write: a norm or factor lies behind it"
        )
    return Neurons(each, fixed)
