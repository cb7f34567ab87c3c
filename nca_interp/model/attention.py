"""Causal attention for training in bf16 on a processor, where torch's kernel spends most of its time in backward.

Blocks of queries against the keys up to them, as batched matrix products; the backward pass computes the pattern again,
so memory is linear in the context. Scores and pattern are bf16 (as with Hugging Face's "eager" attention), sums fp32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F


def block_rows(d_head: int) -> int:
    """Queries at a time: small blocks compute less of the future, large ones are better products (docs/performance.md)."""
    return min(128, max(32, 2 * d_head))


def without_previous_token(n: int, device: torch.device | None = None) -> torch.Tensor:
    """Which keys each query may attend to [query, key] where the token before its own is hidden: all up to it but that one.

    What a token says is then never known at the position after it, so that no key can be matched by its predecessor, which an
    induction head needs (Olsson et al. 2022, arXiv 2209.11895). The mask is the same for all sequences: one that depended on the
    tokens, as "hide what followed the same token earlier" does, would tell by the gap what it hides (docs/mediation.md).
    """
    keys = torch.arange(n, device=device)
    back = keys[:, None] - keys
    return (back >= 0) & (back != 1)


def causal_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, allowed: torch.Tensor | None = None
) -> torch.Tensor:
    """softmax(q k^T / sqrt(d_head), causal) v; all [batch, position, head, d_head], the result too. `allowed`: keys of each query
    [query, key], none of the future among them; None: all up to it."""
    scale = q.shape[-1] ** -0.5
    if allowed is not None:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale).transpose(1, 2)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # scaled and ordered out here, where a compiler can do it together with what comes before
        Q, K, V = (x.transpose(1, 2).reshape(-1, x.shape[1], x.shape[3]) for x in (q * scale, k, v))
        return _attention(Q, K, V).view(q.transpose(1, 2).shape).transpose(1, 2)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(1, 2)


# an operator, so that a compiler leaves it whole instead of unrolling its blocks; all [batch * head, position, d_head]
@torch.library.custom_op("nca_interp::causal_attention", mutates_args=())
def _attention(Q: torch.Tensor, K: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(Q)
    for rows, P in _patterns(Q, K):
        out[:, rows] = torch.bmm(P, V[:, : rows.stop])
    return out


@torch.library.custom_op("nca_interp::causal_attention_backward", mutates_args=())
def _attention_backward(
    grad: torch.Tensor, Q: torch.Tensor, K: torch.Tensor, V: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dQ, dK, dV = torch.empty_like(Q), torch.zeros(K.shape), torch.zeros(V.shape)
    for rows, P in _patterns(Q, K):
        dP = torch.bmm(grad[:, rows], V[:, : rows.stop].transpose(1, 2))
        dS = torch._softmax_backward_data(dP, P, -1, P.dtype)
        dV[:, : rows.stop] += torch.bmm(P.transpose(1, 2), grad[:, rows])
        dQ[:, rows] = torch.bmm(dS, K[:, : rows.stop])
        dK[:, : rows.stop] += torch.bmm(dS.transpose(1, 2), Q[:, rows])
    return dQ, dK.to(K.dtype), dV.to(V.dtype)


def _patterns(Q: torch.Tensor, K: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """For each block of (scaled) queries its rows, and the pattern [batch * head, rows, keys up to the last row]."""
    n, block = Q.shape[1], block_rows(Q.shape[2])
    future = torch.full((block, block), -math.inf, dtype=Q.dtype).triu_(1)
    for start in range(0, n, block):
        rows = slice(start, min(n, start + block))
        size = rows.stop - start
        S = torch.bmm(Q[:, rows], K[:, : rows.stop].transpose(1, 2))
        S[:, :, start:] += future[:size, :size]
        yield rows, torch.softmax(S, -1)


@_attention.register_fake
def _(Q: torch.Tensor, K: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(Q)


@_attention_backward.register_fake
def _(
    grad: torch.Tensor, Q: torch.Tensor, K: torch.Tensor, V: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty_like(Q), torch.empty_like(K), torch.empty_like(V)


_attention.register_autograd(
    lambda ctx, grad: _attention_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)
