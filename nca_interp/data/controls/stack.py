"""Push and pop, then what is left: the stack task of arXiv 2505.22308 and 2601.21725."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from nca_interp.data.controls.base import LARGEST, Control, kernel


class StackSpec(Control):
    """Operations, `|`, what the stack holds from the top down, `;`, packed until the row is full.

    A symbol is pushed as itself; then come `pop`, `|`, `;`. A stack that is empty is pushed on. The published code draws
    other probabilities in the last third and keeps the symbols of a stack different; here every operation is drawn alike.
    """

    kind: Literal["stack"] = "stack"
    n_symbols: int = Field(default=64, ge=2, le=LARGEST)
    """Alphabet of what is pushed."""
    length: tuple[int, int] = (6, 24)
    """Fewest and most operations, both possible, all equally likely."""
    p_push: float = Field(default=0.6, gt=0, lt=1)
    """Probability of pushing where both are possible."""

    @model_validator(mode="after")
    def _legal(self) -> StackSpec:
        if not 1 <= self.length[0] <= self.length[1]:
            raise ValueError(f"length: {list(self.length)} is not a range; legal: 1 <= fewest <= most")
        return self

    @property
    def vocab_size(self) -> int:
        """n_symbols + 3."""
        return self.n_symbols + 3

    def names(self) -> list[str]:
        """Numbers, pop, `|` and `;`."""
        return [*map(str, range(self.n_symbols)), "pop", "|", ";"]

    def describe(self) -> str:
        """One sentence."""
        low, high = self.length
        return f"{low} to {high} pushes (probability {self.p_push:g}) of {self.n_symbols} random symbols and pops, then what the stack holds from the top down"

    def lacks(self, n_tokens: int) -> str:
        """The most operations must fit with the fullest stack."""
        if 2 * self.length[1] + 2 <= n_tokens:
            return ""
        longest = (n_tokens - 2) // 2
        legal = f"up to {longest}" if longest >= 1 else "none, the row is too short"
        return f"length: {list(self.length)}: {self.length[1]} operations with the stack are longer than the row of {n_tokens} tokens; legal: {legal}"

    def n_draws(self, n_tokens: int) -> int:
        """One a list, two an operation."""
        return 2 * n_tokens + 3

    def fill(self, draws: Any, tokens: Any, nats: Any) -> None:
        """Informed: operations cost what was drawn, the stack is free. Nothing is hidden: it is Bayes, too."""
        import numpy as np

        _fill(draws, self.n_symbols, *self.length, self.p_push, np.empty(self.length[1], np.int64), tokens, nats)


@kernel
def _fill(draws: Any, n: int, low: int, high: int, p_push: float, stack: Any, tokens: Any, nats: Any) -> None:
    width = tokens.shape[1]
    for row in range(len(tokens)):
        at, used = 0, 0
        while at < width:
            length = low + int(draws[row, used] * (high - low + 1))
            used += 1
            depth = 0
            for i in range(min(length, width - at)):
                cost = -math.log(1 - 1 / (high - i + 1)) if i >= low else 0.0
                if depth > 0:
                    cost -= math.log(p_push if draws[row, used] < p_push else 1 - p_push)
                if depth == 0 or draws[row, used] < p_push:
                    stack[depth] = int(draws[row, used + 1] * n)
                    tokens[row, at + i] = stack[depth]
                    depth += 1
                    cost += math.log(n)
                else:
                    depth -= 1
                    tokens[row, at + i] = n
                nats[row, at + i] = cost
                used += 2
            at += length
            if at >= width:
                break
            tokens[row, at] = n + 1
            nats[row, at] = math.log(high - length + 1)
            at += 1
            for i in range(min(depth, width - at)):
                tokens[row, at + i] = stack[depth - 1 - i]
                nats[row, at + i] = 0.0
            at += depth
            if at < width:
                tokens[row, at] = n + 2
                nats[row, at] = 0.0
            at += 1
