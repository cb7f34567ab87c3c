"""First token (attention sink): attention to the first token of the sequence.

Random tokens (a block of 64, twice): mean over all queries q of A[q, 0]; a head above 0.3 is called a sink (Gu et al.
2024, arXiv 2410.10781). Range 0 to 1; chance is uniform attention, the mean of 1 / (q + 1).
"""

from nca_interp import probe, repeated_tokens


@probe(stimulus=repeated_tokens(period=64), unit="attention mass", low=0.0, high=1.0)
def first_token(attention):
    """Return score[batch, head]."""
    return attention.first().mean()
