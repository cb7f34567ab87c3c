"""Previous token: attention to the token just before the query.

Random tokens (a block of 64, twice): mean over queries q >= 1 of A[q, q - 1]. Elhage et al. 2021, A Mathematical
Framework for Transformer Circuits. Range 0 to 1; chance is uniform attention, the mean of 1 / (q + 1) over those queries.
"""

from nca_interp import probe, repeated_tokens


@probe(stimulus=repeated_tokens(), unit="attention mass", low=0.0, high=1.0, hit=0.3)
def previous_token(attention):
    """Return score[batch, head]."""
    return attention.offset(1).mean()
