"""What attention is reduced to, a number for every query, and the sets of keys it is summed over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from nca_interp.analysis.stimuli.base import Batch

SPARSE = 100
"""One entry gathered alone costs about as much as this many entries of a block."""
NO_QUERY = "no query"
"""Key of a stimulus's memo: a mean over no query was taken."""
Mask = torch.Tensor | np.ndarray | Callable[[int, int], torch.Tensor]


@dataclass(frozen=True)
class Scores:
    """A number for every query: `values` [batch, head, query], meaningful where `exists` [batch or 1, query] is true."""

    values: torch.Tensor
    exists: torch.Tensor
    stimulus: Batch

    def mean(self, queries: torch.Tensor | np.ndarray | None = None) -> torch.Tensor:
        """Mean [batch, head] over the queries that exist, and are in `queries` (bool, [query] or [batch, query]) if given.

        NaN for a sequence that has none, noted in the stimulus's memo under NO_QUERY: the only NaN a probe may return.
        """
        keep = self.exists if queries is None else self.exists & torch.as_tensor(queries, device=self.exists.device)
        keep = keep.expand(self.values.shape[0], -1)[:, None]
        # chance levels are measured on the CPU; a GPU would have to be waited for
        if not keep.is_cuda and not bool(keep.any(-1).all()):
            self.stimulus.memo[NO_QUERY] = True
        return torch.where(keep, self.values, 0.0).sum(-1) / keep.sum(-1)

    def repeat_mean(self, repeat: int | None = None) -> torch.Tensor:
        """Mean over queries in the second and later repeats of a repeated stimulus, or in one of them (2, 3, ...)."""
        return self.mean(self.stimulus.in_repeat(repeat))

    def __add__(self, other: Scores) -> Scores:
        """Sum, for queries where both exist."""
        return Scores(self.values + other.values, self.exists & other.exists, self.stimulus)

    def __sub__(self, other: Scores) -> Scores:
        """Difference, for queries where both exist."""
        return Scores(self.values - other.values, self.exists & other.exists, self.stimulus)

    def __mul__(self, factor: float) -> Scores:
        """Every score times `factor`."""
        return Scores(self.values * factor, self.exists, self.stimulus)


class Block(NamedTuple):
    """Attention of some queries of some sequences to keys low to stop."""

    rows: slice
    start: int
    stop: int
    low: int
    mass: torch.Tensor
    """[rows, head, stop - start, stop - low]; zero where a query may not attend."""


class Piece(NamedTuple):
    """A set of keys for the queries start to stop: which of the keys from `low` are in it, or a list where they are few."""

    start: int
    stop: int
    low: int
    exists: torch.Tensor
    """Bool [batch or 1, stop - start]: the set holds a key."""
    chosen: torch.Tensor | None
    """Bool [batch or 1, stop - start, stop - low]."""
    few: tuple[torch.Tensor, ...] | None
    """Indices of sequence, query (from start) and key of every entry, where they are few."""

    @classmethod
    def of(cls, chosen: torch.Tensor, start: int, stop: int) -> Piece:
        """The piece of a mask [batch or 1, stop - start, stop] without keys after the query."""
        exists, columns = chosen.any(-1), chosen.flatten(0, 1).any(0)
        if not bool(columns.any()):
            return cls(start, stop, stop, exists, None, None)
        low = int(columns.int().argmax())
        band = chosen[:, :, low:]
        if int(chosen.sum()) * SPARSE < band.numel():
            return cls(start, stop, low, exists, None, chosen.nonzero(as_tuple=True))
        return cls(start, stop, low, exists, band.clone(), None)


def is_constant(keys: Mask) -> bool:
    """Whether a mask cannot change, so that what is known of it may be kept."""
    return isinstance(keys, np.ndarray) and not keys.flags.writeable


def content(ids: torch.Tensor | np.ndarray) -> bytes:
    """Integers as a key of a dictionary."""
    return torch.as_tensor(ids).cpu().numpy().tobytes()
