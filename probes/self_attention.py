"""Self: attention of a token to itself.

Random tokens (a block of 64, twice): mean over all queries q of A[q, q]. Clark et al. 2019, arXiv 1906.04341. Range 0
to 1; chance is uniform attention, the mean of 1 / (q + 1).
"""

from nca_interp import probe, repeated_tokens


@probe(stimulus=repeated_tokens(), unit="attention mass", low=0.0, high=1.0, hit=0.3)
def self_attention(attention):
    """Return score[batch, head]."""
    return attention.self_().mean()
