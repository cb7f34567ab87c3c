"""Graft the tensors of a parent: which of them, or which heads of them, are carried over, and what is put in place of the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from nca_interp.base import UserError, stream_seed
from nca_interp.graft import NOTHING, Graft, Head
from nca_interp.model.llama import kind_of
from nca_interp.model.roles import kinds_of, model_roles

LAYER = re.compile(r"\.layers\.(\d+)\.")
PROJECTIONS = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}
SPLIT = {**PROJECTIONS, "out_proj": "o", "dense": "o", "c_proj": "o"}
"""Modules of attention by name, in families that keep Q, K and V apart, or O."""
FUSED = {"gpt2": ("c_attn", "side by side"), "gpt_neox": ("query_key_value", "by head"), "bloom": ("query_key_value", "by head"), "phi3": ("qkv_proj", "side by side")}  # fmt: skip
"""Families with one matrix for Q, K and V: its module, and whether all heads of Q come before those of K and V, or a head's Q,
K and V lie together. Of others attention is replaced whole, or not at all."""
Index = tuple[Any, ...]
Blocks = list[tuple[str, Index]]
ALL: Index = (slice(None),)


class Role(NamedTuple):
    """What a parameter is for."""

    kind: str
    """embed (also the unembedding), q, k, v, o, mlp or norm; attn: attention that is not told apart; pos: learned positions, which
    go with the whole attention of the first layer."""
    layer: int | None
    """None: of embeddings, and of the final norm."""


def role_of(name: str) -> Role:
    """The role of a Llama parameter by its name."""
    kind, at = str(kind_of(name)), LAYER.search(name)
    if kind == "attn":
        kind = PROJECTIONS[name.split(".")[-2]]
    return Role(kind, int(at[1]) if at else None)


class Piece(NamedTuple):
    """What of a tensor has one role: all of it, or of a fused matrix the entries of Q, K or V."""

    role: Role
    whole: Blocks
    by_head: Callable[[Iterable[int]], Blocks] | None = None
    """Entries of the given heads; None: it does not consist of heads."""

    def replaced(self, graft: Graft, heads: Collection[Head], at: Geometry) -> bool | tuple[int, ...]:
        """`replaced` of its role; what does not consist of heads (a bias of O) is of none of them."""
        found = replaced(self.role, graft, heads, at)
        return graft.mode == "keep" if self.by_head is None and not isinstance(found, bool) else found

    def blocks(self, what: bool | tuple[int, ...]) -> Blocks:
        """What `replaced` said, as entries of the tensor."""
        if isinstance(what, bool):
            return self.whole if what else []
        assert self.by_head is not None
        return self.by_head(what)


def pieces_of(model: Any) -> dict[str, tuple[Piece, ...]]:
    """The pieces of each parameter of a model."""
    kinds, role, at = kinds_of(model), model_roles(model), Geometry.of(model.config)
    found = {}
    for name, parameter in model.named_parameters():
        kind, layer = kinds[name], role(name).layer
        if kind == "attn":
            found[name] = _of_attention(model, name, parameter, layer, at)
        else:
            found[name] = (Piece(Role(kind, None if kind == "embed" else layer), [("all", ALL)]),)
    return found


def _of_attention(model: Any, name: str, parameter: torch.Tensor, layer: int | None, at: Geometry) -> tuple[Piece, ...]:
    if layer is None:
        return (Piece(Role("pos", 0), [("all", ALL)]),)
    module = name.split(".")[-2]
    inputs_first = type(model.get_submodule(name.rpartition(".")[0])).__name__ == "Conv1D" and parameter.ndim == 2
    fused, order = FUSED.get(model.config.model_type, ("", ""))
    if module == fused:
        axis = 1 if inputs_first else 0
        rows = _fused_rows(parameter.shape[axis], order == "by head", at)
        return tuple(_fused(Role(kind, layer), rows[kind], axis) for kind in "qkv")
    if module not in SPLIT:
        return (Piece(Role("attn", layer), [("all", ALL)]),)
    own = Role(SPLIT[module], layer)
    if own.kind == "o" and parameter.ndim == 1:
        return (Piece(own, [("all", ALL)]),)
    return (Piece(own, [("all", ALL)], lambda heads: slices(own, heads, parameter.shape, at, inputs_first)),)


def _fused_rows(n: int, by_head: bool, at: Geometry) -> dict[str, torch.Tensor]:
    """Entries [head, d_head] of Q, K and V among the n of a fused matrix."""
    numbers = torch.arange(n)
    if by_head:
        return dict(zip("qkv", numbers.view(at.n_heads, 3, -1).unbind(1), strict=True))
    width = n // (at.n_heads + 2 * at.n_kv_heads)
    parts = numbers.split([width * h for h in (at.n_heads, at.n_kv_heads, at.n_kv_heads)])
    return {kind: part.view(-1, width) for kind, part in zip("qkv", parts, strict=True)}


def _fused(role: Role, rows: torch.Tensor, axis: int) -> Piece:
    before = (slice(None),) * axis

    def by_head(heads: Iterable[int]) -> Blocks:
        return [(f"{role.kind} head {h}", (*before, rows[h])) for h in heads]

    return Piece(role, [(f"{role.kind} all", (*before, rows.flatten()))], by_head)


class Geometry(NamedTuple):
    """Heads of a network, as far as slices of its tensors depend on them."""

    n_layers: int
    n_heads: int
    n_kv_heads: int

    @classmethod
    def of(cls, config: Any) -> Geometry:
        """Of a Hugging Face configuration."""
        heads = config.num_attention_heads
        return cls(config.num_hidden_layers, heads, getattr(config, "num_key_value_heads", None) or heads)


def replaced(role: Role, graft: Graft, heads: Collection[Head], at: Geometry) -> bool | tuple[int, ...]:
    """What of a tensor is not carried over: all (True), nothing (False), or the heads of its layer that are listed.

    `heads`: those that the graft names, read from their file and drawn where it asks for that. UserError where a head of K or V
    serves heads that are carried over and heads that are not.
    """
    if graft == NOTHING:
        return False
    last = at.n_layers - 1
    layer = last if role.kind == "norm" and role.layer is None else role.layer
    named = role.kind in graft.kinds() and (layer is None or layer in graft.layer_numbers(at.n_layers))
    by_head = bool(heads) and role.kind in PROJECTIONS.values() and not named
    if role.kind in ("attn", "pos") and (graft.kinds() or heads):
        of_attention = graft.kinds() & {"q", "k", "v", "o"}
        if role.kind == "attn" and (heads or len(of_attention) in (1, 2, 3)):
            raise UserError(
                f"graft: {graft.subject()}: the attention of this family is not told apart into Q, K, V and O by head; legal: part attn"
            )
        named = len(of_attention) == 4 and layer in graft.layer_numbers(at.n_layers)
    if not by_head:
        return named is (graft.mode == "reinit")
    own = tuple(sorted(h for where, h in heads if where == layer))
    if graft.mode == "keep":
        own = tuple(h for h in range(at.n_heads) if h not in own)
    return _grouped(own, role, at) if role.kind in ("k", "v") and at.n_kv_heads != at.n_heads else own


def _grouped(heads: tuple[int, ...], role: Role, at: Geometry) -> tuple[int, ...]:
    """The heads of K or V that serve the given heads, and no others."""
    size = at.n_heads // at.n_kv_heads
    groups = {h // size for h in heads}
    for group in groups:
        members = range(group * size, (group + 1) * size)
        if not set(members) <= set(heads):
            raise UserError(
                f"graft.heads: heads {members[0]} to {members[-1]} of layer {role.layer} share one head of K and V, so they can only be "
                "replaced together; legal: whole groups, or parts q and o"
            )
    return tuple(sorted(groups))


def slices(role: Role, heads: Iterable[int], shape: torch.Size, at: Geometry, inputs_first: bool = False) -> Blocks:
    """(name, index) of the slice of each head: rows of Q, K, V [heads x d_head, d_model] (or their biases), columns of O; where a
    matrix has its `inputs_first`, the other way round."""
    n = at.n_kv_heads if role.kind in ("k", "v") else at.n_heads
    axis = int((role.kind == "o") is not inputs_first)
    width = shape[axis] // n
    before = (slice(None),) * axis
    return [(f"head {h}", (*before, slice(h * width, (h + 1) * width))) for h in heads]


def put(
    parameter: torch.Tensor, initial: torch.Tensor, parent: torch.Tensor, donor: torch.Tensor | None, graft: Graft,
    blocks: Blocks, key: tuple[Any, ...],
) -> None:  # fmt: skip
    """Replace `blocks` of a tensor in place by what the graft puts there; `initial` is its initial (or fresh) value, `key` names its
    random stream."""
    for label, at in blocks:
        other = None if donor is None else donor[at]
        parameter[at] = stand_in(graft.instead, initial[at], parent[at], other, (*key, label))


def stand_in(
    instead: str, initial: torch.Tensor, parent: torch.Tensor, donor: torch.Tensor | None, key: tuple[Any, ...]
) -> torch.Tensor:
    """What stands in place of `parent` (of any shape, `initial` likewise), by `Graft.instead`; random ones of the stream `key`."""
    if instead in ("initial", "fresh"):
        return initial
    if instead == "scaled":
        return at_norm(initial, parent)
    if instead == "directions":
        return at_norm(parent, initial)
    if instead == "donor":
        assert donor is not None
        return donor
    generator = torch.Generator().manual_seed(stream_seed(*key, instead))
    if instead == "permuted" or parent.ndim == 1:
        return parent.flatten()[torch.randperm(parent.numel(), generator=generator)].view(parent.shape)
    return _with_spectrum(parent, generator)


def at_norm(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A tensor at the Frobenius norm of another; as it is where it is zero."""
    now, then = float(tensor.double().norm()), float(other.double().norm())
    return tensor * (then / now) if now > 0 else tensor


