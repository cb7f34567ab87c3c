"""Independent tokens: the negative control, with Zipf's frequencies or exactly those of another source."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from nca_interp.data.controls.base import LARGEST, Control


class NoiseSpec(Control):
    """Every token is drawn alike, whatever stands before it."""

    kind: Literal["noise"] = "noise"
    n_symbols: int = Field(default=64, ge=2, le=LARGEST)
    """Alphabet; not used with `weights`."""
    exponent: float = Field(default=1.0, ge=0, le=10)
    """The r-th token has a frequency proportional to 1 / r**exponent (0: uniform, 1: Zipf's law); not used with `weights`."""
    weights: tuple[float, ...] | None = None
    """Relative frequency of each token, for instance counts in another source (`noise:dyck` counts them); null: the law above."""
    matched: str = ""
    """The source whose frequencies the weights are, for the report."""

    @model_validator(mode="after")
    def _legal(self) -> NoiseSpec:
        if self.weights is None:
            return self
        if not 2 <= len(self.weights) <= LARGEST:
            raise ValueError(f"weights: {len(self.weights):,} tokens; legal: 2 to {LARGEST:,}")
        if min(self.weights) < 0 or not sum(self.weights) > 0:
            raise ValueError("weights: some are negative, or all are 0; legal: 0 or more, at least one above 0")
        return self

    @property
    def vocab_size(self) -> int:
        """Tokens that have a weight."""
        return self.n_symbols if self.weights is None else len(self.weights)

    def describe(self) -> str:
        """One sentence."""
        like = (
            f"of the frequencies of {self.matched or 'given weights'}"
            if self.weights is not None
            else f"of frequencies 1 / rank^{self.exponent:g}"
        )
        return f"independent random tokens {like}, {self.vocab_size} different ones"

    def lacks(self, n_tokens: int) -> str:
        """Nothing."""
        return ""

    def fill(self, draws: Any, tokens: Any, nats: Any) -> None:
        """Nothing is hidden and nothing helps: minus ln of the token's frequency."""
        import numpy as np

        ranks = np.arange(1, self.n_symbols + 1)
        weights = np.array(self.weights) if self.weights is not None else ranks**-self.exponent
        share = weights / weights.sum()
        cumulated = np.cumsum(share)
        last = np.flatnonzero(share)[-1]
        tokens[:] = np.minimum(np.searchsorted(cumulated, draws[:, : tokens.shape[1]], side="right"), last)
        nats[:] = -np.log(share[tokens])
