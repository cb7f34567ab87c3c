"""Cross-entropy of a linear head without the matrix of all logits: memory does not grow with tokens x vocabulary.

torch 2.13 has `F.linear_cross_entropy`, but in bf16 it sums the loss itself in bf16: 0.06 to 0.6 % off at 2,048 to 4,096 tokens
(`python benchmarks/loss.py`). Here everything but the matrix products is fp32.
"""

from __future__ import annotations

from typing import Any

import torch

IGNORE = -100
"""Target that counts for nothing."""
MIN_ROWS, LOGITS = 512, {"cpu": 2**20, "cuda": 2**26}
"""Logits that exist at a time: enough for the products to be at their best; never fewer than MIN_ROWS rows."""
CACHED = 2**18
"""Logits that a processor turns into errors at a time, so that they, in fp32, stay in its cache."""
SLICE = 2048
"""Words of the vocabulary whose gradients a processor adds up at a time, for the same reason."""


def linear_nll_sum(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum over tokens of -log softmax(hidden @ weight.T)[target], in nats, fp32; targets of IGNORE count nothing.

    `hidden` [tokens, d_model] in the precision of the products, `weight` [vocabulary, d_model] in fp32 or the same,
    `targets` [tokens]. Gradients are computed with the loss, a chunk of rows at a time, so backward can run once.
    """
    return _LinearNll.apply(hidden, weight, targets, torch.is_grad_enabled())


class _LinearNll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, learn: bool) -> Any:
        head, n_vocab = weight.to(hidden.dtype), len(weight)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if learn else None
        grad_weight = torch.zeros_like(weight) if learn else None
        cpu = hidden.device.type == "cpu"
        rows = min(len(hidden), max(MIN_ROWS, LOGITS.get(hidden.device.type, LOGITS["cpu"]) // n_vocab))
        few, some = (max(1, CACHED // n_vocab), SLICE) if cpu else (rows, n_vocab)
        # one for all chunks: fresh memory costs page faults; rows of a GPU begin at 128 bytes, or its products are slow
        buffer = hidden.new_empty(rows, n_vocab if cpu else -(-n_vocab // 64) * 64)[:, :n_vocab]
        for x, y, start in zip(hidden.split(rows), targets.split(rows), range(0, len(hidden), rows), strict=True):
            logits = torch.mm(x, head.T, out=buffer[: len(x)])
            for piece, target in zip(logits.split(few), y.split(few), strict=True):
                total += _nll_sum(piece, target, learn)
            if grad_hidden is None or grad_weight is None:
                continue
            error = logits  # by now
            torch.mm(error, head, out=grad_hidden[start : start + rows])
            for columns, sums in zip(error.split(some, 1), grad_weight.split(some), strict=True):
                if error.dtype == grad_weight.dtype:
                    sums.addmm_(columns.T, x)
                else:
                    sums += columns.T @ x
        ctx.gradients = grad_hidden, grad_weight
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad,) = grads
        assert ctx.gradients is not None, "the gradients of linear_nll_sum are used up by one backward pass"
        (grad_hidden, grad_weight), ctx.gradients = ctx.gradients, None
        return grad_hidden.mul_(grad), grad_weight.mul_(grad), None, None


def _nll_sum(logits: torch.Tensor, targets: torch.Tensor, learn: bool) -> torch.Tensor:
    """The summed loss of `logits` [tokens, vocabulary]; with `learn` they become the gradient of it."""
    counted, index = targets != IGNORE, targets.clamp_min(0)[:, None]
    at_target, highest = logits.gather(1, index)[:, 0].float(), logits.amax(1).float()
    p = torch.softmax(logits, 1, dtype=torch.float32)
    # log sum exp = highest - log p(highest): p(highest) >= 1 / vocabulary, so nothing underflows
    total = ((highest - p.amax(1).log() - at_target) * counted).sum()
    if learn:
        logits.copy_(p.scatter_add_(1, index, p.new_full((len(p), 1), -1.0)).mul_(counted[:, None]))
    return total
