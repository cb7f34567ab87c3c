"""What single heads write: their outputs through output projection, final norm and unembedding to the logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from nca_interp.analysis.attention.anatomy import Block, anatomy
from nca_interp.analysis.attention.kernel import Layer, Sink
from nca_interp.analysis.attention.view import Attention
from nca_interp.analysis.stimuli.base import Batch, NotApplicable

PROJECTIONS = ("o_proj", "dense", "c_proj", "out_proj")
FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm")


def child(module: torch.nn.Module, names: tuple[str, ...], what: str) -> torch.nn.Module:
    """The first of the named parts that a module has; NotApplicable where it has none."""
    for name in names:
        part = getattr(module, name, None)
        if isinstance(part, torch.nn.Module):
            return part
    raise NotApplicable(f"the {what} of {type(module).__name__} has none of the known names: {', '.join(names)}")


def side_by_side(part: torch.nn.Module, n_heads: int) -> torch.Tensor:
    """W_O [head, d_head, d_model] in fp32 of an output projection; NotApplicable where heads are not side by side in it."""
    weight: Any = part.weight
    weight = weight if type(part).__name__ == "Conv1D" else weight.T
    if weight.shape[0] % n_heads:
        raise NotApplicable(
            f"the output projection of {weight.shape[0]} entries is not one of {n_heads} heads side by side"
        )
    return weight.detach().float().reshape(n_heads, -1, weight.shape[1])


def output_projection(module: torch.nn.Module, n_heads: int) -> torch.Tensor:
    """`side_by_side` of an attention module whose output projection has a known name."""
    return side_by_side(child(module, PROJECTIONS, "output projection"), n_heads)


@contextmanager
def at_projection(model: Any, inputs: np.ndarray, sink: Sink) -> Iterator[Sink]:
    """A sink that hands layers on with what reaches their output projection as `out`: gates and norms that the family has
    between attention and projection included. For one forward pass; `inputs`: tokens to find out where layers write.

    Layers of which that is not known are handed on as they are; asking for what their heads write raises NotApplicable.
    """
    layers: dict[torch.nn.Module, Layer] = {}
    reached: dict[torch.nn.Module, torch.Tensor] = {}
    known = {m: b for m, b in anatomy(model, inputs).blocks.items() if isinstance(b, Block)}

    def hand(module: torch.nn.Module) -> None:
        if module in layers and module in reached:  # either may come first
            layer, z = layers.pop(module), reached.pop(module)
            heads, width = layer.query.shape[1], layer.out.shape[-1]
            if z.shape[-1] == heads * width:  # else heads were combined in between: `Heads` refuses
                layer = layer._replace(out=z.unflatten(-1, (heads, width)).transpose(1, 2))
            sink(layer)

    def attended(layer: Layer) -> None:
        if layer.module not in known:
            sink(layer)
            return
        layers[layer.module] = layer
        hand(layer.module)

    def projected(module: torch.nn.Module) -> Any:
        def note(_: Any, args: tuple[Any, ...]) -> None:
            reached[module] = args[0]
            hand(module)

        return note

    with ExitStack() as hooks:
        for module, block in known.items():
            hooks.callback(block.projection.register_forward_pre_hook(projected(module)).remove)
        yield attended


class Heads(Attention):
    """Attention of one layer, and what each of its heads writes. `stimulus` must be repeated_tokens."""

    def __init__(self, layer: Layer, stimulus: Batch, model: Any) -> None:
        super().__init__(layer.query, layer.key, layer.lse, layer.rule, stimulus, layer.number)
        self.output = layer.out.detach().float()
        """[batch, head, position, d_head]: hook_z, as it reaches the output projection."""
        self._module, self._model = layer.module, model
        self._written: dict[tuple[int, ...], torch.Tensor] = {}

    def context(self) -> torch.Tensor:
        """Different tokens of each sequence [batch, n]: the stimulus repeats one block, so every sequence has equally many."""
        period = self.stimulus.period
        if period is None:
            raise ValueError("heads.context() needs a repeated_tokens stimulus")
        return self.tokens[:, : self.stimulus.start + period]

    def logits_on_context(self, queries: torch.Tensor) -> torch.Tensor:
        """What each head writes at chosen queries (indices) to the logits of its context [batch, head, query, n].

        The head's output alone goes through the output projection, the norm of the branch (where the family has one; what
        else a model does with it is refused, see `anatomy`), the final norm (their biases removed) and the unembedding. RMSNorm and LayerNorm scale it by a
        positive number for each query and head, which no rank depends on.
        """
        key = tuple(queries.tolist())
        if key not in self._written:  # small, and wanted again by the next probe
            norms, projection, context = self._norms, self._projection, self.context()
            unembed = self._model.get_output_embeddings().weight
            zero = torch.zeros(1, 1, projection.shape[-1], dtype=unembed.dtype, device=unembed.device)
            logits = []
            for sequence in range(self.n_batch):
                written = self.output[sequence, :, queries] @ projection
                for norm in norms:
                    written = (norm(written.to(unembed.dtype)) - norm(zero)).float()
                logits.append(written @ unembed[context[sequence]].float().T)
            self._written[key] = torch.stack(logits)
        return self._written[key]

    def rank_advantage(self, tokens: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """Where the logit of given tokens stands among those of the context [batch, head, query]: of its other tokens, the
        share with a lower logit less the share with a higher one; -1 the lowest, 1 the highest, 0 where all are equal.

        tokens: [batch, 1 or head, query], of the context, one for each of the chosen `queries` (indices).
        """
        logits = self.logits_on_context(queries)
        own = logits.masked_fill(self.context()[:, None, None] != tokens[..., None], -torch.inf).amax(-1, keepdim=True)
        return ((logits < own).sum(-1) - (logits > own).sum(-1)) / (logits.shape[-1] - 1)

    def repeat_queries(self) -> torch.Tensor:
        """Indices of the queries in the second and later repeats."""
        return torch.as_tensor(self.stimulus.in_repeat(), device=self.output.device).nonzero()[:, 0]

    def attended_tokens(self, queries: torch.Tensor) -> torch.Tensor:
        """The token that each head attends to most at chosen queries [batch, head, query]."""
        best = self.strongest()[:, :, queries]
        return self.tokens[:, None].expand(-1, self.n_heads, -1).gather(2, best)

    @property
    def tokens(self) -> torch.Tensor:
        """The stimulus [batch, position]."""
        return torch.as_tensor(self.stimulus.inputs, device=self.output.device)

    @property
    def _projection(self) -> torch.Tensor:
        """W_O [head, d_head, d_model]."""
        weight = side_by_side(anatomy(self._model).block(self._module).projection, self.n_heads)
        if weight.shape[1] != self.output.shape[-1]:
            raise NotApplicable(f"{type(self._module).__name__} does not project the outputs of its heads side by side")
        return weight

    @property
    def _norms(self) -> tuple[torch.nn.Module, ...]:
        parts = anatomy(self._model)
        return (*parts.block(self._module).after, *parts.final())
