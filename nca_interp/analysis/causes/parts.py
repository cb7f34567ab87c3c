"""Parts of a measurement that are kept one by one, so that an interruption costs the part that it meets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from nca_interp.analysis.cache import keep, kept
from nca_interp.analysis.causes.table import INTEGERS, NUMBERS, Row, as_table

Say = Callable[[str, float | None], None]
"""say(what is being done, share of all that is done)."""


class Part(NamedTuple):
    """Rows that are measured at once."""

    name: str
    """Of its file."""
    about: str
    cost: float
    """Seconds, about."""
    arguments: dict[str, Any]
    """What decides its numbers beside what decides those of all parts."""
    make: Callable[[Callable[[float], None]], list[Row]]
    """make(tell): tell(share of the part that is done)."""


class Kept:
    """The parts of one checkpoint, in a folder (None: nothing is kept), for what `made_from` says of weights, code and inputs."""

    def __init__(self, folder: Path | None, made_from: dict[str, Any], say: Say) -> None:
        self._folder, self._made_from, self._say = folder, made_from, say
        self._total = self._done = 0.0

    def expect(self, parts: Iterable[Part]) -> float:
        """Parts to come; returns the seconds that those take that are not kept yet."""
        costs = [0.0 if self._read(part) is not None else part.cost for part in parts]
        self._total += sum(costs)
        return sum(costs)

    def rows(self, part: Part) -> list[Row]:
        """The rows of a part: those that are kept, else measured and kept now."""
        found = self._read(part)
        if found is None:
            self._tell(part, 0.0)
            found = part.make(lambda share: self._tell(part, share))
            self._done += part.cost
            if self._folder is not None:
                keep(self._path(part), as_table(found), self._key(part))
        return found

    def _tell(self, part: Part, share: float) -> None:
        self._say(part.about, min(1.0, (self._done + share * part.cost) / max(self._total, part.cost, 1e-9)))

    def _path(self, part: Part) -> Path:
        assert self._folder is not None
        return self._folder / f"{part.name}.csv"

    def _key(self, part: Part) -> dict[str, Any]:
        return {**self._made_from, "part": part.arguments}

    def _read(self, part: Part) -> list[Row] | None:
        if self._folder is None:
            return None
        frame = kept(self._path(part), self._key(part), numbers=NUMBERS, integers=INTEGERS)
        if frame is None:
            return None
        return [
            {str(name): value for name, value in row.items() if not _empty(value)} for row in frame.to_dict("records")
        ]


def minutes(seconds: float) -> str:
    """About how long, in words."""
    return f"about {math.ceil(seconds / 60)} min" if seconds >= 60 else "less than a minute"


def _empty(value: Any) -> bool:
    return value is None or value == "" or value != value or str(value) == "<NA>"
