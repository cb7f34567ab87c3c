"""Weights of attention heads, norms folded in: what the model's own modules make of unit vectors, checked on real ones.

A head's query is read as x W_Q R + b, R the rotation of its position and x the residual stream, normalised: W_Q is what the
norm before the attention and the attention module answer to unit vectors. So fused projections, shared keys, partial or
absent rotary embeddings and gains are those of the model, in every layer. Whether a model is linear in that sense is not
assumed: queries, keys and values of real vectors at several positions must come out, and what it writes must be the sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch

from nca_interp.analysis.attention.anatomy import Block, Call, chain, changing, inside, noting, through, watch
from nca_interp.analysis.attention.heads import side_by_side
from nca_interp.analysis.attention.kernel import Layer, handing_to, register
from nca_interp.analysis.stimuli.base import NotApplicable
from nca_interp.base import UserError
from nca_interp.model.roles import context_length

OFFSETS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Query position minus key position: scores are given at 0 and averaged over those that the context allows."""
CHUNK = 128
"""Unit vectors at a time."""
TOLERANCE = 1e-3
"""Real vectors may differ from what the weights say by this share of their norm."""
LENGTH = 1e4
"""Of the unit vectors, so that the small constant of a norm is nothing to them."""


class Weights(NamedTuple):
    """Of all heads, norms folded in (up to a positive factor of each matrix), float64. Heads that share keys or values have
    copies of them."""

    w_e: torch.Tensor
    """[token, d_model]."""
    w_u: torch.Tensor
    """[d_model, token]."""
    w_q: torch.Tensor
    """[layer, head, d_model, d_head]; w_k and w_v the same."""
    w_k: torch.Tensor
    w_v: torch.Tensor
    w_o: torch.Tensor
    """[layer, head, d_head, d_model]."""
    rotations: torch.Tensor
    """[layer, offset, d_head, d_head]: what the query is multiplied by (row vectors); one identity a layer where no layer
    knows positions."""


