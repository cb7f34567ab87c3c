"""Attention probabilities of one layer, read entry by entry from queries, keys and log-sum-exp; never a whole cached map.

    A[q, k] = exp(scale * query[q] . key[k] - lse[q])        (arithmetic in fp32)

`register()` enters an attention function with transformers' public `AttentionInterface`: the model runs as fast as with
sdpa and hands (query, key, lse) of every layer to the `score_sink` that the forward call was given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from nca_interp.analysis.stimuli import Batch
from nca_interp.base import UserError

FAST = "nca_interp_scores"
"""Name under which the attention function is registered: `load_model(directory, attn=FAST)`."""
BLOCK_ELEMENTS = 2**22
"""Attention entries held at a time; bounds memory whatever the number of heads and the context length."""
Mask = torch.Tensor | Callable[[int, int], torch.Tensor]
Sink = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, float], None]


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
    """The signature that transformers asks for; query [batch, head, position, d_head], key and value [batch, n_kv, ...]."""
    _refuse_unlike_causal(module, query, key, attention_mask, dropout, options)
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out, lse = attend(query, key, value, scale)
    if score_sink is not None:
        score_sink(int(getattr(module, "layer_idx", -1)), query, key, lse, scale)
    return out.transpose(1, 2).contiguous(), None


def _refuse_unlike_causal(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    options: dict[str, Any],
) -> None:
    name, length = type(module).__name__, key.shape[-2]
    window = options.get("sliding_window")
    if window is not None and window < length:
        raise UserError(
            f"{name}: sliding-window attention ({window} of {length} tokens) is not supported; use a shorter stimulus"
        )
    for option in ("softcap", "s_aux", "position_bias"):
        if options.get(option) is not None:
            raise UserError(f"{name}: attention with {option} is not plain softmax attention and is not supported")
    if mask is not None:
        raise UserError(f"{name}: attention with a mask is not supported; give unpadded batches without a cache")
    causal = options.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal) or query.shape[-2] != length:
        raise UserError(f"{name}: only causal self-attention over a whole sequence is supported")
    if dropout:
        raise UserError(f"{name}: attention dropout {dropout}; put the model in evaluation mode")


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention output [batch, head, position, d_head] and log-sum-exp of the scaled scores [batch, head, position]."""
    flash = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if flash is not None and query.device.type == "cpu" and query.shape[-1] == value.shape[-1]:
        out, lse = flash(query, key, value, 0.0, True, scale=scale)
        return out, lse.float()
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    return out, blocked_lse(query, key, scale)


def blocked_lse(query: torch.Tensor, key: torch.Tensor, scale: float, block: int = 128) -> torch.Tensor:
    """The log-sum-exp of `attend` from public operations only; holds `block` rows of scores at a time."""
    length = query.shape[-2]
    lse = query.new_empty(query.shape[:-1], dtype=torch.float32)
    for start in range(0, length, block):
        stop = min(length, start + block)
        scores = (query[..., start:stop, :].float() @ key[..., :stop, :].float().mT) * scale
        lse[..., start:stop] = scores.masked_fill_(_future(start, stop, query.device), -math.inf).logsumexp(-1)
    return lse


def _future(start: int, stop: int, device: torch.device) -> torch.Tensor:
    """Bool [stop - start, stop]: keys after the query."""
    return torch.arange(stop, device=device)[None] > torch.arange(start, stop, device=device)[:, None]


