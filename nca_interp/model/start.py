"""What a network is like before its first step on some rows: scale of the residual stream, loss, gradients by module."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from nca_interp.model.loss import IGNORE
from nca_interp.model.roles import kinds_of, layers_of, unembedding_of

AT_ONCE = 2048
"""Tokens of a forward pass."""


def measure_start(model: Any, inputs: torch.Tensor, targets: torch.Tensor) -> list[dict[str, Any]]:
    """Rows {layer, quantity, value, unit, n} of a causal language model on `inputs` and `targets` [row, position], in the precision of its weights.

    resid_rms: root mean square of the residual stream after each block (layer 0: the embedding), over positions and
    dimensions. token_share: how much of the stream's variance about its mean over positions the token's own embedding
    accounts for, (cov(x, e)^2 / (var x var e)), 0 to 1, summed over dimensions: 1 at layer 0, and var e / var x where the
    blocks write what is uncorrelated with it. loss: nats a target. grad_norm_*: Euclidean norm of that loss's gradient over
    embed, unembed (a tied one counts as embed), attn, mlp and norm. n: positions, or targets. A value that is not finite is None.
    The model is left as it was.
    """
    moments = [_Moments() for _ in range(len(layers_of(model)) + 1)]
    total, loss = int((targets != IGNORE).sum()), 0.0
    rows = max(1, AT_ONCE // inputs.shape[1])
    device = model.get_input_embeddings().weight.device
    try:
        for x, y in zip(inputs.split(rows), targets.split(rows), strict=True):
            with _residuals(model) as stream:
                logits = model(input_ids=x.to(device), use_cache=False).logits
            for found, layer in zip(moments, stream, strict=True):
                found.add(layer, stream[0])
            nll = F.cross_entropy(
                logits.flatten(0, 1).float(), y.to(device).flatten(), ignore_index=IGNORE, reduction="sum"
            )
            (nll / total).backward()
            loss += float(nll.detach()) / total
        norms = _gradient_norms(model)
    finally:
        model.zero_grad(set_to_none=True)
    return [
        *(_row(layer, "resid_rms", m.rms, "residual stream", m.n) for layer, m in enumerate(moments)),
        *(_row(layer, "token_share", m.share, "share of variance", m.n) for layer, m in enumerate(moments)),
        _row(None, "loss", loss, "nats a token", total),
        *(_row(None, f"grad_norm_{part}", norm, "nats a token / weight", total) for part, norm in norms.items()),
    ]


def _row(layer: int | None, quantity: str, value: float, unit: str, n: int) -> dict[str, Any]:
    return {
        "layer": layer,
        "quantity": quantity,
        "value": value if math.isfinite(value) else None,
        "unit": unit,
        "n": n,
    }


@contextmanager
def _residuals(model: Any) -> Iterator[list[torch.Tensor]]:
    """The residual stream [row, position, d_model] after embedding and blocks of the forward pass inside, detached."""
    found: list[torch.Tensor] = []

    def keep(module: Any, arguments: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output).detach())

    handles = [part.register_forward_hook(keep) for part in (model.get_input_embeddings(), *layers_of(model))]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


class _Moments:
    """Sums over positions of a stream x and the embedding e below it, in fp64."""

    def __init__(self) -> None:
        self.n, self.width = 0, 0
        self.xx = self.xe = self.ee = 0.0
        self.x: Any = 0.0
        self.e: Any = 0.0

    def add(self, x: torch.Tensor, e: torch.Tensor) -> None:
        x, e = (t.flatten(0, 1).double().cpu() for t in (x, e))
        self.n, self.width = self.n + len(x), x.shape[1]
        self.xx += float((x * x).sum())
        self.xe += float((x * e).sum())
        self.ee += float((e * e).sum())
        self.x, self.e = self.x + x.sum(0), self.e + e.sum(0)

    @property
    def rms(self) -> float:
        return float((self.xx / self.n / self.width) ** 0.5)

    @property
    def share(self) -> float:
        """0 where either does not vary."""
        x, e = self.x / self.n, self.e / self.n
        var_x, var_e = self.xx / self.n - float(x @ x), self.ee / self.n - float(e @ e)
        cov = self.xe / self.n - float(x @ e)
        return min(1.0, cov**2 / (var_x * var_e)) if var_x > 0 and var_e > 0 else 0.0


def _gradient_norms(model: Any) -> dict[str, float]:
    found: dict[str, list[torch.Tensor]] = defaultdict(list)
    kinds, unembedding = kinds_of(model), unembedding_of(model)
    for name, parameter in model.named_parameters():
        found["unembed" if name == unembedding else kinds[name]].append(parameter.grad)
    parts = [part for part in ("embed", "attn", "mlp", "norm", "unembed") if part in found]
    return {part: float(torch.nn.utils.get_total_norm(found[part])) for part in parts}
