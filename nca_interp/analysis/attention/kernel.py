"""The attention of a layer, computed once: its output, and what every single probability can be recovered from.

    A[q, k] = exp(score(q, k) - lse[q]),   score(q, k) = cap(scale * query[q] . key[k])        (arithmetic in fp32)

`register()` enters an attention function with transformers' public `AttentionInterface`: the model runs as fast as with
sdpa and hands a `Layer` to the sink of `handing_to` (layers need not pass anything on). Where no fast operation returns
the log-sum-exp (another device, a sliding window, capped scores, padding), blocks of public operations do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from nca_interp.base import UserError

FAST = "nca_interp_scores"
"""Name under which the attention function is registered: `load_model(directory, attn=FAST)`."""
BLOCK_ELEMENTS = 2**19
"""Attention entries held at a time; bounds memory whatever the number of heads and the context length."""
GPU_BLOCKS = 32
"""A CPU keeps a block in its cache; other devices take so many times as much at once, for few large operations."""
QUERIES = 64
"""Queries of a block."""
UNDERSTOOD = frozenset({"softcap", "is_causal", "sliding_window", "indices"})
"""Options of an attention call that `_attention_function` follows."""
INERT = frozenset(
    {
        "position_ids",
        "cache_position",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
    }
)
"""Options that change nothing of what attention computes over a whole sequence."""


def rows_at_once(entries: int, device: torch.device) -> int:
    """Sequences of a block, when one of them has so many entries."""
    return max(1, BLOCK_ELEMENTS * (1 if device.type == "cpu" else GPU_BLOCKS) // entries)


@dataclass(frozen=True)
class Rule:
    """How scores come from dot products, and which keys k <= q a query may attend to."""

    scale: float
    softcap: float | None = None
    """Scores are softcap * tanh(scale * dot / softcap)."""
    allowed: torch.Tensor | None = None
    """Bool [batch or 1, query, key]: sliding window or padding; None: every key up to the query."""

    @property
    def plain(self) -> bool:
        """Causal softmax attention and nothing else."""
        return self.softcap is None and self.allowed is None

    def scores(self, dots: torch.Tensor) -> torch.Tensor:
        """Scores of dot products, in place."""
        dots = dots.mul_(self.scale)
        return dots if self.softcap is None else dots.div_(self.softcap).tanh_().mul_(self.softcap)

    def forbidden(self, rows: slice, start: int, stop: int, low: int, device: torch.device) -> torch.Tensor:
        """Bool [rows or 1, stop - start, stop - low]: keys low to stop that queries start to stop may not attend to."""
        later = (torch.arange(low, stop, device=device) > torch.arange(start, stop, device=device)[:, None])[None]
        if self.allowed is None:
            return later
        return later | ~self.allowed[rows if len(self.allowed) > 1 else slice(None), start:stop, low:stop].to(device)

    def barrier(self, rows: slice, start: int, stop: int, low: int, device: torch.device) -> torch.Tensor:
        """`forbidden` to be added to scores, fp32: -inf where a query may not attend, else 0 (faster than selecting)."""
        forbidden = self.forbidden(rows, start, stop, low, device)
        return torch.zeros(forbidden.shape, device=device).masked_fill_(forbidden, -math.inf)

    def entry(self, sequence: int) -> Rule:
        """The rule of one sequence."""
        if self.allowed is None or len(self.allowed) == 1:
            return self
        return Rule(self.scale, self.softcap, self.allowed[sequence : sequence + 1])


class Layer(NamedTuple):
    """What the attention function hands out for each layer of a forward pass."""

    number: int
    query: torch.Tensor
    """[batch, head, position, d_head], in the model's precision."""
    key: torch.Tensor
    """The same, repeated over the heads that share it (grouped-query attention)."""
    lse: torch.Tensor
    """[batch, head, position], fp32: log-sum-exp of the scores; -inf where a query may attend to nothing."""
    out: torch.Tensor
    """[batch, head, position, d_head]: output of each head before the output projection (hook_z)."""
    rule: Rule
    module: torch.nn.Module
    """The attention module."""


Sink = Callable[[Layer], None]
_SINK: ContextVar[Sink | None] = ContextVar("sink", default=None)


@contextmanager
def handing_to(sink: Sink) -> Iterator[None]:
    """Every layer that attends inside is handed to `sink`."""
    before = _SINK.set(sink)
    try:
        yield
    finally:
        _SINK.reset(before)


