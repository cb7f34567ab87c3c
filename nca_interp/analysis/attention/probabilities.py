"""The attention probabilities of one layer, made again from query, key and log-sum-exp: single entries, or blocks of the map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
import torch.nn.functional as F

from nca_interp.analysis.attention import kernel
from nca_interp.analysis.attention.kernel import Rule
from nca_interp.analysis.attention.scores import Block, Piece


class Probabilities:
    """A[q, k] of all heads of one layer on some sequences.

    query, key: [batch, head, position, d_head] (key repeated for grouped-query attention); lse: [batch, head, position].
    """

    def __init__(self, query: torch.Tensor, key: torch.Tensor, lse: torch.Tensor, rule: Rule) -> None:
        self.query = query.detach().float()
        self.key = key.detach().float()
        self.lse = lse.detach().float()
        self.rule = rule

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

    def blocks(self, low: Callable[[int], int] = lambda start: 0) -> Iterator[Block]:
        """The whole map, or the band of keys from `low(first query of the block)`, in blocks of bounded size."""
        for start, stop in self._spans():
            yield from self._blocks(start, stop, low(start))

    def corner(self, n: int) -> torch.Tensor:
        """A [batch, head, n, n] of the first n tokens of each sequence; keep n small."""
        n = min(n, self.length)
        return self._mass(slice(None), 0, n, 0)

    def diagonal(self, back: int) -> torch.Tensor:
        """A[q, q - back] of the queries q >= back: [batch, head, length - back]."""
        query, key = self.positions[back:], self.positions[: self.length - back]
        mass = self._paired(self._query[:, :, back:], self._key[:, :, : self.length - back], self.lse[:, :, back:])
        return self._where_allowed(mass, query, key)

    def column(self, key: int) -> torch.Tensor:
        """A[q, key] of all queries [batch, head, query], for a key that no query precedes."""
        mass = self._paired(self._query, self._key[:, :, key : key + 1], self.lse)
        return self._where_allowed(mass, self.positions, torch.full_like(self.positions, key))

    def sums(self, sets: list[list[Piece]]) -> list[torch.Tensor]:
        """Mass [batch, head, query] on each of several key sets, all cut at the same queries: one map serves all."""
        found = [torch.zeros_like(self.lse) for _ in sets]
        for pieces in zip(*sets, strict=True):
            dense = []
            for total, piece in zip(found, pieces, strict=True):
                if piece.few is not None:
                    total[:, :, piece.start : piece.stop] = self._mass_on_few(piece, piece.few)
                elif piece.chosen is not None:
                    dense.append((total, piece, piece.chosen))
            if dense:
                low = min(piece.low for _, piece, _ in dense)
                for block in self._blocks(pieces[0].start, pieces[0].stop, low):
                    for total, piece, chosen in dense:
                        # times 0 and 1: several times as fast as selecting
                        factor = (chosen[block.rows] if len(chosen) > 1 else chosen)[:, None].to(block.mass.dtype)
                        total[block.rows, :, block.start : block.stop] = (
                            block.mass[..., piece.low - low :] * factor
                        ).sum(-1)
        return found

    @cached_property
    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Entropy and mean distance [batch, head, query], from one more pass of attention over the keys."""
        if not self.rule.plain:
            return self._blocked_moments()
        # -sum_k A ln A = -query . (sum_k A key) with the query and key that make logarithms: fused attention returns the
        # sum with the keys as values; the column beside them, zero in the query, carries the positions
        values = self._key.clone()
        values[..., -1] = self.positions.float()
        sums = F.scaled_dot_product_attention(self._query, self._key, values, is_causal=True, scale=1.0)
        distance = self.positions - sums[..., -1]
        return -sums.mul_(self._query).sum(-1), distance

    def _blocked_moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        entropy, distance = torch.zeros_like(self.lse), torch.zeros_like(self.lse)
        for rows, start, stop, _, mass in self.blocks():
            back = self.positions[start:stop, None] - self.positions[:stop]
            entropy[rows, :, start:stop] = -torch.special.xlogy(mass, mass).sum(-1)
            distance[rows, :, start:stop] = (mass * back).sum(-1)
        return entropy, distance

    def _spans(self) -> Iterator[tuple[int, int]]:
        """The queries of every block: first and one past the last."""
        for start in range(0, self.length, kernel.QUERIES):
            yield start, min(self.length, start + kernel.QUERIES)

    def _blocks(self, start: int, stop: int, low: int) -> Iterator[Block]:
        """As many sequences at a time as fit."""
        step = kernel.rows_at_once(self.n_heads * (stop - start) * (stop - low), self.lse.device)
        for row in range(0, self.n_batch, step):
            rows = slice(row, min(self.n_batch, row + step))
            yield Block(rows, start, stop, low, self._mass(rows, start, stop, low))

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

    def _mass(self, rows: slice, start: int, stop: int, low: int) -> torch.Tensor:
        """A [rows, head, stop - start, stop - low]; zero where a query may not attend."""
        logs = self._query[rows, :, start:stop] @ self._key[rows, :, low:stop].mT
        if not self.rule.plain:
            logs = self.rule.scores(logs).sub_(self.lse[rows, :, start:stop, None].clamp(min=-1e30))
        first = max(low, start) if self.rule.allowed is None else low  # without a mask no key before `start` is barred
        logs[..., first - low :] += self.rule.barrier(rows, start, stop, first, logs.device)[:, None]
        return logs.exp_()

    def _paired(self, query: torch.Tensor, key: torch.Tensor, lse: torch.Tensor) -> torch.Tensor:
        """A of queries and keys (rows of `_query` and `_key`) that stand beside each other."""
        dots = (query * key).sum(-1)
        return dots.exp_() if self.rule.plain else (self.rule.scores(dots) - lse).exp_()

    def _mass_on_few(self, piece: Piece, few: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Mass [batch, head, query] of a piece's queries on its keys, entry by entry."""
        start = piece.start
        mass = self.lse.new_zeros(self.n_batch, piece.stop - start, self.n_heads)
        step = kernel.rows_at_once(self.n_heads * self.query.shape[-1], self.lse.device)
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
