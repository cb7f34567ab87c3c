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

from nca_interp.analysis.attention.access import Access, access, backbone, trial_rows
from nca_interp.analysis.attention.heads import PROJECTIONS, child, output_projection
from nca_interp.analysis.stimuli.base import NotApplicable

MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "fc2")
"""Where an MLP is no part of its own (fc1, fc2), its second matrix: silenced, the MLP adds nothing."""
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


def _final_norm(model: Any, found: Access) -> torch.nn.Module:
    """What turns the last layer's output into the last hidden states; the identity where these are that output."""
    if not found.final:
        raise NotApplicable(f"no part of {type(model).__name__} makes its last hidden states")
    if any(found.final == path or found.final.startswith(f"{path}.") for path in found.layers):
        return torch.nn.Identity()
    norm: torch.nn.Module = model.get_submodule(found.final)
    return norm


def _attention_path(number: int, layer: torch.nn.Module, found: Access) -> str:
    """Where in a layer its attention module lies (a shared one has its path in another layer); NotApplicable where it has
    none, or is one itself."""
    pairs = [(path, start) for path in found.attending for start in found.layers if path.startswith(f"{start}.")]
    names = {name for name, _ in layer.named_modules()}
    path = next((p for path, start in pairs if (p := path.removeprefix(f"{start}.")) in names), None)
    if path is None:
        raise NotApplicable(f"layer {number} ({type(layer).__name__}) has no part that is its attention")
    return path


def first(answer: Any) -> torch.Tensor:
    """The hidden states that a part returned, alone or before other things."""
    hidden: torch.Tensor = answer[0] if isinstance(answer, (tuple, list)) else answer
    return hidden


def with_first(answer: Any, hidden: torch.Tensor) -> Any:
    """What a part returned, with other hidden states."""
    return type(answer)((hidden, *answer[1:])) if isinstance(answer, (tuple, list)) else hidden


