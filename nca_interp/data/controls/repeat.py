"""Random tokens that repeat with a period drawn for each row: the positive control of induction heads.

With one fixed period a head at a fixed offset predicts as well without matching anything; so the period is a range.
Stimulus of Olsson et al. 2022 (arXiv 2209.11895), as a source to train on.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from nca_interp.data.controls.base import LARGEST, Control, kernel


class RepeatSpec(Control):
    """A row: as many symbols as its period, uniform and independent, over and over until the row is full."""

    kind: Literal["repeat"] = "repeat"
    hides: ClassVar[bool] = True
    n_symbols: int = Field(default=64, ge=2, le=LARGEST)
    """Alphabet."""
    period: tuple[int, int] = (8, 64)
    """Smallest and largest period of a row in tokens, both possible, all equally likely."""

    @model_validator(mode="after")
    def _legal(self) -> RepeatSpec:
        if not 1 <= self.period[0] <= self.period[1]:
            raise ValueError(f"period: {list(self.period)} is not a range; legal: 1 <= smallest <= largest")
        return self

    @property
    def vocab_size(self) -> int:
        """n_symbols."""
        return self.n_symbols

    def describe(self) -> str:
        """One sentence."""
        low, high = self.period
        return f"{self.n_symbols} random symbols repeated with a period of {low} to {high} tokens, drawn for each row"

    def lacks(self, n_tokens: int) -> str:
        """The longest period must leave room for a repetition."""
        if self.period[1] < n_tokens:
            return ""
        return f"period: {list(self.period)} is longer than the row of {n_tokens} tokens, so that nothing repeats; legal: up to {n_tokens - 1}"

    def fill(self, draws: Any, tokens: Any, nats: Any) -> None:
        """Informed: ln(n_symbols) on the first period, 0 from there."""
        _fill(draws, self.n_symbols, *self.period, tokens, nats)

    def ideals(self, tokens: Any) -> dict[str, Any]:
        """Bayes: all periods that agree with the row so far, weighed by how likely they made it."""
        import numpy as np

        nats = np.empty(tokens.shape)
        _bayes(tokens, self.n_symbols, *self.period, nats)
        return {"bayes": nats}


@kernel
def _fill(draws: Any, n: int, low: int, high: int, tokens: Any, nats: Any) -> None:
    for row in range(len(tokens)):
        period = low + int(draws[row, 0] * (high - low + 1))
        for i in range(tokens.shape[1]):
            if i < period:
                tokens[row, i] = int(draws[row, 1 + i] * n)
                nats[row, i] = math.log(n)
            else:
                tokens[row, i] = tokens[row, i - period]
                nats[row, i] = 0.0


@kernel
def _bayes(tokens: Any, n: int, low: int, high: int, nats: Any) -> None:
    # a period p made the first i tokens with probability n ** -min(p, i), if they agree with it; all are scaled by n ** i
    for row in range(len(tokens)):
        seen = tokens[row]
        agrees = [True] * (high + 1)
        weight = [1.0] * (high + 1)
        for i in range(len(seen)):
            total, right = 0.0, 0.0
            for period in range(low, high + 1):
                if not agrees[period]:
                    continue
                total += weight[period]
                if i < period:
                    right += weight[period] / n
                elif seen[i - period] == seen[i]:
                    right += weight[period]
            nats[row, i] = math.log(total / right)
            largest = 0.0
            for period in range(low, high + 1):
                if i >= period:
                    agrees[period] = agrees[period] and seen[i - period] == seen[i]
                else:
                    weight[period] /= n
                if agrees[period]:
                    largest = max(largest, weight[period])
            for period in range(low, high + 1):
                weight[period] /= largest
