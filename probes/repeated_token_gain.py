"""Repeated-token gain: how much better random tokens are predicted when they come a second time.

A block of n = 64 different random tokens, twice: mean loss of the first block minus that of the second, in nats a
token, counting in each block its tokens 2 to n (the second block's first token cannot be known to start a repeat).
Elhage et al. 2021; the behaviour that induction heads are for. Unbounded; without in-context copying 0.
"""

from nca_interp import probe, repeated_tokens


@probe(stimulus=repeated_tokens(), reads="loss", unit="nats per token", chance=0.0)
def repeated_token_gain(nll, stimulus):
    """Return score[batch]: nll[:, i] is the loss of token i + 1."""
    first, n = stimulus.start, stimulus.period
    return nll[:, first : first + n - 1].mean(1) - nll[:, first + n : first + 2 * n - 1].mean(1)
