"""Distance: how far back a head attends, relative to uniform attention.

Natural text: mean over queries q >= 1 of sum_k A[q, k] (q - k) / (q / 2). Vig & Belinkov
2019, arXiv 1906.04284. Range 0 (only itself) to 2 (only the first token); chance, uniform attention, is 1.
"""

from nca_interp import natural, probe


@probe(stimulus=natural(), unit="share of q / 2", low=0.0, high=2.0)
def distance(attention):
    """Return score[batch, head]."""
    return attention.distance(normalised=True).mean()
