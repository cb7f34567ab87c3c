"""How much can a small model learn from a source? Prequential loss: every batch is predicted before it is trained on.

K = integral of (L(t) - L_final) dt, the bits that a student's loss curve spends above its final loss, is the structure
it took from the stream (epiplexity, Finzi et al. 2026, arXiv 2601.03220; prequential coding, Dawid 1984). Part of K is
the cost of learning how often each token occurs; the same tokens in random order cost just that, and it is taken off.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nca_interp.base import UserError, stream_seed
from nca_interp.data.sample import Sample


class Budget(NamedTuple):
    """What the student is and sees; numbers of different budgets are not comparable."""

    steps: int = 200
    batch: int = 4
    """Windows a step."""
    n_ctx: int = 128
    """Targets of a window."""
    n_layers: int = 2
    d_model: int = 64
    n_heads: int = 4
    d_mlp: int = 192
    lr: float = 3e-3
    """Peak of AdamW after a linear rise over a tenth of the steps, constant from there."""

    @property
    def tokens(self) -> int:
        """Tokens of the stream, none of them seen twice."""
        return self.steps * self.batch * (self.n_ctx + 1)


class Learnability(NamedTuple):
    """Curves [steps] are nats a token on batches not yet trained on."""

    bits: float
    """Bits per token of the curve's area above its end, minus those of the shuffled stream; 0: nothing but the unigram."""
    final_loss: float
    """Nats a token over the last tenth of the steps: what stays unpredictable at this budget."""
    gain: float
    """Nats a token by which the shuffled stream ends above the source."""
    curve: npt.NDArray[np.float64]
    shuffled_curve: npt.NDArray[np.float64]


def learnability(sample: Sample, budget: Budget | None = None, seed: int = 0) -> Learnability:
    """Train a student on the sample's rows and another on the same tokens in random order.

    Rows are cut into windows without overlap, drawn in an order fixed by `seed`. Deterministic for a seed on one kind of
    machine. UserError if the sample is shorter than the budget.
    """
    budget = budget or Budget()
    if lack := shortage(sample, budget):
        raise UserError(f"learnability: {lack}")
    windows = _windows(sample.tokens, budget, seed)
    everything = np.random.default_rng([seed, 1]).permutation(windows.ravel()).reshape(windows.shape)
    curves = [_curve(w, sample.vocab_size, budget, seed) for w in (windows, everything)]
    ends = [float(c[-max(1, budget.steps // 10) :].mean()) for c in curves]
    areas = [float((c - end).mean()) / math.log(2) for c, end in zip(curves, ends, strict=True)]
    return Learnability(areas[0] - areas[1], ends[0], ends[1] - ends[0], *curves)


def shortage(sample: Sample, budget: Budget) -> str:
    """What the sample lacks, or nothing."""
    width, needed = budget.n_ctx + 1, budget.steps * budget.batch
    n, length = sample.tokens.shape
    if (have := length // width * n) >= needed:
        return ""
    return (
        f"needs at least {needed:,} windows of {width} tokens from within rows, has {have:,} "
        f"({n:,} rows of {length:,} tokens)"
    )


def _windows(tokens: npt.NDArray[np.uint32], budget: Budget, seed: int) -> npt.NDArray[np.int64]:
    """[steps, batch, n_ctx + 1], each from within one row."""
    width = budget.n_ctx + 1
    each = tokens.shape[1] // width
    needed = budget.steps * budget.batch
    cut = tokens[:, : each * width].reshape(-1, width).astype(np.int64)
    order = np.random.default_rng([seed, 0]).permutation(len(cut))[:needed]
    return cut[order].reshape(budget.steps, budget.batch, width)


def _curve(windows: npt.NDArray[np.int64], vocab_size: int, budget: Budget, seed: int) -> npt.NDArray[np.float64]:
    """Loss [steps] of each batch before the update on it."""
    import torch

    from nca_interp.config import ModelConfig
    from nca_interp.model.llama import build

    shape = ModelConfig(
        n_layers=budget.n_layers, d_model=budget.d_model, n_heads=budget.n_heads, d_mlp=budget.d_mlp, n_ctx=budget.n_ctx
    )
    model = build(shape, vocab_size, stream_seed(seed, "learnability"), "ppt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=budget.lr, betas=(0.9, 0.98), weight_decay=0.0)
    rise = max(1, budget.steps // 10)
    losses = np.empty(budget.steps)
    for step, batch in enumerate(torch.from_numpy(windows)):
        logits = model(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        losses[step] = loss.item()
        for group in optimizer.param_groups:
            group["lr"] = budget.lr * min(1.0, (step + 1) / rise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return losses
