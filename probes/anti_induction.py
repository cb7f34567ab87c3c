"""Anti-induction: does a head find the token that came next last time, and lower its logit?

A block of n = 64 different random tokens, twice. Mean over the queries q of the second block of A[q, q - n + 1] times the
share, of all logits of the context's tokens that the head lowers below their mean, that falls on x[q - n + 1] (the
head's output through W_O, the final norm and the unembedding). Copy suppression: McDougall et al. 2023, arXiv
2310.04625; here with prefix matching. Range 0 to 1 (attends to that token only and lowers nothing else); chance is
uniform attention with even logits, the mean of 1 / (q + 1) over those queries divided by the tokens of the context.
"""

import numpy as np

from nca_interp import probe, repeated_tokens


def chance(stimulus):
    """Uniform attention; each token of the context is as likely lowered as another."""
    queries = np.flatnonzero(stimulus.in_repeat())
    return float((1 / (queries + 1)).mean()) / (stimulus.start + stimulus.period)


@probe(
    stimulus=repeated_tokens(), reads="heads", unit="attention mass x share", low=0.0, high=1.0, chance=chance, hit=0.2
)
def anti_induction(heads):
    """Return score[batch, head]."""
    back, queries = heads.stimulus.period - 1, heads.repeat_queries()
    followed = heads.tokens[:, None, queries - back]  # what came after x[q] the first time
    return (heads.offset(back).values[:, :, queries] * heads.share(followed, queries, lowered=True)).mean(-1)
