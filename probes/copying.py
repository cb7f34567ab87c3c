"""Copying: does a head raise the logit of the token that it attends to?

A block of n = 64 different random tokens, twice. A head's output at query q goes through W_O, the final norm and the
unembedding; r is the rank advantage of the most-attended token among the n tokens of the context: of the n - 1 others, the
share whose logit the head puts below its, less the share that it puts above. Mean over the queries of the second block
of r. The attended token's logit: Olsson et al. 2022, arXiv 2209.11895, appendix; judged by rank, as in the copy score of
Wang et al. 2022, arXiv 2211.00593: the share of the raised logits, theirs, stays near 1 / n for any head of a real
model. Range -1 (always the lowest) to 1 (always the highest); chance 0. Above 0.5 it is above three quarters of the others.
"""

from nca_interp import probe, repeated_tokens


@probe(stimulus=repeated_tokens(), reads="heads", unit="rank advantage", low=-1.0, high=1.0, chance=0.0, hit=0.5)
def copying(heads):
    """Return score[batch, head]."""
    queries = heads.repeat_queries()
    return heads.rank_advantage(heads.attended_tokens(queries), queries).mean(-1)