def _with_spectrum(matrix: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """U diag(s) V^T with s of `matrix` [m, n] and U [m, k], V [n, k] uniform among orthonormal columns (k the smaller of m and n)."""
    values = torch.linalg.svdvals(matrix.double())
    left, right = (_orthonormal(n, len(values), generator) for n in matrix.shape)
    return ((left * values) @ right.T).to(matrix.dtype)


def _orthonormal(n: int, k: int, generator: torch.Generator) -> torch.Tensor:
    """[n, k] fp64 with orthonormal columns, by Haar measure (QR of a Gaussian with the signs of R's diagonal put right)."""
    q, r = torch.linalg.qr(torch.randn(n, k, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def said(graft: Graft, found: Sequence[tuple[Piece, bool | tuple[int, ...]]], by: str) -> str:
    """What was done to a tensor, for the log: `by` says how it was carried over."""
    done = f"re-initialised ({graft.instead})" if graft.donor is None else f"weights of {graft.donor}"
    if all(what is True for _, what in found):
        return done
    parts = []
    for piece, what in found:
        if what:
            which = "all" if isinstance(what, bool) else f"heads {', '.join(map(str, what))}"
            parts.append(which if len(found) == 1 else f"{which} of {piece.role.kind}")
    return f"{done}: {', '.join(parts)}; else {by}" if parts else by


def weights_by_name(model: Any, unembedding: str | None) -> Mapping[str, torch.Tensor]:
    """Its parameters by name; also by that of an untied `unembedding` where it is this model's embedding."""
    found = dict(model.named_parameters())
    return found if unembedding is None else {**found, unembedding: model.get_output_embeddings().weight}
