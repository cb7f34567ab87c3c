"""Induction (prefix matching): attention from a token's second occurrence to the token after its first.

A block of n = 64 different random tokens, twice: mean over the queries q of the second block of A[q, q - n + 1], the
key whose predecessor equals x[q]. Olsson et al. 2022, arXiv 2209.11895, appendix. Range 0 to 1; chance is uniform
attention, the mean of 1 / (q + 1) over those queries.
"""

from nca_interp import probe, repeated_tokens


@probe(stimulus=repeated_tokens(), unit="attention mass", low=0.0, high=1.0, hit=0.3)
def induction(attention):
    """Return score[batch, head]."""
    return attention.offset(attention.stimulus.period - 1).repeat_mean()
