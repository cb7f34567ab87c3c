"""Attention probabilities of one layer as a probe sees them: read entry by entry or in blocks, never a whole cached map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nca_interp.analysis.attention.kernel import Layer, Rule
from nca_interp.analysis.attention.probabilities import Probabilities
from nca_interp.analysis.attention.scores import Mask, Piece, Scores, content, is_constant
from nca_interp.analysis.stimuli.base import Batch, NotApplicable


class Attention(Probabilities):
    """Attention of all heads of one layer on one stimulus, reduced without being stored.

    query, key: [batch, head, position, d_head] (key repeated for grouped-query attention); lse: [batch, head, position].
    """

    def __init__(
        self, query: torch.Tensor, key: torch.Tensor, lse: torch.Tensor, rule: Rule, stimulus: Batch, layer: int = 0
    ) -> None:
        super().__init__(query, key, lse, rule)
        self.stimulus = stimulus
        self.layer = layer
        self._profiles: dict[int, torch.Tensor] = {}
        self._found: dict[tuple[Any, ...], Scores] = {}

    @classmethod
    def of(cls, layer: Layer, stimulus: Batch) -> Attention:
        """The view of what the attention function handed out."""
        return cls(layer.query, layer.key, layer.lse, layer.rule, stimulus, layer.number)

    @classmethod
    def uniform(cls, stimulus: Batch, allowed: torch.Tensor | None = None) -> Attention:
        """One head that attends alike to all keys that it may: the chance level of any probe.

        `allowed`: `Rule.allowed` of a layer, for instance its window; None: every key up to the query, A = 1 / (q + 1).
        """
        batch, length = stimulus.inputs.shape
        zeros = torch.zeros(batch, 1, length, 1)
        keys = torch.arange(1, length + 1)[None] if allowed is None else allowed.sum(-1)
        lse = torch.log(keys.double()).float()[:, None].expand(batch, 1, length)
        return Attention(zeros, zeros, lse, Rule(1.0, allowed=allowed), stimulus)

    def offset(self, back: int) -> Scores:
        """Mass on the key exactly `back` places before the query; exists for queries q >= back."""
        if back < 0:
            raise ValueError(f"back: {back}; legal: 0 or more (keys after the query are not attended)")
        values = self.lse.new_zeros(self.lse.shape)
        if back < self.length:
            values[:, :, back:] = self.diagonal(back)
        return Scores(values, (self.positions >= back)[None], self.stimulus)

    def first(self) -> Scores:
        """Mass on the first token of the sequence."""
        return Scores(self.column(0), (self.positions >= 0)[None], self.stimulus)

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
        """`to` with a name for the key set. Sets that have one are kept with the stimulus, and all of them summed at once:
        what one layer was asked for, the next will be."""
        if name is None:
            pieces = self._pieces(keys)
            return self._scores(pieces, *self.sums([pieces]))
        if name not in self._found:
            device = self.query.device
            kept = self.stimulus.memo.setdefault(("key sets", device), {})
            if name not in kept:
                kept[name] = self._pieces(keys), keys  # the keys too: their id must not be given to another
            missing = {other: pieces for other, (pieces, _) in kept.items() if other not in self._found}
            for other, mass in zip(missing, self.sums(list(missing.values())), strict=True):
                self._found[other] = self._scores(missing[other], mass)
        return self._found[name]

    def _scores(self, pieces: list[Piece], mass: torch.Tensor) -> Scores:
        return Scores(mass, torch.cat([piece.exists for piece in pieces], -1), self.stimulus)

    def _pieces(self, keys: Mask) -> list[Piece]:
        """A key set in blocks of queries."""
        found = []
        for start, stop in self._spans():
            chosen = self._block_mask(keys, start, stop).to(self.query.device)
            found.append(
                Piece.of(chosen & ~Rule(1.0).forbidden(slice(None), start, stop, 0, chosen.device), start, stop)
            )
        return found

    def between(self, first: torch.Tensor | np.ndarray, last: torch.Tensor | np.ndarray) -> Scores:
        """Mass on the keys first[q] to last[q], both included ([query], integers)."""
        name = ("between", content(first), content(last))
        low, high = (torch.as_tensor(place, device=self.query.device) for place in (first, last))

        def keys(start: int, stop: int) -> torch.Tensor:
            key = torch.arange(stop, device=low.device)
            return ((key >= low[start:stop, None]) & (key <= high[start:stop, None]))[None]

        return self._to(keys, name)

    def within(self, back: int) -> Scores:
        """Mass on the query's own token and the `back` tokens before it."""
        places = np.arange(self.length)
        return self.between(places - back, places)

    def matching(self, query_ids: torch.Tensor | np.ndarray, key_ids: torch.Tensor | np.ndarray) -> Scores:
        """Mass on the keys k <= q with key_ids[k] = query_ids[q] ([batch, position], integers; negative: never)."""
        name = ("matching", content(query_ids), content(key_ids))
        q, k = (torch.as_tensor(ids, device=self.query.device) for ids in (query_ids, key_ids))

        def keys(start: int, stop: int) -> torch.Tensor:
            return (q[:, start:stop, None] == k[:, None, :stop]) & (k[:, None, :stop] >= 0)

        return self._to(keys, name)

    def same_token(self, shift: int = 0) -> Scores:
        """Mass on earlier keys k < q with x[k - shift] = x[q]: 0 the token itself before, 1 the token after it."""
        x = torch.as_tensor(self.stimulus.inputs, device=self.query.device)
        moved = F.pad(x, (shift, 0), value=-1)[:, : self.length]

        def keys(start: int, stop: int) -> torch.Tensor:
            before = torch.arange(stop, device=x.device)[None] < torch.arange(start, stop, device=x.device)[:, None]
            return (x[:, start:stop, None] == moved[:, None, :stop]) & before

        return self._to(keys, ("same_token", shift))

    def after_ngram(self, n: int) -> Scores:
        """Mass on earlier keys k < q that follow an earlier occurrence of the n tokens that end at the query: x[k - n .. k - 1] =
        x[q - n + 1 .. q]; exists for queries whose last n tokens occurred before."""
        if n < 1:
            raise ValueError(f"n: {n}; legal: 1 or more")
        ids = self._ngrams(n)
        after = F.pad(ids, (1, 0), value=-1)[:, : self.length]

        def keys(start: int, stop: int) -> torch.Tensor:
            before = torch.arange(stop, device=ids.device)[None] < torch.arange(start, stop, device=ids.device)[:, None]
            return (ids[:, start:stop, None] == after[:, None, :stop]) & (after[:, None, :stop] >= 0) & before

        return self._to(keys, ("after_ngram", n))

    def _ngrams(self, n: int) -> torch.Tensor:
        """A number for the n tokens that end at each place [batch, position], equal for equal ones; -1 where there are fewer."""
        x = torch.as_tensor(self.stimulus.inputs, device=self.query.device)
        ids = torch.unique(x, return_inverse=True)[1]
        single, size = ids, int(ids.max()) + 1
        for _ in range(n - 1):
            longer = ids[:, :-1] * size + single[:, 1:]
            longer = torch.unique(torch.where(ids[:, :-1] < 0, -1, longer), return_inverse=True)[1] + 1
            ids = F.pad(torch.where(ids[:, :-1] < 0, -1, longer), (1, 0), value=-1)
        return ids

    def to_class(self, belongs: Callable[[str], bool]) -> Scores:
        """Mass on the tokens whose text belongs to a class, the query's own among them; exists for queries with such a token.
        NotApplicable where no tokenizer says what the tokens of the stimulus are."""
        texts = self.stimulus.texts
        if texts is None:
            raise NotApplicable("no tokenizer says what its tokens are")
        kept = self.stimulus.memo.setdefault("classes", {})
        if belongs not in kept:
            found = np.array([bool(belongs(text)) for text in texts], dtype=bool)[np.asarray(self.stimulus.inputs)]
            kept[belongs] = torch.from_numpy(found)
        members = kept[belongs].to(self.query.device)
        return self._to(
            lambda start, stop: members[:, None, :stop].expand(-1, stop - start, -1), ("class", content(members))
        )

    def entropy(self, normalised: bool = False) -> Scores:
        """Entropy -sum_k A ln A in nats; normalised: divided by ln(q + 1), its maximum, for q >= 1."""
        values = self.moments[0].clamp(min=0.0)
        if not normalised:
            return Scores(values, (self.positions >= 0)[None], self.stimulus)
        widest = torch.log(self.positions + 1.0).clamp(min=1e-9)
        return Scores(values / widest, (self.positions >= 1)[None], self.stimulus)

    def distance(self, normalised: bool = False) -> Scores:
        """Mean distance sum_k A (q - k) in tokens; normalised: divided by q / 2, that of uniform attention, for q >= 1."""
        values = self.moments[1].clamp(min=0.0)
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

    def pattern(self, head: int, sequence: int = 0) -> torch.Tensor:
        """A[query, key] of one head on one sequence, for viewers."""
        chosen = slice(sequence, sequence + 1), slice(head, head + 1)
        rule = self.rule.entry(sequence)
        one = Attention(self.query[chosen], self.key[chosen], self.lse[chosen], rule, self.stimulus, self.layer)
        whole = torch.zeros(self.length, self.length)
        for block in one.blocks():
            whole[block.start : block.stop, : block.stop] = block.mass[0, 0].cpu()
        return whole

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
