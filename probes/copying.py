"""Copying: does a head raise the logit of the token that it attends to?

A block of n = 64 different random tokens, twice. A head's output at query q goes through W_O, the final norm and the
unembedding; of the logits of the tokens in the context their mean is subtracted, negative ones are set to 0, and s is
the share of the most-attended token. Mean over the queries of the second block of 2 s - 1. Olsson et al. 2022, arXiv
2209.11895, appendix. Range -1 (never raised) to 1 (the only one raised); chance, a share of 1 / n, is 2 / n - 1.
"""

from nca_interp import probe, repeated_tokens


def chance(stimulus):
    """Every token of the context is as likely raised as another."""
    return 2 / (stimulus.start + stimulus.period) - 1


@probe(stimulus=repeated_tokens(), reads="heads", unit="2 x share - 1", low=-1.0, high=1.0, chance=chance, hit=0.0)
def copying(heads):
    """Return score[batch, head]."""
    queries = heads.repeat_queries()
    return (2 * heads.share(heads.attended_tokens(queries), queries) - 1).mean(-1)
