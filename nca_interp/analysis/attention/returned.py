"""Attention that is a model's own code: the patterns that its modules return, handed out as layers.

A pattern is the attention of queries log A on keys that are one-hot: score(q, k) = log A[q, k], log-sum-exp 0. So
whatever reads a `Layer` reads these as well. Only patterns that the module itself multiplies with its values count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch.overrides import TorchFunctionMode

from nca_interp.analysis.attention.kernel import Layer, Rule, Sink

SMALLEST = 1e-30
"""Stands for a probability of zero, whose logarithm is not finite."""
TOLERANCE = 1e-5
"""Of sums of probabilities (fp32; a thousand times as much in shorter precision)."""


Outputs = Literal["projection", "returned"]
"""Where the heads' outputs are seen: at the module's own output projection, or as what it returns (the projection is not
its part)."""


def is_pattern(value: Any, length: int) -> bool:
    """Whether it has the shape of attention [batch, head, length, length]."""
    return (
        isinstance(value, torch.Tensor)
        and value.ndim == 4
        and value.is_floating_point()
        and tuple(value.shape[-2:]) == (length, length)
    )


def attending_modules(calls: Iterable[tuple[str, Any]], length: int) -> list[str]:
    """Paths of the modules that returned a pattern first: what contains them returns the same tensor again."""
    found: dict[int, str] = {}
    for path, output in calls:
        for value in output if isinstance(output, (tuple, list)) else ():
            if is_pattern(value, length):
                found.setdefault(id(value), path)
    return list(dict.fromkeys(found.values()))


def layer_of(pattern: torch.Tensor, z: torch.Tensor, module: torch.nn.Module) -> Layer:
    """A `Layer` of probabilities [batch, head, query, key] and what the heads put out [batch, query, head * d_head]. The
    keys that a query may attend to are those to which some head gives any mass."""
    batch, heads, length, _ = pattern.shape
    pattern = pattern.float()
    allowed = (pattern > 0).any(1)
    if bool((allowed == allowed[:1]).all()):
        allowed = allowed[:1]
    causal = torch.ones(length, length, dtype=torch.bool, device=pattern.device).tril()
    rule = Rule(1.0, allowed=None if bool((allowed == causal).all()) else allowed)
    key = torch.eye(length, device=pattern.device).expand(batch, heads, length, length)
    out, lse = z.unflatten(-1, (heads, -1)).transpose(1, 2), pattern.new_zeros(batch, heads, length)
    return Layer(-1, pattern.clamp(min=SMALLEST).log(), key, lse, out, rule, module)


@contextmanager
def handing_returned(model: torch.nn.Module, paths: tuple[str, ...], outputs: Outputs, sink: Sink) -> Iterator[None]:
    """What the attention modules at `paths` return inside is handed to `sink`, and then dropped: only one layer's
    patterns are in memory."""
    reached: list[torch.Tensor] = []

    def keep(projection: Any, inputs: tuple[Any, ...]) -> None:
        reached[:] = inputs[:1]

    def hand(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        index, pattern = next((i, v) for i, v in enumerate(output) if isinstance(v, torch.Tensor) and v.ndim == 4)
        z = output[0] if outputs == "returned" else reached.pop()
        sink(layer_of(pattern, z, module))
        return type(output)((*output[:index], pattern.new_empty(0), *output[index + 1 :]))

    with ExitStack() as hooks:
        for path in paths:
            module = model.get_submodule(path)
            for part in module.modules():  # the last of these to run is the output projection
                if getattr(getattr(part, "weight", None), "ndim", 0) == 2:
                    hooks.callback(part.register_forward_pre_hook(keep).remove)
            hooks.callback(module.register_forward_hook(hand).remove)
        yield


class _Products(TorchFunctionMode):
    """Products inside of matrices [.., length, length] with something: the matrix and the result."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ("matmul", "__matmul__", "bmm", "baddbmm", "einsum"):
            square = [a for a in args if isinstance(a, torch.Tensor) and tuple(a.shape[-2:]) == (self.length,) * 2]
            self.found += [(factor, result) for factor in square]
        return result


@contextmanager
def products(length: int) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """The products of square matrices inside: which matrix, and the result."""
    with _Products(length) as watching:
        yield watching.found


def fault_of_layer(layer: Layer, found: list[tuple[torch.Tensor, torch.Tensor]], exact: bool) -> str | None:
    """Why what a module returned is not causal attention whose product with the values is what its heads put out."""
    allowed = TOLERANCE * (1 if exact else 1000)
    pattern = layer.query.exp()
    if not bool(pattern.isfinite().all()) or float((pattern.sum(-1) - 1).abs().max()) > allowed:
        return "the attention that it returns is not one of probabilities that sum to 1"
    if float(pattern.triu(1).max()) > allowed:
        return "the attention that it returns sees later tokens"
    if not any(_is_product(layer, pattern, factor.float(), result.float(), allowed) for factor, result in found):
        return "the attention that it returns, multiplied with its values, is not what its heads put out"
    return None


def _is_product(
    layer: Layer, pattern: torch.Tensor, factor: torch.Tensor, result: torch.Tensor, allowed: float
) -> bool:
    if factor.numel() != pattern.numel() or result.numel() != layer.out.numel():
        return False
    same = float((factor.reshape(pattern.shape) - pattern).abs().max()) <= allowed
    out = layer.out.float()
    return same and float((result.reshape(out.shape) - out).abs().max()) <= allowed * max(1.0, float(out.abs().max()))
