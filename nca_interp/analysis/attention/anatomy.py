"""Where the attention of each layer writes: found by watching one forward pass and checked on it, not by names.

From a layer's attention to the residual stream: z (what reaches the output projection, after gates and norms of its own),
the projection, the modules that the written vector alone passes (a norm of the branch), a positive factor, the sum. From
the last layer to the logits: the modules in between (the final norm), the unembedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch

from nca_interp.analysis.attention.forward import forward
from nca_interp.analysis.stimuli.base import Batch, NotApplicable

TOKENS = 16
"""Length of the sequence that is watched."""
TOLERANCE = 1e-3
"""What a layer adds may differ from what is said here by this share of its norm (fp32; thirty times as much in shorter precision)."""


class Block(NamedTuple):
    """The attention of one layer."""

    layer: torch.nn.Module
    attention: torch.nn.Module
    projection: torch.nn.Module
    """W_O: what its last linear map is applied to is z."""
    after: tuple[torch.nn.Module, ...]
    """What the written vector passes, in order, before it is added to the residual stream; mostly nothing."""
    scale: float
    """Positive factor with which it is added."""


class Anatomy(NamedTuple):
    """Of one model."""

    blocks: dict[torch.nn.Module, Block | str]
    """By attention module; a string says why it is not known where the attention writes."""
    tail: tuple[torch.nn.Module, ...] | str
    """What the last layer's output passes before the unembedding, in order: the final norm."""

    def block(self, attention: torch.nn.Module) -> Block:
        """NotApplicable where it is not known where an attention module writes."""
        found = self.blocks.get(attention, f"{type(attention).__name__} is not met in a forward pass")
        if isinstance(found, str):
            raise NotApplicable(found)
        return found

    def block_of(self, layer: torch.nn.Module) -> Block:
        """The same of the attention in a layer."""
        found = next((m for m in self.blocks if any(m is part for part in layer.modules())), None)
        if found is None:
            raise NotApplicable(f"the attention of {type(layer).__name__} cannot be read")
        return self.block(found)

    def final(self) -> tuple[torch.nn.Module, ...]:
        """NotApplicable where what leads from the last layer to the unembedding is no chain of modules."""
        if isinstance(self.tail, str):
            raise NotApplicable(self.tail)
        return self.tail


class Call(NamedTuple):
    """One call of a module, in the order in which calls end."""

    path: str
    module: torch.nn.Module
    args: tuple[Any, ...]
    options: dict[str, Any]
    read: dict[int | str, Any]
    """Marks of the tensors that it was given, as they were then, by place or name."""
    out: torch.Tensor | None
    made: Any
    """Mark of `out`."""

    @property
    def first(self) -> Any:
        """Mark of the first tensor that it was given."""
        return next(iter(self.read.values()), None)

    def given(self, place: int | str) -> torch.Tensor:
        """A tensor that it was given."""
        tensor: torch.Tensor = self.args[place] if isinstance(place, int) else self.options[place]
        return tensor


_KNOWN: WeakKeyDictionary[Any, Anatomy] = WeakKeyDictionary()


def anatomy(model: Any, inputs: np.ndarray | None = None) -> Anatomy:
    """Of a model whose attention can be read; `inputs` [batch, position]: tokens to watch it on, once for each model."""
    if model not in _KNOWN:
        assert inputs is not None, "a model is watched before its heads are asked for"
        _KNOWN[model] = watch(model, np.asarray(inputs)[:1, :TOKENS])
    return _KNOWN[model]


def watch(model: Any, inputs: np.ndarray) -> Anatomy:
    attending: dict[torch.nn.Module, None] = {}
    forward(model, Batch(inputs, inputs[:, 1:]), lambda layer: attending.setdefault(layer.module), False, (), {})
    if not attending:
        return Anatomy({}, f"the attention of {type(model).__name__} cannot be read")
    with torch.no_grad(), noting(model) as calls:
        model(input_ids=torch.as_tensor(inputs, dtype=torch.long, device=model.device), use_cache=False)
    blocks: dict[torch.nn.Module, Block | str] = {}
    for module in attending:
        try:
            blocks[module] = _block(model, module, calls)
        except NotApplicable as reason:
            blocks[module] = str(reason)
    try:
        return Anatomy(blocks, _tail(model, [b for b in blocks.values() if isinstance(b, Block)], calls))
    except NotApplicable as reason:
        return Anatomy(blocks, str(reason))


