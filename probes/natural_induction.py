"""Induction on natural text: attention to the token that followed when the same words stood there before.

Validation rows of the model's own data. A query q counts for n where its last n tokens occurred earlier in the row; its
score is the attention to all earlier keys k < q that followed such an occurrence, x[k - n .. k - 1] = x[q - n + 1 .. q].
Mean over these queries, then over the rows that have one; n = 1, 2, 3. After Olsson et al. 2022, arXiv 2209.11895 (there
on repeated random tokens). Range 0 to 1; chance is uniform attention, the mean of (number of such keys) / (q + 1). Natural
text repeats itself where it is alike anyway, so a head that looks for the same topic scores too; the random tokens of
`induction` do not have that. `natural_repeats_n`: the share of queries that count, whatever the model.
"""

import torch

from nca_interp import natural, probe


@probe(stimulus=natural(), unit="attention mass", low=0.0, high=1.0)
def natural_induction_1(attention):
    """Return score[batch, head]: after the same token."""
    return attention.after_ngram(1).mean()


@probe(stimulus=natural(), unit="attention mass", low=0.0, high=1.0)
def natural_induction_2(attention):
    """Return score[batch, head]: after the same two tokens."""
    return attention.after_ngram(2).mean()


@probe(stimulus=natural(), unit="attention mass", low=0.0, high=1.0)
def natural_induction_3(attention):
    """Return score[batch, head]: after the same three tokens."""
    return attention.after_ngram(3).mean()


def repeats(stimulus, n):
    """Share of the queries of each row whose last n tokens occurred before, with a token between [batch]."""
    shares = []
    for row in stimulus.inputs.tolist():
        first: dict[tuple[int, ...], int] = {}
        for end in range(n - 1, len(row)):
            first.setdefault(tuple(row[end - n + 1 : end + 1]), end)
        places = [(first[tuple(row[end - n + 1 : end + 1])], end) for end in range(n - 1, len(row))]
        shares.append(sum(before + 1 < end for before, end in places) / len(row))
    return torch.tensor(shares)


@probe(stimulus=natural(), reads="stimulus", unit="share of queries", low=0.0, high=1.0)
def natural_repeats_1(stimulus):
    """Return share[batch]."""
    return repeats(stimulus, 1)


@probe(stimulus=natural(), reads="stimulus", unit="share of queries", low=0.0, high=1.0)
def natural_repeats_2(stimulus):
    """Return share[batch]."""
    return repeats(stimulus, 2)


@probe(stimulus=natural(), reads="stimulus", unit="share of queries", low=0.0, high=1.0)
def natural_repeats_3(stimulus):
    """Return share[batch]."""
    return repeats(stimulus, 3)