def register() -> str:
    """Make `FAST` known to transformers (again is harmless) and return it."""
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    AttentionInterface.register(FAST, _attention_function)
    AttentionMaskInterface.register(FAST, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    return FAST


def _attention_function(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    score_sink: Sink | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """The signature that transformers asks for; query [batch, head, position, d_head], key and value [batch, n_kv, ...].

    `score_sink` is for callers of models that pass it on; others use `handing_to`.
    """
    options = {name: given for name, given in options.items() if given is not None and name not in INERT}
    _refuse(module, query, key, attention_mask, dropout, options)
    allowed = None if attention_mask is None else attention_mask[:, 0]
    if allowed is not None and allowed.stride(0) == 0:
        allowed = allowed[:1]  # the same for all sequences
    if "indices" in options:
        allowed = _chosen(options["indices"], key.shape[-2], allowed)
    rule = Rule(query.shape[-1] ** -0.5 if scaling is None else float(scaling), options.get("softcap"), allowed)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out, lse = attend(query, key, value, rule)
    if (sink := score_sink or _SINK.get()) is not None:
        number = getattr(module, "layer_idx", None)
        sink(Layer(-1 if number is None else int(number), query, key, lse, out, rule, module))
    return out.transpose(1, 2).contiguous(), None


def _chosen(indices: torch.Tensor, length: int, allowed: torch.Tensor | None) -> torch.Tensor | None:
    """`Rule.allowed` of sparse attention, whose queries see the keys `indices` [batch, query, n] up to themselves."""
    if indices.shape[-1] >= length:
        return allowed
    chosen = torch.zeros(*indices.shape[:2], length, dtype=torch.bool, device=indices.device)
    chosen = chosen.scatter_(-1, indices.long(), True).tril()
    return chosen if allowed is None else chosen & allowed


def _refuse(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    options: dict[str, Any],
) -> None:
    """UserError for attention that is not causal softmax attention of a whole sequence over itself."""
    name, length = type(module).__name__, key.shape[-2]
    for option in sorted(options.keys() - UNDERSTOOD):
        raise UserError(
            f"{name}: attention with {option} is not softmax attention over keys as known here, not supported"
        )
    indices = options.get("indices")
    if indices is not None and (indices.ndim != 3 or indices.shape[:2] != (query.shape[0], length)):
        raise UserError(f"{name}: indices of shape {list(indices.shape)}; supported: keys of each sequence and query")
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if query.shape[-2] != length or not (causal or mask is not None):
        raise UserError(f"{name}: only causal self-attention over a whole sequence is supported, without a cache")
    if mask is None:
        window = options.get("sliding_window")
        if window is not None and window < length:
            raise UserError(f"{name}: a sliding window of {window} for {length} tokens came without its mask")
    elif mask.dtype != torch.bool or mask.shape[1] != 1 or bool(mask.triu(1).any()):
        raise UserError(f"{name}: only boolean causal masks, the same for all heads, are supported")
    if dropout:
        raise UserError(f"{name}: attention dropout {dropout}; put the model in evaluation mode")


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: Rule
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention output [batch, head, position, d_value] and log-sum-exp of the scores [batch, head, position] (fp32)."""
    fast = _fast(query, key, value, rule.scale) if rule.plain else None
    if fast is None and query.requires_grad:
        return _with_gradient(query, key, value, rule)
    return blocked(query, key, value, rule) if fast is None else fast


def _with_gradient(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: Rule
) -> tuple[torch.Tensor, torch.Tensor]:
    """`attend` for every rule, where a backward pass follows: nothing in place, all scores at once."""
    scores = (query.float() @ key.float().mT) * rule.scale
    if rule.softcap is not None:
        scores = rule.softcap * (scores / rule.softcap).tanh()
    scores = scores + rule.barrier(slice(None), 0, query.shape[-2], 0, query.device)[:, None]
    lse = scores.logsumexp(-1)
    mass = (scores - lse.clamp(min=-1e30)[..., None]).exp()
    return (mass @ value.float()).to(value.dtype), lse


def _fast(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """`attend` by the operations behind scaled_dot_product_attention; they are private, so they may be absent."""
    aten, device, width = torch.ops.aten, query.device.type, query.shape[-1]
    if width != value.shape[-1]:
        return None
    if device == "cpu" and hasattr(aten, "_scaled_dot_product_flash_attention_for_cpu"):
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True, scale=scale)
        return out, lse.float()
    if device in ("cuda", "meta") and width % 8 == 0 and hasattr(aten, "_scaled_dot_product_efficient_attention"):
        out, lse, _, _ = aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, True, scale=scale
        )
        return out, lse[..., : query.shape[-2]].float()  # its rows are padded to a multiple of 32
    return None


def blocked(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: Rule, block: int = 2 * QUERIES
) -> tuple[torch.Tensor, torch.Tensor]:
    """`attend` from public operations only, for every rule; holds `block` queries of a few sequences at a time."""
    batch, heads, length, _ = query.shape
    out = query.new_empty(batch, heads, length, value.shape[-1])
    lse = torch.empty(batch, heads, length, dtype=torch.float32, device=query.device)
    for start in range(0, length, block):
        stop = min(length, start + block)
        step = rows_at_once(heads * (stop - start) * stop, query.device)
        for row in range(0, batch, step):
            rows = slice(row, min(batch, row + step))
            scores = rule.scores(query[rows, :, start:stop].float() @ key[rows, :, :stop].float().mT)
            scores += rule.barrier(rows, start, stop, 0, query.device)[:, None]
            part = scores.logsumexp(-1)
            lse[rows, :, start:stop] = part
            mass = scores.sub_(part.clamp(min=-1e30)[..., None]).exp_()
            out[rows, :, start:stop] = (mass @ value[rows, :, :stop].float()).to(out.dtype)
    return out, lse
