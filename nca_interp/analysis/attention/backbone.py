"""The parts of a causal language model that a measurement needs, found by watching it run, not by their names.

The backbone turns tokens into hidden states, the head those into logits. Layers are numbered by their place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from typing import Any

import torch

from nca_interp.analysis.attention.kernel import Layer, Sink
from nca_interp.base import UserError


@contextmanager
def only_head(model: Any, backbone: torch.nn.Module, output: Any) -> Iterator[Any]:
    """Calling `model` applies its head alone, as its family does, to the hidden states of the object that this yields: a
    copy of `output`, which `backbone` returned for some input."""
    given, own = copy(output), backbone.__dict__.get("forward")
    backbone.forward = lambda *inputs, **options: given  # shadows the method of its class; its attributes stay
    try:
        yield given
    finally:
        del backbone.forward
        if own is not None:
            backbone.forward = own


def find_backbone(model: Any, tokens: torch.Tensor, logits: torch.Tensor, tolerance: float) -> str | None:
    """Path of the part of `model` that, called alone on `tokens` and followed by the head, gives its `logits`; the
    innermost of several. None where its head cannot be run apart."""
    with inner_calls(model) as called, torch.inference_mode():
        model(input_ids=tokens, use_cache=False)
    for path in (p for p, out in called if isinstance(getattr(out, "last_hidden_state", None), torch.Tensor)):
        part = model.get_submodule(path)
        try:
            with torch.inference_mode():
                output = part(input_ids=tokens, use_cache=False)
                with only_head(model, part, output) as given:
                    given.last_hidden_state = output.last_hidden_state.flatten(0, 1)[None]
                    found = model(input_ids=tokens.flatten()[None], use_cache=False).logits.float()
        except Exception:  # foreign code that is no backbone may raise anything: the next one is tried
            continue
        gap = (
            found.view(logits.shape) - logits.float()
            if found.numel() == logits.numel()
            else logits.new_tensor(torch.inf)
        )
        if float(gap.abs().max()) <= tolerance * float(logits.abs().max()):
            return path
    return None


@contextmanager
def inner_calls(model: torch.nn.Module, last: int | None = None) -> Iterator[Collection[tuple[str, Any]]]:
    """Parts of `model` that ran inside and what they returned, in the order in which they finished; only the `last` of them, so
    that the rest is freed."""
    called: deque[tuple[str, Any]] = deque(maxlen=last)

    def noting(path: str) -> Any:
        return lambda module, inputs, output: called.append((path, output))

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if path:
                hooks.callback(module.register_forward_hook(noting(path)).remove)
        yield called


def layer_paths(model: torch.nn.Module, attending: tuple[str, ...]) -> tuple[str, ...]:
    """The layers of the lists in which the modules at some paths lie, e.g. model.layers.0, model.layers.1: of the outermost
    lists that tell all modules apart. Empty where they lie in none."""
    places = [_places(model, path) for path in attending]
    chosen: list[str] = []
    for depth in range(min(map(len, places), default=0)):
        chosen = [place[depth] for place in places]
        if len(set(chosen)) == len(chosen):
            break
    lists = dict.fromkeys(place.rpartition(".")[0] for place in chosen)
    return tuple(f"{name}.{n}" for name in lists for n in range(len(model.get_submodule(name))))  # type: ignore[arg-type]


def _places(model: torch.nn.Module, path: str) -> list[str]:
    """Entries of lists in which the module at `path` lies (or that it is), the outermost first."""
    parts = path.split(".")
    heads = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
    return [h for h in heads if isinstance(model.get_submodule(h.rpartition(".")[0]), torch.nn.ModuleList)]


@contextmanager
def numbering(model: torch.nn.Module, layers: tuple[str, ...], sink: Sink) -> Iterator[Sink]:
    """A sink that gives each layer its place among `layers` and hands it on; for one forward pass. UserError for a layer
    that attends twice, since its heads would have two patterns."""
    place: list[int] = []
    seen: set[int] = set()

    def entering(n: int) -> Any:
        return lambda module, inputs: place.__setitem__(slice(None), [n])

    def numbered(layer: Layer) -> None:
        number = place[0] if place else layer.number
        if number in seen:
            raise UserError(f"{type(model).__name__}: layer {number} attends more than once in a pass")
        seen.add(number)
        sink(layer._replace(number=number))

    with ExitStack() as hooks:
        for n, path in enumerate(layers):
            hooks.callback(model.get_submodule(path).register_forward_pre_hook(entering(n)).remove)
        yield numbered
