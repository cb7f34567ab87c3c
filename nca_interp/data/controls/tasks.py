"""Tasks on a list: `x1 ... xL | y1 ... yM ;`, one after the other until the row is full, the last one cut.

The layout of the procedural tasks of arXiv 2505.22308 and 2601.21725 (section 3: input, separator, output), with lengths that
vary, so that no head at a fixed offset solves them, and packed, so that a row holds several. A task is a function of the list.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

from pydantic import Field, model_validator

from nca_interp.data.controls.base import LARGEST, Control


class ListTask(Control):
    """Base of the list tasks: symbols are 0 .. n_symbols - 1, then `|`, then `;`."""

    n_symbols: int = Field(default=64, ge=2, le=LARGEST)
    """Alphabet of the list."""
    length: tuple[int, int] = (4, 24)
    """Shortest and longest list in symbols, both possible, all equally likely."""
    answer: ClassVar[Callable[..., int]]
    """answer(x, length, n_symbols, y): writes the output into y and returns its length (at most `length`); compiled."""
    told: ClassVar[str]
    """What the output is, for `describe`."""

    @model_validator(mode="after")
    def _legal(self) -> ListTask:
        if not 1 <= self.length[0] <= self.length[1]:
            raise ValueError(f"length: {list(self.length)} is not a range; legal: 1 <= shortest <= longest")
        return self

    @property
    def vocab_size(self) -> int:
        """n_symbols + 2."""
        return self.n_symbols + 2

    def names(self) -> list[str]:
        """Numbers, `|` and `;`."""
        return [*map(str, range(self.n_symbols)), "|", ";"]

    def describe(self) -> str:
        """One sentence."""
        low, high = self.length
        return f"lists of {low} to {high} of {self.n_symbols} random symbols, each followed by {self.told}"

    def lacks(self, n_tokens: int) -> str:
        """The longest list must fit with its output."""
        if 2 * self.length[1] + 2 <= n_tokens:
            return ""
        longest = (n_tokens - 2) // 2
        legal = f"up to {longest}" if longest >= 1 else "none, the row is too short"
        return (
            f"length: {list(self.length)}: a list of {self.length[1]} with its output is longer than the row of {n_tokens} "
            f"tokens; legal: {legal}"
        )

    def n_draws(self, n_tokens: int) -> int:
        """One a list and one a symbol."""
        return n_tokens + 2

    def fill(self, draws: Any, tokens: Any, nats: Any) -> None:
        """Informed: what a symbol costs given that the list may end; the output is free. Nothing is hidden: it is Bayes, too."""
        import numpy as np

        low, high = self.length
        _packed(type(self).answer)(draws, self.n_symbols, low, high, np.empty((2, high), np.int64), tokens, nats)


@cache
def _packed(answer: Callable[..., int]) -> Any:
    """The kernel that packs tasks into rows, compiled around one task."""
    from numba import njit

    solve = njit(nogil=True)(answer)

    def fill(draws: Any, n: int, low: int, high: int, work: Any, tokens: Any, nats: Any) -> None:
        x, y = work
        width = tokens.shape[1]
        for row in range(len(tokens)):
            at, used = 0, 0
            while at < width:
                length = low + int(draws[row, used] * (high - low + 1))
                used += 1
                for i in range(min(length, width - at)):
                    x[i] = int(draws[row, used] * n)
                    used += 1
                    tokens[row, at + i] = x[i]
                    nats[row, at + i] = math.log(n) - (math.log(1 - 1 / (high - i + 1)) if i >= low else 0.0)
                at += length
                if at >= width:
                    break
                tokens[row, at] = n
                nats[row, at] = math.log(high - length + 1)
                at += 1
                count = solve(x, length, n, y)
                for i in range(min(count, width - at)):
                    tokens[row, at + i] = y[i]
                    nats[row, at + i] = 0.0
                at += count
                if at < width:
                    tokens[row, at] = n + 1
                    nats[row, at] = 0.0
                at += 1

    return njit(nogil=True)(fill)