class _Read(NamedTuple):
    """Queries, keys [vector, head, position, d_head] and values [vector, head, d_head] of vectors, float64."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor

    def less(self, other: _Read) -> _Read:
        """What is left without the biases, which are what zero is read as."""
        return _Read(*(a - b for a, b in zip(self, other, strict=True)))


class Heads(NamedTuple):
    """The heads of one layer: as in `Weights`, without the axis of layers."""

    w_q: torch.Tensor
    w_k: torch.Tensor
    w_v: torch.Tensor
    w_o: torch.Tensor
    rotations: torch.Tensor


class Folding:
    """A model that is being read: its embeddings, and its layers one at a time."""

    def __init__(self, model: Any, qk: bool) -> None:
        self._model, self._qk, name = model, qk, type(model).__name__
        self._offsets = torch.tensor([o for o in OFFSETS if o < context_length(model.config.get_text_config())])
        self._w_e = model.get_input_embeddings().weight.detach()
        self._tokens = np.random.default_rng(0).integers(len(self._w_e), size=(1, len(self._offsets)))
        self._parts = watch(model, self._tokens)
        if not self._parts.blocks:
            self._parts.final()
        self._calls = _run(model, self._tokens, self._offsets)
        self._first = self._parts.block(next(iter(self._parts.blocks)))
        first = self._first.layer
        self.n_layers = next(len(m) for m in model.modules() if isinstance(m, torch.nn.ModuleList) and first in m)
        """Layers of the model, those without attention included."""
        self._name = name

    def layers(self) -> Iterator[Heads]:
        """The heads of each layer with attention, float64."""
        for attention in self._parts.blocks:
            yield _layer(self._model, self._parts.block(attention), self._calls, self._qk)

    def embeddings(self, tokens: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """`Weights.w_e` (of some `tokens` alone where they are given) and `Weights.w_u`."""
        again = _run(self._model, self._tokens[:, ::-1].copy(), self._offsets)
        w_e = self._w_e.double()
        _check_embedding(self._model, self._first, w_e, self._tokens, self._calls, again)
        shape, w_e = w_e.T.shape, w_e if tokens is None else w_e[tokens]
        w_u = _unembedding(self._model, self._parts.final(), self._calls)
        if w_u.shape != shape:
            raise NotApplicable(f"{self._name} embeds {shape[1]} tokens and has logits of {w_u.shape[1]}")
        return w_e, w_u


@contextmanager
def folding(model: Any, qk: bool = True) -> Iterator[Folding]:
    """Inside, the weights of a Hugging Face causal language model can be read. Without `qk` nothing is asked of queries and
    keys: heads have no rotations, and only what they move (w_v, w_o) is checked. NotApplicable, with the reason, where what is
    asked for is not linear in the normalised residual stream, positions are no rotation, or the stream is no sum of what heads
    write.
    """
    if model.dtype != torch.float32 or model.device.type != "cpu":
        model = deepcopy(model).to(device="cpu", dtype=torch.float32)
    with _scored(model), torch.no_grad():
        yield Folding(model, qk)


def read_weights(model: Any) -> Weights:
    """Weights of a Hugging Face causal language model. NotApplicable as `folding`, and where layers differ in their heads."""
    name = type(model).__name__
    with folding(model) as parts:
        layers = list(parts.layers())
        if len(layers) != parts.n_layers:
            raise NotApplicable(f"{len(layers)} of {parts.n_layers} layers of {name} have attention to be read")
        if len({tuple(w.shape for w in layer) for layer in layers}) > 1:
            raise NotApplicable(f"the heads of {name} are not of one width in all layers")
        w_e, w_u = parts.embeddings()
    heads = Heads(*(torch.stack(each) for each in zip(*layers, strict=True)))
    still = bool((heads.rotations == torch.eye(heads.w_q.shape[-1], dtype=torch.float64)).all())
    return Weights(w_e, w_u, *heads[:4], heads.rotations[:, :1] if still else heads.rotations)


@contextmanager
def _scored(model: Any) -> Iterator[None]:
    """Inside, the attention of a model can be read."""
    own = model.config._attn_implementation
    if not type(model)._can_set_attn_implementation():  # transformers would only print so
        raise NotApplicable(f"the attention of {type(model).__name__} cannot be read alone (it cannot be replaced)")
    try:
        model.set_attn_implementation(register())
    except (ValueError, NotImplementedError) as error:
        raise NotApplicable(f"the attention of {type(model).__name__} cannot be read ({_first(error)})") from None
    try:
        yield
    finally:
        model.set_attn_implementation(own)


def _run(model: Any, tokens: np.ndarray, offsets: torch.Tensor) -> list[Call]:
    """The calls of a pass of tokens at the positions `offsets`."""
    with noting(model) as calls, _foreign(f"{type(model).__name__} does not run at chosen positions"):
        model(input_ids=torch.from_numpy(tokens), position_ids=offsets[None], use_cache=False)
    return calls


@contextmanager
def _foreign(problem: str) -> Iterator[None]:
    """NotApplicable for whatever a family's own code raises inside, called in a way that it need not know."""
    try:
        yield
    except (NotApplicable, UserError, MemoryError):
        raise
    except Exception as error:
        raise NotApplicable(f"{problem} ({_first(error)})") from error


def _layer(model: Any, block: Block, calls: list[Call], qk: bool) -> Heads:
    name = type(block.attention).__name__
    if block.after:
        norms = ", ".join(n for n, m in block.layer.named_children() if m in block.after)
        raise NotApplicable(
            f"{type(block.layer).__name__} normalises what its attention writes ({norms}): the stream is no sum"
        )
    layer = next(c for c in calls if c.module is block.layer)
    attention = next(c for c in calls if c.module is block.attention)
    before = [c for c in calls[: calls.index(attention)] if not inside(c.path, attention.path)]
    passed, mark = chain(before, layer.first, layer.path)
    place = next((p for p, m in attention.read.items() if m == mark), None)
    if place is None:
        raise NotApplicable(f"{name} does not read the residual stream through a norm alone")
    reader = _Reader(block, changing(passed), attention, place)
    stream = layer.given(next(iter(layer.read)))[0]
    zero = reader(torch.zeros_like(stream[:1]))
    heads = _of_unit_vectors(reader, zero, stream.shape[-1], name, qk)
    heads = heads._replace(w_o=side_by_side(block.projection, heads.w_q.shape[0]).double())
    _check(heads, stream.double(), reader(stream).less(zero), block.attention, qk)
    if reader.combined:
        raise NotApplicable(f"{name} changes what its heads put out before the output projection (a gate or a norm)")
    return heads


