"""Copying: does a head raise the logit of the token that it attends to?

A block of n = 64 different random tokens, twice. A head's output at query q goes through W_O, the final norm and the
unembedding; of the logits of the tokens in the context their mean is subtracted, negative ones are set to 0, and s is
the share of the most-attended token. Mean over the queries of the second block of 2 s - 1. Olsson et al. 2022, arXiv
2209.11895, appendix. Range -1 (never raised) to 1 (the only one raised); chance, a share of 1 / n, is 2 / n - 1.
"""

from nca_interp import probe, repeated_tokens


@probe(
    stimulus=repeated_tokens(period=64, sequences=4),
    reads="heads",
    unit="2 x share - 1",
    low=-1.0,
    high=1.0,
    chance=lambda stimulus: 2 / (stimulus.period + stimulus.start) - 1,
)
def copying(heads):
    """Return score[batch, layer, head]."""
    share = heads.share_on_attended()  # [batch, layer, head, query]
    return (2 * share - 1)[..., heads.stimulus.in_repeat()].mean(-1)
