"""Key-value recall: pairs in any order, then every key once more in a new order, each followed by its value.

The associative recall of Arora et al. 2023 (arXiv 2312.04927): keys and values of different alphabets, several queries.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from nca_interp.data.controls.base import LARGEST, Control, kernel


class RecallSpec(Control):
    """`k1 v1 ... kL vL | k v ... k v ;`, packed until the row is full. Keys are 0 .. n_keys - 1, values follow, then `|` and `;`."""

    kind: Literal["recall"] = "recall"
    n_keys: int = Field(default=64, ge=2, le=LARGEST)
    """Alphabet of the keys; those of one list differ."""
    n_values: int = Field(default=64, ge=2, le=LARGEST)
    """Alphabet of the values."""
    pairs: tuple[int, int] = (4, 16)
    """Fewest and most pairs of a list, both possible, all equally likely."""

    @model_validator(mode="after")
    def _legal(self) -> RecallSpec:
        if not 1 <= self.pairs[0] <= self.pairs[1]:
            raise ValueError(f"pairs: {list(self.pairs)} is not a range; legal: 1 <= fewest <= most")
        if self.pairs[1] > self.n_keys:
            raise ValueError(
                f"n_keys: {self.n_keys} is a vocabulary too small for {self.pairs[1]} pairs with different keys; legal: {self.pairs[1]} or more"
            )
        return self

    @property
    def vocab_size(self) -> int:
        """n_keys + n_values + 2."""
        return self.n_keys + self.n_values + 2

    def names(self) -> list[str]:
        """k0, k1, ..., v0, v1, ..., `|` and `;`."""
        return [*(f"k{i}" for i in range(self.n_keys)), *(f"v{i}" for i in range(self.n_values)), "|", ";"]

    def describe(self) -> str:
        """One sentence."""
        low, high = self.pairs
        return f"lists of {low} to {high} random pairs of {self.n_keys} keys and {self.n_values} values, then each key again with its value"

    def lacks(self, n_tokens: int) -> str:
        """The longest list must fit with its queries."""
        if 4 * self.pairs[1] + 2 <= n_tokens:
            return ""
        most = (n_tokens - 2) // 4
        legal = f"up to {most}" if most >= 1 else "none, the row is too short"
        return f"pairs: {list(self.pairs)}: {self.pairs[1]} pairs with their queries are longer than the row of {n_tokens} tokens; legal: {legal}"

    def n_draws(self, n_tokens: int) -> int:
        """One a list, one a pair's key, one its value, one a query."""
        return n_tokens + 3

    def fill(self, draws: Any, tokens: Any, nats: Any) -> None:
        """Informed: a key costs the choice among those left, a value of the second half nothing. Nothing is hidden: it is Bayes, too."""
        import numpy as np

        work = np.arange(self.n_keys), np.empty((2, self.pairs[1]), np.int64)
        _fill(draws, self.n_keys, self.n_values, *self.pairs, *work, tokens, nats)


@kernel
def _fill(
    draws: Any, n_keys: int, n_values: int, low: int, high: int, pool: Any, pairs: Any, tokens: Any, nats: Any
) -> None:
    width = tokens.shape[1]
    keys, values = pairs
    for row in range(len(tokens)):
        for i in range(n_keys):
            pool[i] = i
        at, used = 0, 0
        while at < width:
            n = low + int(draws[row, used] * (high - low + 1))
            used += 1
            for i in range(2 * n + 1 + 2 * n + 1):
                if at >= width:
                    break
                j = i // 2 if i < 2 * n else (i - 2 * n - 1) // 2
                if i < 2 * n and i % 2 == 0:  # a key: the pool is shuffled as far as it is used
                    swap = j + int(draws[row, used] * (n_keys - j))
                    pool[j], pool[swap] = pool[swap], pool[j]
                    keys[j] = pool[j]
                    tokens[row, at] = keys[j]
                    nats[row, at] = math.log(n_keys - j) - (math.log(1 - 1 / (high - j + 1)) if j >= low else 0.0)
                elif i < 2 * n:
                    values[j] = int(draws[row, used] * n_values)
                    tokens[row, at] = n_keys + values[j]
                    nats[row, at] = math.log(n_values)
                elif i == 2 * n:
                    used -= 1
                    tokens[row, at] = n_keys + n_values
                    nats[row, at] = math.log(high - n + 1)
                elif i == 4 * n + 1:
                    used -= 1
                    tokens[row, at] = n_keys + n_values + 1
                    nats[row, at] = 0.0
                elif (i - 2 * n - 1) % 2 == 0:
                    swap = j + int(draws[row, used] * (n - j))
                    keys[j], keys[swap] = keys[swap], keys[j]
                    values[j], values[swap] = values[swap], values[j]
                    tokens[row, at] = keys[j]
                    nats[row, at] = math.log(n - j)
                else:
                    used -= 1
                    tokens[row, at] = n_keys + values[j]
                    nats[row, at] = 0.0
                used += 1
                at += 1