class _Answer(torch.nn.Module):
    """Stands in for a part of a layer and returns what it is told."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.answer


class Trunk:
    """The layers of a Hugging Face causal language model. NotApplicable where not each of them attends once."""

    def __init__(self, model: Any) -> None:
        found = access(model)
        if not found.layers:
            raise NotApplicable(found.reason)
        self.model, self.backbone = model, backbone(model)
        self.layers: list[Any] = [model.get_submodule(path) for path in found.layers]
        self._paths = [_attention_path(n, layer, found) for n, layer in enumerate(self.layers)]
        if len({self.attention(n) for n in range(self.n_layers)}) < self.n_layers:
            raise NotApplicable(f"layers of {type(model).__name__} share their attention: one cannot be changed alone")
        self.final_norm = _final_norm(model, found)
        self.n_heads = int(model.config.get_text_config().num_attention_heads)
        for n in range(self.n_layers):
            part = child(self.attention(n), PROJECTIONS, "output projection")
            if not isinstance(getattr(part, "weight", None), torch.Tensor):
                raise NotApplicable(f"the output projection {type(part).__name__} of layer {n} is not one matrix")
        self._w_o = [output_projection(self.attention(n), self.n_heads) for n in range(self.n_layers)]
        self._check_going_on()

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    def attention(self, layer: int) -> torch.nn.Module:
        """The attention module of a layer."""
        attention: torch.nn.Module = self.layers[layer].get_submodule(self._paths[layer])
        return attention

    def _branch(self, layer: int) -> tuple[str, torch.nn.Module]:
        """The part that a layer calls for its attention: the attention module or what wraps it, and its name."""
        name = self._paths[layer].partition(".")[0]
        return name, getattr(self.layers[layer], name)

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
            output = self.backbone(input_ids=inputs, use_cache=False)
        if isinstance(self.final_norm, torch.nn.Identity):
            residuals.append(output.last_hidden_state)
        if len(residuals) != self.n_layers + 1:
            raise NotApplicable(f"{type(self.model).__name__} does not run its layers once each, then its final norm")
        return Passage(inputs, residuals, calls, output)

    @torch.inference_mode()
    def step(self, passage: Passage, layer: int, resid_pre: torch.Tensor) -> torch.Tensor:
        """resid_post of one layer."""
        rest, options = passage.calls[layer]
        out = self.layers[layer](resid_pre, *rest, **options)
        return first(out)

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
            branch = self._branch(layer)[1]
            hooks.callback(branch.register_forward_hook(lambda _, args, out: seen.append(out)).remove)
            self.step(passage, layer, passage.residuals[layer] if resid_pre is None else resid_pre)
        z, answer = seen
        found = LayerHeads(first(answer), z.unflatten(-1, (self.n_heads, -1)), answer)
        if own:
            self._check(passage, layer, found)
        return found

    @torch.inference_mode()
    def resume(self, passage: Passage, layer: int, heads: LayerHeads, written: torch.Tensor) -> torch.Tensor:
        """resid_post of a layer whose attention writes `written` instead; its attention is not computed."""
        with self._answering(layer, _Answer(with_first(heads.answer, written))):
            return self.step(passage, layer, passage.residuals[layer])

    def change(self, layer: int, head: int, difference: torch.Tensor) -> torch.Tensor:
        """What a change of one head's z [..., d_head] changes in what its layer's attention writes [..., d_model]."""
        return difference @ self._w_o[layer][head].to(difference.dtype)

    def without(self, passage: Passage, layer: int, part: str) -> torch.Tensor:
        """resid_post of a layer whose attention or MLP (`part`: "attn" or "mlp") adds nothing."""
        silenced = self._branch(layer)[1] if part == "attn" else child(self.layers[layer], MLP, "layer")

        def silence(_: Any, args: Any, out: Any) -> Any:
            return with_first(out, torch.zeros_like(first(out)))

        handle = silenced.register_forward_hook(silence)
        try:
            return self.step(passage, layer, passage.residuals[layer])
        finally:
            handle.remove()

    @torch.inference_mode()
    def _check_going_on(self) -> None:
        """NotApplicable where layers hand on more than the residual stream: another input of the first must do what it does
        in a whole pass."""

        def other(module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
            if args:
                return (args[0].roll(1, -1), *args[1:]), options
            return args, {**options, "hidden_states": options["hidden_states"].roll(1, -1)}

        rows = trial_rows(self.model.config).to(self.model.device)
        passage = self.passage(rows)
        handle = self.layers[0].register_forward_pre_hook(other, with_kwargs=True)
        try:
            whole = self.passage(rows).residuals[-1]
        finally:
            handle.remove()
        ours = self.finish(passage, 0, passage.residuals[0].roll(1, -1))
        if not self._agree(ours, whole):
            raise NotApplicable(f"layers of {type(self.model).__name__} hand on more than the residual stream")

    @staticmethod
    def _agree(ours: torch.Tensor, own: torch.Tensor) -> bool:
        allowed = TOLERANCE * (1 if own.dtype == torch.float32 else 100) * float(own.abs().max())
        return ours.shape == own.shape and float((ours - own).abs().max()) <= allowed

    def _check(self, passage: Passage, layer: int, heads: LayerHeads) -> None:
        own = passage.residuals[layer + 1]
        bias = getattr(child(self.attention(layer), PROJECTIONS, "output projection"), "bias", None)
        written = torch.einsum("bphd,hdm->bpm", heads.z.float(), self._w_o[layer])
        written = (written if bias is None else written + bias.float()).to(own.dtype)
        name = type(self.model).__name__
        try:
            resumed = self.resume(passage, layer, heads, written)
        except Exception as error:  # a family's own code, which may want more of its attention than its answer
            raise NotApplicable(f"layers of {name} cannot be resumed after their attention: {error}") from error
        if not self._agree(resumed, own):
            raise NotApplicable(f"layers of {name} cannot be resumed after their attention")

    @contextmanager
    def _answering(self, layer: int, module: torch.nn.Module) -> Iterator[None]:
        parent, (name, own) = self.layers[layer], self._branch(layer)
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