class _Reader:
    """What the attention of one layer makes of vectors [vector, d_model] in the residual stream, at every offset."""

    def __init__(self, block: Block, norms: tuple[torch.nn.Module, ...], call: Call, place: int | str) -> None:
        self._block, self._norms, self._call, self._place = block, norms, call, place
        self.combined = False
        """Whether anything else than the heads' outputs reached the output projection."""

    def __call__(self, vectors: torch.Tensor) -> _Read:
        positions = self._call.given(self._place).shape[1]
        hidden = through(self._norms, vectors[:, None]).repeat(1, positions, 1)
        args, options = list(self._call.args), dict(self._call.options)
        if isinstance(self._place, int):
            args[self._place] = hidden
        else:
            options[self._place] = hidden
        seen: list[Layer] = []
        reached: list[torch.Tensor] = []
        hook = self._block.projection.register_forward_pre_hook(lambda _, given: reached.append(given[0]))
        try:
            with (
                handing_to(seen.append),
                _foreign(f"{type(self._block.attention).__name__} does not run on chosen vectors"),
            ):
                self._call.module(*args, **options)
        finally:
            hook.remove()
        if len(seen) != 1:
            raise NotApplicable(f"{type(self._block.attention).__name__} does not let its attention be read alone")
        out = seen[0].out.transpose(1, 2).flatten(2)
        self.combined |= out.shape != reached[0].shape or not torch.allclose(out, reached[0], rtol=1e-3, atol=1e-5)
        # a first position attends to itself alone: what comes out is its value
        return _Read(seen[0].query.double(), seen[0].key.double(), seen[0].out[:, :, 0].double())


def _of_unit_vectors(reader: _Reader, zero: _Read, d_model: int, name: str, qk: bool) -> Heads:
    """w_q, w_k, w_v and (with `qk`) rotations of one layer; those solve W_Q R = what the queries of a position are, by least squares."""
    read: list[_Read] = []
    gram: Any = 0.0
    cross: Any = 0.0
    total: Any = 0.0
    moved: Any = 0.0
    for rows in torch.eye(d_model).split(CHUNK):
        found = reader(LENGTH * rows).less(zero)
        first = found.q[:, :, 0]
        gram = gram + torch.einsum("nhd,nhe->de", first, first)
        cross = cross + torch.einsum("nhd,nhoe->ode", first, found.q)
        total = total + found.q.square().sum((0, 1, 3))
        moved = moved + (found.q - first[:, :, None]).square().sum((0, 1, 3))
        read.append(_Read(first, found.k[:, :, 0], found.v))
    q, k, v = (torch.cat(each).transpose(0, 1) for each in zip(*read, strict=True))
    one = torch.eye(q.shape[-1], dtype=torch.float64)
    if not qk:
        return Heads(q, k, v, torch.empty(0), one[None])
    ridge = 1e-14 * float(gram.trace()) + 1e-300  # queries need not use all directions
    rotations = torch.linalg.solve(gram + ridge * one, cross)
    left = total - 2 * (rotations * cross).sum((1, 2)) + (rotations * (gram @ rotations)).sum((1, 2))
    if not bool((left <= TOLERANCE**2 * total + 1e-300).all()):
        raise NotApplicable(f"positions enter the queries of {name} otherwise than as one linear map for all its heads")
    still = moved <= 1e-10 * total + 1e-300
    return Heads(q, k, v, torch.empty(0), torch.where(still[:, None, None], one, rotations))


