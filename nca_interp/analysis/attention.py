"""Attention probabilities of one layer as a probe sees them: read entry by entry or in blocks, never a whole cached map."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nca_interp.analysis.kernel import BLOCK_ELEMENTS, QUERIES, Layer, Rule
from nca_interp.analysis.scores import Block, Mask, Piece, Scores, content, is_constant
from nca_interp.analysis.stimuli import Batch


class Attention:
    """Attention of all heads of one layer on one stimulus, reduced without being stored.

    query, key: [batch, head, position, d_head] (key repeated for grouped-query attention); lse: [batch, head, position].
    """

    def __init__(
        self, query: torch.Tensor, key: torch.Tensor, lse: torch.Tensor, rule: Rule, stimulus: Batch, layer: int = 0
    ) -> None:
        self.query = query.detach().float()
        self.key = key.detach().float()
        self.lse = lse.detach().float()
        self.rule = rule
        self.stimulus = stimulus
        self.layer = layer
        self._profiles: dict[int, torch.Tensor] = {}
        self._found: dict[tuple[Any, ...], Scores] = {}

    @classmethod
    def of(cls, layer: Layer, stimulus: Batch) -> Attention:
        """The view of what the attention function handed out."""
        return cls(layer.query, layer.key, layer.lse, layer.rule, stimulus, layer.number)

    @classmethod
    def uniform(cls, stimulus: Batch) -> Attention:
        """One head that attends to all keys up to the query alike, A[q, k] = 1 / (q + 1): the chance level of any probe."""
        batch, length = stimulus.inputs.shape
        zeros = torch.zeros(batch, 1, length, 1)
        lse = torch.log(torch.arange(1, length + 1, dtype=torch.float64)).float().expand(batch, 1, length)
        return Attention(zeros, zeros, lse, Rule(1.0), stimulus)

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

    def offset(self, back: int) -> Scores:
        """Mass on the key exactly `back` places before the query; exists for queries q >= back."""
        if back < 0:
            raise ValueError(f"back: {back}; legal: 0 or more (keys after the query are not attended)")
        values = self.lse.new_zeros(self.lse.shape)
        if back < self.length:
            mass = self._paired(self._query[:, :, back:], self._key[:, :, : self.length - back], self.lse[:, :, back:])
            values[:, :, back:] = self._where_allowed(mass, self.positions[back:], self.positions[: self.length - back])
        return Scores(values, (self.positions >= back)[None], self.stimulus)

    def first(self) -> Scores:
        """Mass on the first token of the sequence."""
        mass = self._paired(self._query, self._key[:, :, :1], self.lse)
        mass = self._where_allowed(mass, self.positions, torch.zeros_like(self.positions))
        return Scores(mass, (self.positions >= 0)[None], self.stimulus)

    def self_(self) -> Scores:
        """Mass on the query's own token."""
        return self.offset(0)

    def to(self, keys: Mask) -> Scores:
        """Mass on a set of keys; exists for queries whose set holds a key that is not after the query.

        `keys`: bool [query, key] or [batch, query, key]; or a function (start, stop) -> bool [batch or 1, stop - start,
        stop] for queries start to stop, so that the mask of a long sequence is never whole in memory. Costs what the
        band that holds the keys costs, or less where they are few.
        """
        return self._to(keys, ("mask", id(keys)) if is_constant(keys) else None)

    def _to(self, keys: Mask, name: tuple[Any, ...] | None) -> Scores:
        """`to` with a name for the key set: what was found under it is found again without work."""
        if name is None:
            return self._sum_pieces(self._pieces(keys, name))
        if name not in self._found:
            self._found[name] = self._sum_pieces(self._pieces(keys, name))
        return self._found[name]

    def _sum_pieces(self, pieces: list[Piece]) -> Scores:
        values = torch.zeros_like(self.lse)
        for piece in pieces:
            if piece.few is not None:
                values[:, :, piece.start : piece.stop] = self._mass_on_few(piece, piece.few)
            elif piece.others is not None:
                values[:, :, piece.start : piece.stop] = self._mass_on(piece, piece.others)
        return Scores(values, torch.cat([piece.exists for piece in pieces], -1), self.stimulus)

    def _pieces(self, keys: Mask, name: tuple[Any, ...] | None) -> list[Piece]:
        """A key set in blocks of queries, kept with the stimulus under its name (None: not kept)."""
        kept = self.stimulus.memo if name is not None else {}
        if (name, self.query.device) not in kept:
            found = []
            for start in range(0, self.length, QUERIES):
                stop = min(self.length, start + QUERIES)
                chosen = self._block_mask(keys, start, stop).to(self.query.device)
                chosen = chosen & ~Rule(1.0).forbidden(slice(None), start, stop, 0, chosen.device)
                found.append(Piece.of(chosen, start, stop))
            kept[name, self.query.device] = found, keys  # the keys too: their id must not be given to another
        return kept[name, self.query.device][0]

    def between(self, first: torch.Tensor | np.ndarray, last: torch.Tensor | np.ndarray) -> Scores:
        """Mass on the keys first[q] to last[q], both included ([query], integers)."""
        low, high = (torch.as_tensor(place, device=self.query.device) for place in (first, last))

        def keys(start: int, stop: int) -> torch.Tensor:
            key = torch.arange(stop, device=low.device)
            return ((key >= low[start:stop, None]) & (key <= high[start:stop, None]))[None]

        return self._to(keys, ("between", content(low), content(high)))

    def within(self, back: int) -> Scores:
        """Mass on the query's own token and the `back` tokens before it."""
        return self.between(self.positions - back, self.positions)

    def matching(self, query_ids: torch.Tensor | np.ndarray, key_ids: torch.Tensor | np.ndarray) -> Scores:
        """Mass on the keys k <= q with key_ids[k] = query_ids[q] ([batch, position], integers; negative: never)."""
        q, k = (torch.as_tensor(ids, device=self.query.device) for ids in (query_ids, key_ids))

        def keys(start: int, stop: int) -> torch.Tensor:
            return (q[:, start:stop, None] == k[:, None, :stop]) & (k[:, None, :stop] >= 0)

        return self._to(keys, ("matching", content(q), content(k)))

    def same_token(self, shift: int = 0) -> Scores:
        """Mass on earlier keys k < q with x[k - shift] = x[q]: 0 the token itself before, 1 the token after it."""
        x = torch.as_tensor(self.stimulus.inputs, device=self.query.device)
        moved = F.pad(x, (shift, 0), value=-1)[:, : self.length]

        def keys(start: int, stop: int) -> torch.Tensor:
            before = torch.arange(stop, device=x.device)[None] < torch.arange(start, stop, device=x.device)[:, None]
            return (x[:, start:stop, None] == moved[:, None, :stop]) & before

        return self._to(keys, ("same_token", shift))

    def entropy(self, normalised: bool = False) -> Scores:
        """Entropy -sum_k A ln A in nats; normalised: divided by ln(q + 1), its maximum, for q >= 1."""
        values = self._moments[0].clamp(min=0.0)
        if not normalised:
            return Scores(values, (self.positions >= 0)[None], self.stimulus)
        widest = torch.log(self.positions + 1.0).clamp(min=1e-9)
        return Scores(values / widest, (self.positions >= 1)[None], self.stimulus)

    def distance(self, normalised: bool = False) -> Scores:
        """Mean distance sum_k A (q - k) in tokens; normalised: divided by q / 2, that of uniform attention, for q >= 1."""
        values = self._moments[1].clamp(min=0.0)
        if not normalised:
            return Scores(values, (self.positions >= 0)[None], self.stimulus)
        return Scores(values / (self.positions / 2).clamp(min=0.5), (self.positions >= 1)[None], self.stimulus)

    def profile(self, offsets: int) -> torch.Tensor:
        """Mean over the queries q >= d of A[q, q - d], for d = 0 to offsets - 1: [batch, head, offsets]."""
        if offsets in self._profiles:
            return self._profiles[offsets]
        sums = self.lse.new_zeros(self.n_batch, self.n_heads, offsets)
        back = torch.arange(offsets, device=self.query.device)
        for block in self.blocks(lambda start: max(0, start - offsets + 1)):
            place = torch.arange(block.start, block.stop, device=back.device)[:, None] - back
            index = (place - block.low).clamp(min=0).expand(*block.mass.shape[:3], -1)
            sums[block.rows] += torch.where(place >= 0, block.mass.gather(-1, index), 0.0).sum(2)
        self._profiles[offsets] = sums / (self.length - back).clamp(min=1)
        return self._profiles[offsets]

    def strongest(self) -> torch.Tensor:
        """The key that each query attends to most [batch, head, query]; the earliest of equals."""
        best = torch.zeros_like(self.lse, dtype=torch.long)
        for block in self.blocks():
            best[block.rows, :, block.start : block.stop] = block.mass.argmax(-1)
        return best

    def corner(self, n: int) -> torch.Tensor:
        """A [batch, head, n, n] of the first n tokens of each sequence; keep n small."""
        n = min(n, self.length)
        mass = self._log_mass(slice(None), 0, n, 0).exp_()
        return mass.masked_fill_(self.rule.forbidden(slice(None), 0, n, 0, mass.device)[:, None], 0.0)

    def pattern(self, head: int, sequence: int = 0) -> torch.Tensor:
        """A[query, key] of one head on one sequence, for viewers."""
        chosen = slice(sequence, sequence + 1), slice(head, head + 1)
        rule = self.rule.entry(sequence)
        one = Attention(self.query[chosen], self.key[chosen], self.lse[chosen], rule, self.stimulus, self.layer)
        whole = torch.zeros(self.length, self.length)
        for block in one.blocks():
            whole[block.start : block.stop, : block.stop] = block.mass[0, 0].cpu()
        return whole

    def blocks(self, low: Callable[[int], int] = lambda start: 0) -> Iterator[Block]:
        """The whole map, or the band of keys from `low(first query of the block)`, in blocks of bounded size."""
        for start in range(0, self.length, QUERIES):
            stop = min(self.length, start + QUERIES)
            for rows in self._groups(stop - start, stop - low(start)):
                mass = self._log_mass(rows, start, stop, low(start)).exp_()
                later = self.rule.forbidden(rows, start, stop, low(start), mass.device)
                yield Block(rows, start, stop, low(start), mass.masked_fill_(later[:, None], 0.0))

    def _groups(self, queries: int, keys: int) -> Iterator[slice]:
        """As many sequences at a time as fit."""
        step = max(1, BLOCK_ELEMENTS // (self.n_heads * queries * keys))
        for row in range(0, self.n_batch, step):
            yield slice(row, min(self.n_batch, row + step))

    @cached_property
    def _query(self) -> torch.Tensor:
        """Under a plain rule [scale * query, -lse, 0 ...]: its product with [key, 1, 0 ...] is the logarithm of the mass.
        The width is a multiple of 8; under another rule the query itself."""
        if not self.rule.plain:
            return self.query
        width = self.query.shape[-1]
        wide = self.query.new_zeros(*self.lse.shape, width + 1 + self._spare)
        torch.mul(self.query, self.rule.scale, out=wide[..., :width])
        torch.neg(self.lse, out=wide[..., width])
        return wide

    @cached_property
    def _key(self) -> torch.Tensor:
        if not self.rule.plain:
            return self.key
        width = self.key.shape[-1]
        wide = self.key.new_zeros(*self.lse.shape, width + 1 + self._spare)
        wide[..., :width] = self.key
        wide[..., width] = 1.0
        return wide

    @property
    def _spare(self) -> int:
        """Zeros that fill the width up, at least one."""
        return 7 - self.query.shape[-1] % 8 or 8

    def _log_mass(self, rows: slice, start: int, stop: int, low: int) -> torch.Tensor:
        """ln A [rows, head, stop - start, stop - low], as if every key were allowed."""
        dots = self._query[rows, :, start:stop] @ self._key[rows, :, low:stop].mT
        if self.rule.plain:
            return dots
        return self.rule.scores(dots).sub_(self.lse[rows, :, start:stop, None].clamp(min=-1e30))

    def _paired(self, query: torch.Tensor, key: torch.Tensor, lse: torch.Tensor) -> torch.Tensor:
        """A of queries and keys (rows of `_query` and `_key`) that stand beside each other."""
        dots = (query * key).sum(-1)
        return dots.exp_() if self.rule.plain else (self.rule.scores(dots) - lse).exp_()

    def _mass_on(self, piece: Piece, others: torch.Tensor) -> torch.Tensor:
        """Mass [batch, head, query] of a piece's queries on its keys, by leaving all others out."""
        start, stop, low = piece.start, piece.stop, piece.low
        mass = self.lse.new_zeros(self.n_batch, self.n_heads, stop - start)
        for rows in self._groups(stop - start, stop - low):
            other = others[rows] if len(others) > 1 else others
            if self.rule.allowed is not None:
                other = other | self.rule.forbidden(rows, start, stop, low, other.device)
            part = self._log_mass(rows, start, stop, low).masked_fill_(other[:, None], -math.inf)
            mass[rows] = part.exp_().sum(-1)
        return mass

    def _mass_on_few(self, piece: Piece, few: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """`_mass_on` entry by entry."""
        start = piece.start
        mass = self.lse.new_zeros(self.n_batch, piece.stop - start, self.n_heads)
        step = max(1, BLOCK_ELEMENTS // (self.n_heads * self.query.shape[-1]))
        shared = len(piece.exists) == 1  # the same keys in every sequence
        rows = torch.arange(self.n_batch, device=mass.device) if shared else None
        row, query, key = few if rows is None else (
            rows.repeat_interleave(len(few[0])), few[1].repeat(self.n_batch), few[2].repeat(self.n_batch)
        )  # fmt: skip
        for first in range(0, len(row), step):
            b, q, k = (index[first : first + step] for index in (row, query, key))
            part = self._paired(self._query[b, :, q + start], self._key[b, :, k], self.lse[b, :, q + start])
            if self.rule.allowed is not None:
                allowed = self.rule.allowed[b if len(self.rule.allowed) > 1 else torch.zeros_like(b), q + start, k]
                part = torch.where(allowed[:, None], part, 0.0)
            mass.index_put_((b, q), part, accumulate=True)
        return mass.transpose(1, 2)

    def _where_allowed(self, mass: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Mass on one key a query, 0 where the rule forbids it."""
        if self.rule.allowed is None:
            return mass
        return torch.where(self.rule.allowed[:, query, key][:, None].to(mass.device), mass, 0.0)

    def _block_mask(self, keys: Mask, start: int, stop: int) -> torch.Tensor:
        part = keys(start, stop) if callable(keys) else keys[..., start:stop, :stop]
        # a copy of an array: it may be read-only (broadcast), which torch warns of
        mask = part if isinstance(part, torch.Tensor) else torch.from_numpy(np.array(part))
        mask = mask[None] if mask.ndim == 2 else mask
        if mask.dtype != torch.bool or mask.shape[1:] != (stop - start, stop) or mask.shape[0] not in (1, self.n_batch):
            raise ValueError(
                f"keys: {mask.dtype} of shape {list(mask.shape)} for queries {start} to {stop}; "
                f"legal: bool [1 or {self.n_batch}, {stop - start}, {stop}]"
            )
        return mask

    @cached_property
    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Entropy and mean distance [batch, head, query], from one more pass of attention over the keys."""
        if not self.rule.plain:
            return self._blocked_moments()
        # -sum_k A ln A = -query . (sum_k A key) with the query and key that make logarithms: fused attention returns the
        # sum with the keys as values; the column beside them, zero in the query, carries the positions
        values = self._key.clone()
        values[..., -1] = self.positions.float()
        sums = F.scaled_dot_product_attention(self._query, self._key, values, is_causal=True, scale=1.0)
        return -(sums * self._query).sum(-1), self.positions - sums[..., -1]

    def _blocked_moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        entropy, distance = torch.zeros_like(self.lse), torch.zeros_like(self.lse)
        for rows, start, stop, _, mass in self.blocks():
            back = self.positions[start:stop, None] - self.positions[:stop]
            entropy[rows, :, start:stop] = -torch.special.xlogy(mass, mass).sum(-1)
            distance[rows, :, start:stop] = (mass * back).sum(-1)
        return entropy, distance
