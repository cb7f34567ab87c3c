"""Causal attention for training in bf16 on a processor, where torch's kernel spends most of its time in backward.

Blocks of queries against the keys up to them, as batched matrix products; the backward pass computes the pattern again,
so memory is linear in the context. Scores and pattern are bf16 (as with Hugging Face's "eager" attention), sums fp32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

BLOCK = 128


def causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(d_head), causal) v; all [batch, position, head, d_head], the result too."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return _attention(q, k, v)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out.transpose(1, 2)


# an operator, so that a compiler leaves it whole instead of unrolling its blocks
@torch.library.custom_op("nca_interp::causal_attention", mutates_args=())
def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    (Q, K, V), out = _by_head(q, k, v), torch.empty(q.shape, dtype=q.dtype)
    by_head = out.transpose(1, 2)
    for rows, P in _patterns(Q, K):
        by_head[:, :, rows] = torch.bmm(P, V[:, : rows.stop]).view(by_head[:, :, rows].shape)
    return out


@torch.library.custom_op("nca_interp::causal_attention_backward", mutates_args=())
def _attention_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    Q, K, V, G = _by_head(q, k, v, grad)
    dQ, dK, dV = torch.empty_like(Q), torch.zeros(K.shape), torch.zeros(V.shape)
    for rows, P in _patterns(Q, K):
        dP = torch.bmm(G[:, rows], V[:, : rows.stop].transpose(1, 2))
        dS = torch._softmax_backward_data(dP, P, -1, P.dtype)
        dV[:, : rows.stop] += torch.bmm(P.transpose(1, 2), G[:, rows])
        dQ[:, rows] = torch.bmm(dS, K[:, : rows.stop])
        dK[:, : rows.stop] += torch.bmm(dS.transpose(1, 2), Q[:, rows])
    scale = q.shape[-1] ** -0.5
    dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype) for _ in range(3))
    for target, value in ((dq, dQ.mul_(scale)), (dk, dK.mul_(scale)), (dv, dV)):
        target.transpose(1, 2).copy_(value.view(target.transpose(1, 2).shape))
    return dq, dk, dv


def _by_head(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """[batch, position, head, d_head] -> [batch * head, position, d_head], contiguous."""
    return [x.transpose(1, 2).reshape(-1, x.shape[1], x.shape[3]) for x in tensors]


def _patterns(Q: torch.Tensor, K: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """For each block of queries its rows, and the pattern [batch * head, rows, keys up to the last row]."""
    n = Q.shape[1]
    future = torch.full((BLOCK, BLOCK), -math.inf, dtype=Q.dtype).triu_(1)
    scale = Q.shape[-1] ** -0.5
    for start in range(0, n, BLOCK):
        rows = slice(start, min(n, start + BLOCK))
        size = rows.stop - start
        S = torch.bmm(Q[:, rows] * scale, K[:, : rows.stop].transpose(1, 2))
        S[:, :, start:] += future[:size, :size]
        yield rows, torch.softmax(S, -1)


@_attention.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


@_attention_backward.register_fake
def _(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tuple(torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3))  # type: ignore[return-value]


_attention.register_autograd(
    lambda ctx, grad: _attention_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)
