"""In-context learning: loss late in the context minus loss early in it.

Natural text, T = length of the context: mean loss of the 9 targets around number T - 12
minus that of the 9 around number T / 10 (counted from 0; Olsson et al. 2022, arXiv 2209.11895, take the single tokens
500 and 50 of 512 over many more documents). Unbounded, negative is better; a model that ignores its context has 0.
"""

from nca_interp import natural, probe

HALF = 4


@probe(stimulus=natural(), reads="loss", unit="nats per token", chance=0.0)
def in_context_learning(nll, stimulus):
    """Return score[batch]."""
    late, early = max(stimulus.length - 12, HALF), max(stimulus.length // 10, HALF)
    return nll[:, late - HALF : late + HALF + 1].mean(1) - nll[:, early - HALF : early + HALF + 1].mean(1)