@dataclass(frozen=True)
class Scores:
    """A number for every query: `values` [batch, head, query], meaningful where `exists` [batch or 1, query] is true."""

    values: torch.Tensor
    exists: torch.Tensor
    stimulus: Batch

    def mean(self, queries: torch.Tensor | None = None) -> torch.Tensor:
        """Mean [batch, head] over the queries that exist, and are in `queries` (bool, [query] or [batch, query]) if given.

        NaN for a sequence that has none.
        """
        keep = self.exists if queries is None else self.exists & queries.to(self.exists.device)
        keep = keep.expand(self.values.shape[0], -1)[:, None]
        return torch.where(keep, self.values, 0.0).sum(-1) / keep.sum(-1)

    def repeat_mean(self, repeat: int | None = None) -> torch.Tensor:
        """Mean over queries in the second and later repeats of a repeated stimulus, or in one of them (2, 3, ...)."""
        return self.mean(torch.from_numpy(self.stimulus.in_repeat(repeat)))

    def __add__(self, other: Scores) -> Scores:
        """Sum, for queries where both exist."""
        return Scores(self.values + other.values, self.exists & other.exists, self.stimulus)

    def __sub__(self, other: Scores) -> Scores:
        """Difference, for queries where both exist."""
        return Scores(self.values - other.values, self.exists & other.exists, self.stimulus)

    def __mul__(self, factor: float) -> Scores:
        """Every score times `factor`."""
        return Scores(self.values * factor, self.exists, self.stimulus)


