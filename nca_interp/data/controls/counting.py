"""Predictors that count what this row has shown so far: the rivals of every control, and the ideal of some."""

from __future__ import annotations

import math
from typing import Any

from nca_interp.data.controls.base import kernel

LARGEST_COUNTED = 1024
"""Largest vocabulary whose pairs are counted."""
PSEUDO = 0.1
"""Pseudo-count of a rival, where the source says no other."""


def unigram(tokens: Any, vocab_size: int, alpha: float = PSEUDO) -> Any:
    """Nats [row, n_tokens] of (count of the token so far + alpha) / (tokens so far + alpha vocab_size)."""
    return ngram(tokens, vocab_size, 0, alpha)


def bigram(tokens: Any, vocab_size: int, alpha: float = PSEUDO) -> Any:
    """The same after the token before: what an induction head that counts all earlier occurrences can know."""
    return ngram(tokens, vocab_size, 1, alpha)


def ngram(tokens: Any, vocab_size: int, order: int, alpha: float) -> Any:
    """Nats [row, n_tokens] after the `order` tokens before; the first `order` tokens of a row are uniform."""
    import numpy as np

    nats = np.empty(tokens.shape)
    _count(
        tokens, vocab_size, order, alpha, np.zeros((vocab_size**order, vocab_size)), np.zeros(vocab_size**order), nats
    )
    return nats


RIVALS = {"bigram": bigram, "unigram": unigram}


@kernel
def _count(tokens: Any, n: int, order: int, alpha: float, counts: Any, totals: Any, nats: Any) -> None:
    contexts = n**order
    for row in range(len(tokens)):
        counts[:] = 0.0
        totals[:] = 0.0
        context = 0
        for i in range(tokens.shape[1]):
            token = tokens[row, i]
            if i < order:
                nats[row, i] = math.log(n)
            else:
                nats[row, i] = -math.log((counts[context, token] + alpha) / (totals[context] + alpha * n))
                counts[context, token] += 1.0
                totals[context] += 1.0
            context = (context * n + token) % contexts