def _check(heads: Heads, stream: torch.Tensor, found: _Read, attention: torch.nn.Module, qk: bool) -> None:
    """NotApplicable unless the weights give the queries, keys and values of real vectors [vector, d_model] up to one positive
    factor each (that of the norm), and (both with `qk`) scores of two positions are those of their difference and 0."""

    kinds = {
        "queries": (found.q, torch.einsum("nm,hmd,ode->nhoe", stream, heads.w_q, heads.rotations)),
        "keys": (found.k[:, :, 0], torch.einsum("nm,hmd->nhd", stream, heads.w_k)),
    } if qk else {}  # fmt: skip
    kinds["values"] = (found.v, torch.einsum("nm,hmd->nhd", stream, heads.w_v))
    factors = []
    for what, (real, ours) in kinds.items():
        real, ours = real.flatten(1), ours.flatten(1)
        factor = (real * ours).sum(1) / ours.square().sum(1).clamp(min=1e-300)
        gap = float((real - ours * factor[:, None]).norm())
        if gap > TOLERANCE * float(real.norm()) or not bool(factor.isfinite().all() and (factor >= 0).all()):
            within = ", ".join(n for n, m in attention.named_modules() if "norm" in type(m).__name__.lower())
            raise NotApplicable(
                f"the {what} of {type(attention).__name__} are not linear in the normalised residual stream"
                + (f" ({within} inside the attention)" if within else "")
            )
        if bool(ours.any()):
            factors.append(factor)
    if any(float((factor - factors[0]).norm()) > TOLERANCE * float(factors[0].norm()) for factor in factors):
        raise NotApplicable(f"queries, keys and values of {type(attention).__name__} are not read through one norm")
    if not qk:
        return
    size = TOLERANCE * float(found.q[:, :, 0].norm() * found.k[:, :, 0].norm())
    for i in range(1, found.q.shape[2] - 1):  # offsets double: 2 o - o = o - 0
        far, near = (torch.einsum("nhd,mhd->hnm", found.q[:, :, i + n], found.k[:, :, i * n]) for n in (1, 0))
        if not float((far - near).norm()) <= size:
            raise NotApplicable(f"the scores of {type(attention).__name__} do not depend on relative positions alone")


def _check_embedding(model: Any, first: Block, w_e: torch.Tensor, tokens: np.ndarray, *passes: list[Call]) -> None:
    """NotApplicable unless other tokens at the same positions change what enters the first layer as W_E says."""
    one, other = (next(c for c in calls if c.module is first.layer) for calls in passes)
    found = (one.given(next(iter(one.read))) - other.given(next(iter(other.read))))[0].double()
    expected = w_e[tokens[0]] - w_e[tokens[0, ::-1].copy()]
    if found.shape == expected.shape:
        factor = float((found * expected).sum() / expected.square().sum().clamp(min=1e-300))
        if factor > 0 and float((found - factor * expected).norm()) <= TOLERANCE * float(found.norm()):
            return
    raise NotApplicable(
        f"what enters the first layer of {type(model).__name__} is not the embedding (it is changed before)"
    )


def _unembedding(model: Any, tail: tuple[torch.nn.Module, ...], calls: list[Call]) -> torch.Tensor:
    """[d_model, token], the final norm folded in; NotApplicable unless it gives the logits of a real vector."""
    head = model.get_output_embeddings()
    start = (
        next(c for c in calls if c.module is tail[0]).given(0)
        if tail
        else next(c for c in calls if c.module is head).given(0)
    )

    def logits(vectors: torch.Tensor) -> torch.Tensor:
        return head(through(tail, vectors[None]))[0].double()

    zero = logits(torch.zeros_like(start[0, :1]))
    w_u = torch.empty(start.shape[-1], zero.shape[-1], dtype=torch.float64)
    for rows, part in zip(torch.eye(start.shape[-1]).split(CHUNK), w_u.split(CHUNK), strict=True):
        torch.sub(logits(LENGTH * rows), zero, out=part)
    found, expected = logits(start[0]) - zero, start[0].double() @ w_u
    factor = (found * expected).sum(1, keepdim=True) / expected.square().sum(1, keepdim=True).clamp(min=1e-300)
    if not bool((factor > 0).all()) or float((found - factor * expected).norm()) > TOLERANCE * float(found.norm()):
        raise NotApplicable(f"the logits of {type(model).__name__} are not linear in its normalised residual stream")
    return w_u


def _first(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
