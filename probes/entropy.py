"""Entropy: how widely a head attends, as a share of the widest possible.

Natural text: mean over queries q >= 1 of -sum_k A[q, k] ln A[q, k] / ln(q + 1). Vig &
Belinkov 2019, arXiv 1906.04284. Range 0 (one key) to 1 (all keys alike); chance, uniform attention, is 1.
"""

from nca_interp import natural, probe


@probe(stimulus=natural(), unit="share of ln(q + 1)", low=0.0, high=1.0)
def entropy(attention):
    """Return score[batch, head]."""
    return attention.entropy(normalised=True).mean()