@contextmanager
def noting(model: torch.nn.Module) -> Iterator[list[Call]]:
    """The calls of all parts of a model; tensors are kept, so that equal addresses mean the same tensor."""
    calls: list[Call] = []
    reads: list[dict[int | str, Any]] = []

    def before(module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        given: list[tuple[int | str, Any]] = [*enumerate(args), *options.items()]
        reads.append({place: _mark(value) for place, value in given if isinstance(value, torch.Tensor)})

    def after(path: str) -> Any:
        def note(module: Any, args: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
            out = output[0] if isinstance(output, (tuple, list)) and output else output
            out = out if isinstance(out, torch.Tensor) else None
            calls.append(Call(path, module, args, options, reads.pop(), out, _mark(out)))

        return note

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if not isinstance(module, torch.nn.ModuleList):
                hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(after(path), with_kwargs=True).remove)
        yield calls


def _mark(tensor: torch.Tensor | None) -> Any:
    """Equal for two views of the same values: of the same place, not written to in between."""
    return None if tensor is None else (tensor.data_ptr(), tuple(tensor.shape), tensor._version)


def inside(path: str, of: str) -> bool:
    return not of or path == of or path.startswith(f"{of}.")


def chain(calls: list[Call], mark: Any, within: str) -> tuple[list[Call], Any]:
    """The calls in a part of the model that take the tensor of a mark, and nothing but what came of it, one after the other; the
    mark of what the last of them made."""
    found = []
    for call in calls:
        if inside(call.path, within) and mark is not None and call.first == mark and call.out is not None:
            found.append(call)
            mark = call.made
    return found, mark


def changing(calls: list[Call]) -> tuple[torch.nn.Module, ...]:
    """Their modules, but for those that hand on what they got (dropout that is switched off)."""
    return tuple(call.module for call in calls if call.made != call.first)


def _layer_path(model: torch.nn.Module, path: str) -> str:
    """Path of the layer that a module belongs to: the entry of the outermost list that it lies in."""
    parts = path.split(".")
    for i in range(1, len(parts)):
        if isinstance(model.get_submodule(".".join(parts[:i])), torch.nn.ModuleList):
            return ".".join(parts[: i + 1])
    raise NotApplicable(f"{type(model).__name__} does not keep its layers in a list")


def _block(model: Any, attention: torch.nn.Module, calls: list[Call]) -> Block:
    name = type(attention).__name__
    path = next(p for p, m in model.named_modules() if m is attention)
    where = _layer_path(model, path)
    linear = [c for c in calls if inside(c.path, path) and c.path != path and _is_linear(c.module)]
    entered = [c for c in calls if c.path == where]
    if not linear or len(entered) != 1:
        raise NotApplicable(f"{name} has no output projection" if not linear else f"{name} is called more than once")
    last = linear[-1]
    after, _ = chain([c for c in calls[calls.index(last) + 1 :] if c.path != where], last.made, where)
    block = Block(entered[0].module, attention, last.module, changing(after), 1.0)
    return block._replace(scale=_scale(block, where, [last, *after], entered[0], path))


def _is_linear(module: torch.nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.ndim == 2 and not isinstance(module, torch.nn.Embedding)


def _scale(block: Block, where: str, branch: list[Call], entered: Call, path: str) -> float:
    """The factor with which a layer adds what its attention writes; NotApplicable where it does anything else with it.

    All other parts of the layer are made to add nothing, and its output with the written vector is compared with that without.
    """
    needed = [path, *(c.path for c in branch)]
    others = [m for n, m in entered.module.named_children() if not any(inside(p, f"{where}.{n}") for p in needed)]
    written = branch[0].out
    assert written is not None
    given: list[torch.Tensor] = []
    with ExitStack() as hooks, torch.no_grad():
        hooks.callback(block.projection.register_forward_hook(lambda m, a, out: given[0]).remove)
        for module in others:
            hooks.callback(module.register_forward_hook(lambda m, a, out: _zeros(out)).remove)

        def output(vector: torch.Tensor) -> torch.Tensor:
            given[:] = [vector]
            out = entered.module(*entered.args, **entered.options)
            out = out[0] if isinstance(out, (tuple, list)) else out
            return out.double()

        expected = (through(block.after, written) - through(block.after, torch.zeros_like(written))).double()
        added = output(written) - output(torch.zeros_like(written))
    exact = TOLERANCE * (1 if written.dtype == torch.float32 else 30)
    if added.shape == expected.shape and (size := float((expected * expected).sum())) > 0:
        scale = float((added * expected).sum()) / size
        if scale > 0 and float((added - scale * expected).norm()) <= exact * float(added.norm()):
            return scale
    raise NotApplicable(
        f"what {type(block.layer).__name__} adds to the residual stream is not, up to norms, what its attention writes"
    )


def through(modules: tuple[torch.nn.Module, ...], vector: torch.Tensor) -> torch.Tensor:
    for module in modules:
        try:
            vector = module(vector)
        except TypeError:  # it takes more than one tensor
            raise NotApplicable(f"{type(module).__name__} takes more than the residual stream") from None
    return vector


def _zeros(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return torch.zeros_like(output)
    return type(output)(_zeros(part) for part in output) if isinstance(output, (tuple, list)) else output


def _tail(model: Any, blocks: list[Block], calls: list[Call]) -> tuple[torch.nn.Module, ...]:
    head, name = model.get_output_embeddings(), type(model).__name__
    heads = [c for c in calls if c.module is head]
    if head is None or not heads or not blocks:
        raise NotApplicable(
            f"{name} has no unembedding" if blocks else f"it is not known where the layers of {name} write"
        )
    layer = next(p for p, m in model.named_modules() if m is blocks[-1].layer)
    siblings = layer.rpartition(".")[0]
    last = [c for c in calls if c.path.rpartition(".")[0] == siblings][-1]
    found, mark = chain(calls[calls.index(last) + 1 : calls.index(heads[-1])], last.made, "")
    if mark != heads[-1].first:
        raise NotApplicable(f"what leads from the last layer of {name} to its unembedding is no chain of its modules")
    return changing(found)
