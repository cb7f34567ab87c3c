"""In-context Markov chains: every row has a transition matrix of its own, drawn from a Dirichlet prior.

Edelman et al. 2024 (arXiv 2402.11004): the model has to count in the row what followed the last token. The best that a
reader can do is known in closed form: the counts so far, plus alpha (bigrams for order 1).
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from nca_interp.data.controls.base import Control, kernel

LARGEST_TABLE = 2**20
"""Entries of the largest transition table of a row."""


class MarkovSpec(Control):
    """A row: a chain whose every transition row is one draw of Dirichlet(alpha, ..., alpha); its first `order` tokens are uniform.

    Tokens are drawn from the predictive distribution (Polya's urn), which is the same as drawing the matrix first: so the
    loss of the generator is that of the Bayes predictor itself. Edelman et al. take 2 to 8 states and alpha 1.
    """

    kind: Literal["markov"] = "markov"
    n_states: int = Field(default=8, ge=2, le=1024)
    """Alphabet."""
    order: int = Field(default=1, ge=1, le=4)
    """Tokens that the next one depends on."""
    alpha: float = Field(default=1.0, gt=0, le=1000)
    """Concentration of the prior: 1 is uniform over matrices, small ones make rows nearly deterministic."""

    @model_validator(mode="after")
    def _legal(self) -> MarkovSpec:
        if self.n_states ** (self.order + 1) > LARGEST_TABLE:
            most = int(LARGEST_TABLE ** (1 / (self.order + 1)) + 1e-9)
            raise ValueError(
                f"n_states: {self.n_states} states need a table too large at order {self.order}; legal: up to {most}"
            )
        return self

    @property
    def vocab_size(self) -> int:
        """n_states."""
        return self.n_states

    def describe(self) -> str:
        """One sentence."""
        return f"Markov chains of order {self.order} over {self.n_states} states, a new transition matrix for each row (Dirichlet, alpha {self.alpha:g})"

    def lacks(self, n_tokens: int) -> str:
        """A transition must fit."""
        if self.order + 1 < n_tokens:
            return ""
        return f"order: {self.order} leaves no transition in a row of {n_tokens} tokens; legal: a row of {self.order + 2} or more"

    def fill(self, draws: Any, tokens: Any, nats: Any) -> None:
        """Bayes: (count so far + alpha) / (total + alpha n_states)."""
        import numpy as np

        table = np.empty((self.n_states**self.order, self.n_states))
        _fill(draws, self.n_states, self.order, self.alpha, table, tokens, nats)

    def ideals(self, tokens: Any) -> dict[str, Any]:
        """`informed` knows the matrix: its expected loss, given all tokens. `bigram` of order 1 is the Bayes predictor; the
        rivals count with the same alpha."""
        import numpy as np
        from scipy.special import digamma

        from nca_interp.data.controls.counting import ngram

        # of a Dirichlet posterior with these pseudo-counts the mean of ln p is digamma(its count) - digamma(all counts)
        seen = np.zeros((*tokens.shape, 2))
        _count(tokens, self.n_states, self.order, np.empty((self.n_states**self.order, self.n_states)), seen)
        seen += np.array([self.n_states * self.alpha, self.alpha])
        informed = np.full(tokens.shape, math.log(self.n_states))
        informed[:, self.order :] = (digamma(seen[..., 0]) - digamma(seen[..., 1]))[:, self.order :]
        rivals = {name: ngram(tokens, self.n_states, k, self.alpha) for k, name in ((1, "bigram"), (0, "unigram"))}
        return {"informed": informed, **rivals}


@kernel
def _count(tokens: Any, n: int, order: int, table: Any, seen: Any) -> None:
    """seen[row, i, 0] and [.., 1]: how often, in the whole row, anything follows the context of token i, and how often it does."""
    contexts = n**order
    for row in range(len(tokens)):
        table[:] = 0.0
        for again in (False, True):
            context = 0
            for i in range(tokens.shape[1]):
                token = tokens[row, i]
                if i >= order and again:
                    seen[row, i, 0] = table[context].sum()
                    seen[row, i, 1] = table[context, token]
                elif i >= order:
                    table[context, token] += 1.0
                context = (context * n + token) % contexts


@kernel
def _fill(draws: Any, n: int, order: int, alpha: float, table: Any, tokens: Any, nats: Any) -> None:
    contexts = n**order
    for row in range(len(tokens)):
        table[:] = 0.0
        context = 0
        for i in range(tokens.shape[1]):
            token = 0
            if i < order:
                token = int(draws[row, i] * n)
                nats[row, i] = math.log(n)
            else:
                seen = table[context]
                total = n * alpha + seen.sum()
                left = draws[row, i] * total
                while token < n - 1 and left >= seen[token] + alpha:
                    left -= seen[token] + alpha
                    token += 1
                nats[row, i] = math.log(total / (seen[token] + alpha))
                seen[token] += 1.0
            tokens[row, i] = token
            context = (context * n + token) % contexts
