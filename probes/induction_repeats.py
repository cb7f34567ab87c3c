"""Induction by repeat: prefix matching in the second, third and fourth repeat of a block, separately.

A block of n = 25 different random tokens, four times (the length of Olsson et al. 2022, arXiv 2209.11895, appendix).
induction_repeat_r: mean over the queries q of repeat r of the attention on all keys whose predecessor equals x[q], the
sum over j = 1 to r - 1 of A[q, q - j n + 1]. A head that copies at once scores alike in all repeats, one that averages
over many examples rises. Range 0 to 1; chance is uniform attention, the mean of (r - 1) / (q + 1) over those queries.
"""

from nca_interp import probe, repeated_tokens

FOUR = repeated_tokens(period=25, repeats=4)


def prefix_matching(attention, repeat):
    """Mean mass in one repeat on every key that follows an earlier copy of the query's token."""
    n = attention.stimulus.period
    total = attention.offset(n - 1)
    for earlier in range(2, repeat):
        total = total + attention.offset(earlier * n - 1)
    return total.repeat_mean(repeat)


@probe(stimulus=FOUR, unit="attention mass", low=0.0, high=1.0, hit=0.3)
def induction_repeat_2(attention):
    """Return score[batch, head]."""
    return prefix_matching(attention, 2)


@probe(stimulus=FOUR, unit="attention mass", low=0.0, high=1.0, hit=0.3)
def induction_repeat_3(attention):
    """Return score[batch, head]."""
    return prefix_matching(attention, 3)


@probe(stimulus=FOUR, unit="attention mass", low=0.0, high=1.0, hit=0.3)
def induction_repeat_4(attention):
    """Return score[batch, head]."""
    return prefix_matching(attention, 4)
