"""The layers of a model one by one: start anywhere, change what a part writes, and go on from there.

The model's own layers run, with the options that it called them with, so norms, masks, positions and the order of parts
are the family's. To change what an attention module writes, the layer is given a stand-in that answers for it: nothing
before the change is computed again. A family whose layers cannot be resumed so is noticed and refused (`heads`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from nca_interp.analysis.attention.heads import FINAL_NORMS, PROJECTIONS, child, output_projection
from nca_interp.analysis.stimuli.base import NotApplicable

LAYERS = ("layers", "h")
ATTENTION = ("self_attn", "attn", "attention")
MLP = ("mlp", "feed_forward")
TOLERANCE = 1e-4
"""A resumed layer may differ from the model's own by this share of the residual stream's largest entry (fp32; a
hundred times as much in shorter precision)."""


@dataclass(frozen=True)
class Passage:
    """One forward pass of some sequences: what entered each layer, and how each layer was called."""

    inputs: torch.Tensor
    """Tokens [batch, position]."""
    residuals: list[torch.Tensor]
    """[batch, position, d_model]: resid_pre of every layer, then the last layer's resid_post."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    output: Any
    """What the backbone returned; `losses.read_logits` wants it."""


class LayerHeads(NamedTuple):
    """What the attention of one layer wrote, and what its heads put into its output projection."""

    written: torch.Tensor
    """attn_out before any norm [batch, position, d_model]."""
    z: torch.Tensor
    """hook_z [batch, position, head, d_head]."""
    answer: Any
    """What the module returned, whatever its form."""


Edits = Mapping[int, tuple[list[int], torch.Tensor]]
"""Layer -> (heads, what they put out instead: z that broadcasts to [batch, position, len(heads), d_head])."""