class Attention:
    """Attention of all heads of one layer on one stimulus, reduced without being stored.

    query, key: [batch, head, position, d_head] (key repeated for grouped-query attention); lse: [batch, head, position].
    """

    def __init__(
        self, query: torch.Tensor, key: torch.Tensor, lse: torch.Tensor, scale: float, stimulus: Batch, layer: int = 0
    ) -> None:
        self.query = query.detach().float()
        self.key = key.detach().float()
        self.lse = lse.detach().float()
        self.scale = scale
        self.stimulus = stimulus
        self.layer = layer
        self._kept: torch.Tensor | None = None
        batch, heads, length, _ = self.query.shape
        rows = max(1, BLOCK_ELEMENTS // (batch * heads * length))
        self._rows = min(rows, length)

    @classmethod
    def uniform(cls, stimulus: Batch) -> Attention:
        """One head that attends to all keys up to the query alike, A[q, k] = 1 / (q + 1): the chance level of any probe."""
        batch, length = stimulus.inputs.shape
        zeros = torch.zeros(batch, 1, length, 1)
        lse = torch.log(torch.arange(1, length + 1, dtype=torch.float64)).float().expand(batch, 1, length)
        return cls(zeros, zeros, lse, 1.0, stimulus)

    @property
    def n_batch(self) -> int:
        """Sequences."""
        return self.query.shape[0]

    @property
    def n_heads(self) -> int:
        """Heads of the layer."""
        return self.query.shape[1]

    @property
    def length(self) -> int:
        """Positions of a sequence."""
        return self.query.shape[2]

    @property
    def positions(self) -> torch.Tensor:
        """0, 1, ... length - 1."""
        return torch.arange(self.length, device=self.query.device)

    def blocks(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """(start, stop, A[batch, head, start:stop, :stop]) from the first query to the last; zero above the diagonal."""
        if self._kept is not None:
            yield 0, self.length, self._kept
            return
        for start in range(0, self.length, self._rows):
            stop = min(self.length, start + self._rows)
            scores = (self.query[:, :, start:stop] @ self.key[:, :, :stop].mT) * self.scale
            scores = scores.sub_(self.lse[:, :, start:stop, None]).exp_()
            block = scores.masked_fill_(_future(start, stop, scores.device), 0.0)
            if self._rows == self.length:
                self._kept = block  # the only block: within the bound on memory, and most probes want it again
            yield start, stop, block

    def offset(self, back: int) -> Scores:
        """Mass on the key exactly `back` places before the query; exists for queries q >= back."""
        if back < 0:
            raise ValueError(f"back: {back}; legal: 0 or more (keys after the query are not attended)")
        values = self.lse.new_zeros(self.lse.shape)
        if back < self.length:
            dots = (self.query[:, :, back:] * self.key[:, :, : self.length - back]).sum(-1)
            values[:, :, back:] = torch.exp(dots * self.scale - self.lse[:, :, back:])
        return Scores(values, (self.positions >= back)[None], self.stimulus)

    def to(self, keys: Mask) -> Scores:
        """Mass on a set of keys; exists for queries whose set holds a key that is not after the query.

        `keys`: bool [query, key] or [batch, query, key]; or a function (start, stop) -> bool [batch or 1, stop - start,
        stop] for queries start to stop, so that the mask of a long sequence is never whole in memory.
        """
        parts, exists = [], []
        for start, stop, block in self.blocks():
            chosen = self._block_mask(keys, start, stop).to(block.device)
            parts.append(torch.einsum("bhqk,bqk->bhq", block, chosen.float().expand(self.n_batch, -1, -1)))
            exists.append((chosen & ~_future(start, stop, chosen.device)).any(-1))
        return Scores(torch.cat(parts, -1), torch.cat(exists, -1), self.stimulus)

    def _block_mask(self, keys: Mask, start: int, stop: int) -> torch.Tensor:
        mask = keys[..., start:stop, :stop] if isinstance(keys, torch.Tensor) else keys(start, stop)
        mask = mask[None] if mask.ndim == 2 else mask
        if mask.dtype != torch.bool or mask.shape[1:] != (stop - start, stop) or mask.shape[0] not in (1, self.n_batch):
            raise ValueError(
                f"keys: {mask.dtype} of shape {list(mask.shape)} for queries {start} to {stop}; "
                f"legal: bool [1 or {self.n_batch}, {stop - start}, {stop}]"
            )
        return mask

    def same_token(self, shift: int = 0) -> Scores:
        """Mass on earlier keys k < q with x[k - shift] = x[q]: 0 the token itself before, 1 the token after it."""
        x = torch.from_numpy(self.stimulus.inputs).to(self.query.device)
        moved = F.pad(x, (shift, 0), value=-1)[:, : self.length]

        def keys(start: int, stop: int) -> torch.Tensor:
            before = torch.arange(stop, device=x.device)[None] < torch.arange(start, stop, device=x.device)[:, None]
            return (x[:, start:stop, None] == moved[:, None, :stop]) & before

        return self.to(keys)

    def first(self) -> Scores:
        """Mass on the first token of the sequence."""
        dots = (self.query * self.key[:, :, :1]).sum(-1)
        return Scores(torch.exp(dots * self.scale - self.lse), (self.positions >= 0)[None], self.stimulus)

    def self_(self) -> Scores:
        """Mass on the query's own token."""
        return self.offset(0)

    def entropy(self, normalised: bool = False) -> Scores:
        """Entropy -sum_k A ln A in nats; normalised: divided by ln(q + 1), its maximum, for q >= 1."""
        parts = []
        for start, stop, block in self.blocks():
            # -sum_k A ln A = lse - scale * query . (sum_k A key): no second pass over the scores
            mean_key = block @ self.key[:, :, :stop]
            parts.append(self.lse[:, :, start:stop] - (mean_key * self.query[:, :, start:stop]).sum(-1) * self.scale)
        values = torch.cat(parts, -1).clamp(min=0.0)
        if not normalised:
            return Scores(values, (self.positions >= 0)[None], self.stimulus)
        return Scores(
            values / torch.log(self.positions + 1.0).clamp(min=1e-9), (self.positions >= 1)[None], self.stimulus
        )

    def distance(self, normalised: bool = False) -> Scores:
        """Mean distance sum_k A (q - k) in tokens; normalised: divided by q / 2, that of uniform attention, for q >= 1."""
        parts = []
        for start, stop, block in self.blocks():
            parts.append(self.positions[start:stop] - block @ self.positions[:stop].float())
        values = torch.cat(parts, -1).clamp(min=0.0)
        if not normalised:
            return Scores(values, (self.positions >= 0)[None], self.stimulus)
        return Scores(values / (self.positions / 2).clamp(min=0.5), (self.positions >= 1)[None], self.stimulus)

    def pattern(self, head: int, sequence: int = 0) -> torch.Tensor:
        """A[query, key] of one head on one sequence, for viewers."""
        chosen = slice(sequence, sequence + 1), slice(head, head + 1)
        one = Attention(self.query[chosen], self.key[chosen], self.lse[chosen], self.scale, self.stimulus, self.layer)
        whole = torch.zeros(self.length, self.length)
        for start, stop, block in one.blocks():
            whole[start:stop, :stop] = block[0, 0].cpu()
        return whole
