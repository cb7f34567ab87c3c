"""Locality: how much of its attention a head gives to the last few tokens.

Natural text. locality_w: mean over the queries q >= w of the attention on q, q - 1, ... q - w,
for w = 1, 4 and 16. Clark et al. 2019, arXiv 1906.04341. Range 0 to 1; chance is uniform attention, the mean of
(w + 1) / (q + 1) over those queries.
"""

from nca_interp import natural, probe


def locality(attention, w):
    """Mean mass on the query's own token and the w tokens before it."""
    return attention.within(w).mean(attention.positions >= w)


@probe(stimulus=natural(), unit="attention mass", low=0.0, high=1.0)
def locality_1(attention):
    """Return score[batch, head]."""
    return locality(attention, 1)


@probe(stimulus=natural(), unit="attention mass", low=0.0, high=1.0)
def locality_4(attention):
    """Return score[batch, head]."""
    return locality(attention, 4)


@probe(stimulus=natural(), unit="attention mass", low=0.0, high=1.0)
def locality_16(attention):
    """Return score[batch, head]."""
    return locality(attention, 16)
