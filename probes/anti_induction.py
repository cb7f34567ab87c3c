"""Anti-induction: does a head find the token that came next last time, and lower its logit?

A block of n = 64 different random tokens, twice. Mean over the queries q of the second block of A[q, q - n + 1] times the
share of the context's other tokens whose logit the head puts above that of x[q - n + 1], less the share that it puts
below (the head's output through W_O, the final norm and the unembedding). Copy suppression: McDougall et al. 2023, arXiv
2310.04625; here with prefix matching. Range -1 (an induction head that copies) to 1 (attends to that token only and
lowers it most); chance 0.
"""

from nca_interp import probe, repeated_tokens


@probe(
    stimulus=repeated_tokens(), reads="heads", unit="mass x rank advantage", low=-1.0, high=1.0, chance=0.0, hit=0.2
)  # fmt: skip
def anti_induction(heads):
    """Return score[batch, head]."""
    back, queries = heads.stimulus.period - 1, heads.repeat_queries()
    followed = heads.tokens[:, None, queries - back]  # what came after x[q] the first time
    return -(heads.offset(back).values[:, :, queries] * heads.rank_advantage(followed, queries)).mean(-1)
