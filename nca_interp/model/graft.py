"""Graft the tensors of a parent: which of them, or which heads of them, are carried over, and what is put in place of the rest."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch

from nca_interp.base import UserError, stream_seed
from nca_interp.graft import NOTHING, Graft, Head
from nca_interp.model.llama import kind_of

LAYER = re.compile(r"\.layers\.(\d+)\.")
PROJECTIONS = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}


class Role(NamedTuple):
    """What a parameter is for."""

    kind: str
    """embed (also the unembedding), q, k, v, o, mlp or norm."""
    layer: int | None
    """None: of embeddings, and of the final norm."""


def role_of(name: str) -> Role:
    """The role of a Llama parameter by its name."""
    kind, at = str(kind_of(name)), LAYER.search(name)
    if kind == "attn":
        kind = PROJECTIONS[name.split(".")[-2]]
    return Role(kind, int(at[1]) if at else None)


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


def slices(
    role: Role, what: bool | Iterable[int], shape: torch.Size, at: Geometry
) -> list[tuple[str, tuple[slice, ...]]]:
    """(name, index) of what is replaced of a tensor: all (True), nothing (False), or the slice of each head, which is rows of Q, K, V
    [heads x d_head, d_model] (or of their biases), columns of O."""
    if isinstance(what, bool):
        return [("all", (slice(None),))] if what else []
    n = at.n_kv_heads if role.kind in ("k", "v") else at.n_heads
    axis = 1 if role.kind == "o" else 0
    width = shape[axis] // n
    before = (slice(None),) * axis
    return [(f"head {h}", (*before, slice(h * width, (h + 1) * width))) for h in what]


def put(
    parameter: torch.Tensor, initial: torch.Tensor, parent: torch.Tensor, donor: torch.Tensor | None, graft: Graft,
    blocks: list[tuple[str, tuple[slice, ...]]], key: tuple[Any, ...],
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


def said(graft: Graft, what: bool | tuple[int, ...], by: str) -> str:
    """What was done to a tensor, for the log: `by` says how it was carried over."""
    if what is False or what == ():
        return by
    done = f"re-initialised ({graft.instead})" if graft.donor is None else f"weights of {graft.donor}"
    if what is True:
        return done
    return f"{done}: heads {', '.join(map(str, what))}; else {by}"


def weights_by_name(model: Any) -> Mapping[str, torch.Tensor]:
    """Its parameters by name; the unembedding also where it is the embedding."""
    return {**dict(model.named_parameters()), "lm_head.weight": model.get_output_embeddings().weight}
