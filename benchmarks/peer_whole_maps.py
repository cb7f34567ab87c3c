"""The peers of analysis.py: the scores of all probes, written plainly on the whole attention maps that TransformerLens gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from nca_interp.analysis.stimuli.base import Batch
from nca_interp.analysis.stimuli.geometry import controls, next_patch, stencil

THREE = ("previous_token", "duplicate_token", "induction")
"""Probes that detect_head knows too."""
CACHE_BYTES = 2**30
"""run_with_cache gets as many sequences at a time as keep its patterns below this."""


class Work(NamedTuple):
    """One stimulus."""

    batch: Batch
    loss: bool
    """A probe reads its loss."""


class Maps:
    """The probes once more, each written plainly on whole maps; what depends on the tokens alone is made once."""

    def __init__(self, bridge: Any, work: list[Work], rows: int | None = None) -> None:
        """`rows`: sequences at a time; None: as many as keep the patterns of all layers below CACHE_BYTES."""
        self.bridge, self.device = bridge, next(bridge.parameters()).device
        self.parts: list[tuple[Work, list[torch.Tensor]]] = []
        for batch, loss in work:
            fit = (
                max(1, CACHE_BYTES // (4 * bridge.cfg.n_layers * bridge.cfg.n_heads * batch.length**2))
                if rows is None
                else rows
            )
            for start in range(0, len(batch.inputs), fit):
                part = batch.rows(start, start + fit)
                self.parts.append((Work(part, loss), [mask.to(self.device) for mask in masks_of(part)]))

    def cached(self, reduce: bool = True) -> None:
        """run_with_cache, then all scores (or none)."""
        for (batch, loss), masks in self.parts:
            copies = batch.period is not None and batch.repeats == 2
            wanted = ("attn.hook_pattern", "attn.hook_z") if copies else ("attn.hook_pattern",)
            with torch.inference_mode():
                logits, cache = self.bridge.run_with_cache(
                    self.tokens(batch), names_filter=lambda name, wanted=wanted: name.endswith(wanted),
                    use_cache=False, **({} if loss else {"logits_to_keep": 1}),
                )  # fmt: skip
                if reduce:
                    self.losses(batch, logits, loss)
                    for layer in range(self.bridge.cfg.n_layers):
                        a = cache[f"blocks.{layer}.attn.hook_pattern"]
                        reduce_plainly(a, batch, masks)
                        if copies:
                            copy_plainly(self.bridge, layer, a, cache[f"blocks.{layer}.attn.hook_z"], batch)

    def hooked(self) -> None:
        """All scores inside hooks, nothing cached."""
        for (batch, loss), masks in self.parts:
            copies, held = batch.period is not None and batch.repeats == 2, {}

            def on_pattern(
                a: torch.Tensor, hook: Any, batch: Any = batch, masks: Any = masks, held: Any = held
            ) -> None:
                reduce_plainly(a, batch, masks)
                held["a"] = a

            def on_z(z: torch.Tensor, hook: Any, batch: Any = batch, held: Any = held) -> None:
                copy_plainly(self.bridge, hook.layer(), held["a"], z, batch)

            layers = range(self.bridge.cfg.n_layers)
            hooks: list[tuple[str, Any]] = [(f"blocks.{i}.attn.hook_pattern", on_pattern) for i in layers]
            hooks += [(f"blocks.{i}.attn.hook_z", on_z) for i in layers] if copies else []
            with torch.inference_mode():
                logits = self.bridge.run_with_hooks(
                    self.tokens(batch), fwd_hooks=hooks, use_cache=False, **({} if loss else {"logits_to_keep": 1})
                )
                self.losses(batch, logits, loss)

    def tokens(self, batch: Batch) -> torch.Tensor:
        """[batch, position]."""
        return torch.from_numpy(batch.inputs).to(self.device)

    def losses(self, batch: Batch, logits: torch.Tensor, loss: bool) -> None:
        """The loss of every target, where a probe reads it."""
        if loss:
            targets = torch.from_numpy(batch.targets).to(self.device)
            F.cross_entropy(logits[:, : targets.shape[1]].mT, targets, reduction="none")


def copy_plainly(bridge: Any, layer: int, a: torch.Tensor, z: torch.Tensor, batch: Batch) -> None:
    """Copying and anti-induction [batch, head] of one layer."""
    x, n = torch.from_numpy(batch.inputs).to(a.device), batch.period
    assert n is not None
    written = bridge.ln_final(torch.einsum("bqhd,hdm->bhqm", z[:, -n:], bridge.W_O[layer]))
    logits = torch.einsum("bhqm,bnm->bhqn", written, bridge.W_U.T[x[:, :n]])
    attended = x[:, None].expand(-1, a.shape[1], -1).gather(2, a[:, :, -n:].argmax(-1))
    for token in (attended, x[:, None, 1 : n + 1]):
        own = logits.masked_fill(x[:, None, None, :n] != token[..., None], -torch.inf).amax(-1, keepdim=True)
        (((logits < own).sum(-1) - (logits > own).sum(-1)) / (n - 1)).mean(-1)


def masks_of(batch: Batch) -> list[torch.Tensor]:
    """Key sets [batch or 1, 1, query, key], 0 or 1, of the probes that read this kind of stimulus."""
    place = torch.arange(batch.length)
    back = place[:, None] - place
    found: list[torch.Tensor] = []
    if batch.frame is not None and batch.places is not None:
        grid = (place - batch.frame.start) // batch.frame.tokens
        ids = (next_patch(k, batch.frame) for k in (np.where(batch.places >= 0, batch.inputs, -1), batch.places))
        found = [torch.from_numpy((q[:, :, None] == k[:, None]) & (k[:, None] >= 0)) for q, k in ids]
        sets = (stencil(batch.frame, batch.length), *controls(batch.frame, batch.length))
        found += [torch.from_numpy(keys.copy())[None] for keys in sets]
        found += [(grid[:, None] - grid == n)[None] for n in (0, 1)]
    elif batch.opener is not None:
        opener = torch.from_numpy(batch.opener)
        found = [opener[..., None] == place, F.pad(opener[:, 1:], (0, 1), value=-1)[..., None] == place]
    elif batch.period is None and batch.length > 16:
        found = [((back >= 0) & (back <= w))[None] for w in (1, 4, 16)]
    return [mask[:, None].float() for mask in found]


def reduce_plainly(a: torch.Tensor, batch: Batch, masks: list[torch.Tensor]) -> None:
    """Scores [batch, head] of whole maps a [batch, head, query, key]."""
    place = torch.arange(batch.length, device=a.device)
    for mask in masks:
        (a * mask).sum(-1).mean(-1)
    if batch.period is not None:
        offsets = (0, 1, batch.period - 1, batch.period) if batch.repeats == 2 else (24, 24, 49, 24, 49, 74)
        profile = batch.length // 2 if batch.repeats == 2 else 0
        for d in (*offsets, *range(profile)):
            a.diagonal(-d, -2, -1).mean(-1)
        a[..., 0].mean(-1)
    elif not masks:
        (a - a.mean(0)).abs().sum((-1, -2))
    elif batch.frame is None and batch.opener is None:
        (a * (a + 1e-30).log()).sum(-1).mean(-1)
        (place - a @ place.float()).mean(-1)


def detect(bridge: Any, batch: Batch) -> None:
    """detect_head of its three kinds; it takes text only, so its model's to_tokens is the identity."""
    from transformer_lens.head_detector import detect_head

    shim = SimpleNamespace(cfg=bridge.cfg, to_tokens=lambda tokens: tokens, run_with_cache=bridge.run_with_cache)
    for sequence in torch.from_numpy(batch.inputs).to(next(bridge.parameters()).device):
        for kind in THREE:
            with torch.inference_mode():
                detect_head(shim, sequence[None], f"{kind}_head")  # type: ignore[arg-type]