class _Answer(torch.nn.Module):
    """Stands in for a part of a layer and returns what it is told."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.answer


class Trunk:
    """The layers of a Hugging Face causal language model. NotApplicable where they have none of the known names."""

    def __init__(self, model: Any) -> None:
        base = model.base_model
        self.model = model
        self.layers: list[Any] = list(child(base, LAYERS, "backbone").children())
        self.final_norm = child(base, FINAL_NORMS, "final norm")
        self.n_heads = int(model.config.get_text_config().num_attention_heads)
        self._w_o = [output_projection(self.attention(n), self.n_heads) for n in range(self.n_layers)]

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    def attention(self, layer: int) -> torch.nn.Module:
        """The attention module of a layer."""
        return child(self.layers[layer], ATTENTION, "layer")

    @torch.inference_mode()
    def passage(self, inputs: torch.Tensor) -> Passage:
        """Run the backbone once over tokens [batch, position]."""
        residuals: list[torch.Tensor] = []
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def note(module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            options = dict(options)
            hidden = args[0] if args else options.pop("hidden_states")
            residuals.append(hidden)
            if module is not self.final_norm:
                calls.append((args[1:], options))

        with ExitStack() as hooks:
            for module in (*self.layers, self.final_norm):
                hooks.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
            output = self.model.base_model(input_ids=inputs, use_cache=False)
        if len(residuals) != self.n_layers + 1:
            raise NotApplicable(f"{type(self.model).__name__} does not run its layers once each, then its final norm")
        return Passage(inputs, residuals, calls, output)

    @torch.inference_mode()
    def step(self, passage: Passage, layer: int, resid_pre: torch.Tensor) -> torch.Tensor:
        """resid_post of one layer."""
        rest, options = passage.calls[layer]
        out = self.layers[layer](resid_pre, *rest, **options)
        return out[0] if isinstance(out, tuple) else out

    def finish(self, passage: Passage, layer: int, resid_pre: torch.Tensor, edits: Edits | None = None) -> torch.Tensor:
        """resid_post of the last layer, from what enters `layer` (n_layers: nothing is left to do)."""
        with self._edited(edits or {}):
            for n in range(layer, self.n_layers):
                resid_pre = self.step(passage, n, resid_pre)
        return resid_pre

    def heads(self, passage: Passage, layer: int, resid_pre: torch.Tensor | None = None) -> LayerHeads:
        """What the heads of a layer put out on what enters it (default: what entered it in the passage).

        NotApplicable where the layer, given that answer, does not continue as the model did.
        """
        seen: list[Any] = []
        attention = self.attention(layer)
        own = resid_pre is None
        with ExitStack() as hooks:
            part = child(attention, PROJECTIONS, "output projection")
            hooks.callback(part.register_forward_pre_hook(lambda _, args: seen.append(args[0])).remove)
            hooks.callback(attention.register_forward_hook(lambda _, args, out: seen.append(out)).remove)
            self.step(passage, layer, passage.residuals[layer] if resid_pre is None else resid_pre)
        z, answer = seen
        written = answer[0] if isinstance(answer, tuple) else answer
        found = LayerHeads(written, z.unflatten(-1, (self.n_heads, -1)), answer)
        if own:
            self._check(passage, layer, found)
        return found

    @torch.inference_mode()
    def resume(self, passage: Passage, layer: int, heads: LayerHeads, written: torch.Tensor) -> torch.Tensor:
        """resid_post of a layer whose attention writes `written` instead; its attention is not computed."""
        answer = (written, *heads.answer[1:]) if isinstance(heads.answer, tuple) else written
        with self._answering(layer, _Answer(answer)):
            return self.step(passage, layer, passage.residuals[layer])

    def change(self, layer: int, head: int, difference: torch.Tensor) -> torch.Tensor:
        """What a change of one head's z [..., d_head] changes in what its layer's attention writes [..., d_model]."""
        return difference @ self._w_o[layer][head].to(difference.dtype)

    def without(self, passage: Passage, layer: int, part: str) -> torch.Tensor:
        """resid_post of a layer whose attention or MLP (`part`: "attn" or "mlp") adds nothing."""
        silenced = child(self.layers[layer], ATTENTION if part == "attn" else MLP, "layer")

        def silence(_: Any, args: Any, out: Any) -> Any:
            return (torch.zeros_like(out[0]), *out[1:]) if isinstance(out, tuple) else torch.zeros_like(out)

        handle = silenced.register_forward_hook(silence)
        try:
            return self.step(passage, layer, passage.residuals[layer])
        finally:
            handle.remove()

    def _check(self, passage: Passage, layer: int, heads: LayerHeads) -> None:
        own = passage.residuals[layer + 1]
        bias = getattr(child(self.attention(layer), PROJECTIONS, "output projection"), "bias", None)
        written = torch.einsum("bphd,hdm->bpm", heads.z.float(), self._w_o[layer])
        written = (written if bias is None else written + bias.float()).to(own.dtype)
        resumed = self.resume(passage, layer, heads, written)
        allowed = TOLERANCE * (1 if own.dtype == torch.float32 else 100) * float(own.abs().max())
        if resumed.shape != own.shape or not float((resumed - own).abs().max()) <= allowed:
            raise NotApplicable(f"layers of {type(self.model).__name__} cannot be resumed after their attention")

    @contextmanager
    def _answering(self, layer: int, module: torch.nn.Module) -> Iterator[None]:
        parent, own = self.layers[layer], self.attention(layer)
        name = next(n for n in ATTENTION if getattr(parent, n, None) is own)
        setattr(parent, name, module)
        try:
            yield
        finally:
            setattr(parent, name, own)

    @contextmanager
    def _edited(self, edits: Edits) -> Iterator[None]:
        def editor(heads: list[int], values: torch.Tensor) -> Any:
            def edit(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
                z = args[0].unflatten(-1, (self.n_heads, -1)).clone()
                z[:, :, heads] = values.to(z.dtype)
                return (z.flatten(-2), *args[1:])

            return edit

        with ExitStack() as hooks:
            for layer, (heads, values) in edits.items():
                part = child(self.attention(layer), PROJECTIONS, "output projection")
                hooks.callback(part.register_forward_pre_hook(editor(heads, values)).remove)
            yield
