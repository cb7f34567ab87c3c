"""In-context linear maps over a prime field: `x1 ... xd y`, again and again, with y = w . x mod p and w drawn for each row.

The token form of in-context linear regression (Garg et al. 2022, arXiv 2208.01066), as modular arithmetic in context (He et
al. 2024, arXiv 2406.02550): real numbers would have to be binned, and no ideal loss would be exact.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from nca_interp.data.controls.base import Control, kernel


class LinearSpec(Control):
    """Tokens are the numbers 0 .. modulus - 1."""

    kind: Literal["linear"] = "linear"
    hides: ClassVar[bool] = True
    modulus: int = Field(default=17, ge=2, le=1021)
    """A prime: numbers are taken modulo it."""
    n_inputs: int = Field(default=2, ge=1, le=16)
    """Inputs of an example (d)."""

    @field_validator("modulus")
    @classmethod
    def _prime(cls, value: int) -> int:
        if any(value % k == 0 for k in range(2, math.isqrt(value) + 1)):
            near = next(
                m
                for d in range(value)
                for m in (value - d, value + d)
                if all(m % k for k in range(2, math.isqrt(m) + 1)) and m > 1
            )
            raise ValueError(f"{value} is no prime; legal: a prime, e.g. {near}")
        return value

    @property
    def vocab_size(self) -> int:
        """modulus."""
        return self.modulus

    def describe(self) -> str:
        """One sentence."""
        return f"examples of y = w . x modulo {self.modulus} with {self.n_inputs} random inputs, a new w for each row"

    def lacks(self, n_tokens: int) -> str:
        """One example more than inputs must fit, or nothing can be inferred."""
        need = (self.n_inputs + 1) ** 2
        if need <= n_tokens:
            return ""
        most = math.isqrt(n_tokens) - 1
        legal = f"up to {most}" if most >= 1 else "none, the row is too short"
        return f"n_inputs: {self.n_inputs} inputs need {need} tokens before an output can be known, a row has {n_tokens}; legal: {legal}"

    def n_draws(self, n_tokens: int) -> int:
        """The weights, then one an input."""
        return n_tokens + self.n_inputs

    def fill(self, draws: Any, tokens: Any, nats: Any) -> None:
        """Informed knows w: inputs cost ln(modulus), outputs nothing."""
        import numpy as np

        _fill(draws, self.modulus, self.n_inputs, np.empty(self.n_inputs, np.int64), tokens, nats)

    def ideals(self, tokens: Any) -> dict[str, Any]:
        """Bayes: an output is known where its inputs depend linearly on those before, else uniform."""
        import numpy as np

        nats = np.empty(tokens.shape)
        d = self.n_inputs
        inverse = np.array([pow(k, -1, self.modulus) if k else 0 for k in range(self.modulus)])
        _bayes(tokens, self.modulus, d, inverse, np.empty((d, d), np.int64), np.empty(d, np.int64), nats)
        return {"bayes": nats}


@kernel
def _fill(draws: Any, p: int, d: int, weights: Any, tokens: Any, nats: Any) -> None:
    for row in range(len(tokens)):
        for j in range(d):
            weights[j] = int(draws[row, j] * p)
        total = 0
        for i in range(tokens.shape[1]):
            j = i % (d + 1)
            if j < d:
                x = int(draws[row, d + i] * p)
                tokens[row, i] = x
                nats[row, i] = math.log(p)
                total = (total + weights[j] * x) % p
            else:
                tokens[row, i] = total
                nats[row, i] = 0.0
                total = 0


@kernel
def _bayes(tokens: Any, p: int, d: int, inverse: Any, basis: Any, x: Any, nats: Any) -> None:
    # basis[j]: an input seen so far, reduced so that its first number that is not 0 is a 1 at place j
    for row in range(len(tokens)):
        basis[:] = 0
        for i in range(tokens.shape[1]):
            j = i % (d + 1)
            nats[row, i] = math.log(p)
            if j < d:
                x[j] = tokens[row, i]
                continue
            known = True
            for k in range(d):
                if x[k] == 0:
                    continue
                if basis[k, k] == 0:
                    known = False
                    scale = inverse[x[k]]
                    for m in range(d):
                        basis[k, m] = x[m] * scale % p
                    break
                scale = x[k]
                for m in range(k, d):
                    x[m] = (x[m] + (p - scale) * basis[k, m]) % p
            if known:
                nats[row, i] = 0.0
