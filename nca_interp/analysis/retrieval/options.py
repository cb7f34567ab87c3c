"""What of retrieval is measured."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from nca_interp.base import Frozen


class RetrievalOptions(Frozen):
    """Options of retrieval. Lists are numbers with commas between them."""

    lengths: tuple[int, ...] = (4, 8, 16)
    """Items of a list, 2 or more each; the middle one is the reference."""
    distances: tuple[int, ...] = (8, 32, 128, 512)
    """Tokens between the two presentations, 1 or more each; the first is the reference, and those that the context has no room for
    are left out."""
    sequences: int = Field(default=8, ge=2)
    """Lists of each kind at the reference, and half as many at the other lengths and distances."""
    rows: int = Field(default=6, ge=2)
    """Validation rows of the loss by position and by token frequency."""

    @field_validator("lengths", "distances", mode="before")
    @classmethod
    def _words(cls, given: Any) -> Any:
        return tuple(word for word in given.split(",") if word.strip()) if isinstance(given, str) else given

    @field_validator("lengths")
    @classmethod
    def _lengths(cls, given: tuple[int, ...]) -> tuple[int, ...]:
        return _ascending(given, 2)

    @field_validator("distances")
    @classmethod
    def _distances(cls, given: tuple[int, ...]) -> tuple[int, ...]:
        return _ascending(given, 1)

    @property
    def reference(self) -> tuple[int, int]:
        """(length, distance) that both comparisons have in common."""
        return self.lengths[len(self.lengths) // 2], self.distances[0]

    @property
    def cells(self) -> list[tuple[int, int]]:
        """(length, distance): every length at the first distance, every distance at the middle length."""
        middle, near = self.reference
        return list(dict.fromkeys([*((n, near) for n in self.lengths), *((middle, d) for d in self.distances)]))


def _ascending(given: tuple[int, ...], least: int) -> tuple[int, ...]:
    if not given or min(given) < least:
        raise ValueError(f"{list(given)}; legal: one or more numbers, each {least} or more")
    return tuple(sorted(set(given)))
