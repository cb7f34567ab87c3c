"""First token (attention sink): attention to the first token of the sequence.

Random tokens (a block of 64, twice). first_token: mean over all queries q of A[q, 0]. Range 0 to 1; chance is uniform
attention, the mean of 1 / (q + 1). sink: share of the sequences in which that mean is above 0.3; its mean over heads is
the sink rate (Gu et al. 2024, arXiv 2410.10781). Range 0 to 1; chance 0.
"""

from nca_interp import probe, repeated_tokens

SINK = 0.3


@probe(stimulus=repeated_tokens(), unit="attention mass", low=0.0, high=1.0, hit=SINK)
def first_token(attention):
    """Return score[batch, head]."""
    return attention.first().mean()


@probe(stimulus=repeated_tokens(), unit="share of sequences", low=0.0, high=1.0, hit=0.5)
def sink(attention):
    """Return score[batch, head]."""
    return (attention.first().mean() > SINK).float()
