"""Variability over content: does a head's attention depend on what the tokens are, or on where they stand?

The first N = 16 tokens of 64 rows of natural text: sum over queries and keys of |A - M|, divided by
twice the sum of A, where M is the mean of A over the rows; averaged over rows. Vig & Belinkov 2019, arXiv 1906.04284
(there N = 10). Range 0 (the same on every row: position only) to 1; chance, uniform attention, is 0.
"""

from nca_interp import natural, probe


@probe(stimulus=natural(sequences=64, length=16), unit="share of attention", low=0.0, high=1.0)
def variability(attention):
    """Return score[batch, head]."""
    a = attention.corner(attention.length)
    return (a - a.mean(0)).abs().sum((-1, -2)) / (2 * a.sum((-1, -2)))
