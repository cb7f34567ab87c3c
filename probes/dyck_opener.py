"""Matching opener: does a head find the bracket that is to be closed?

Nested bracket strings; c is a closing bracket and o(c) its opener. dyck_opener: mean of A[c - 1, o(c)], the query that
predicts c. dyck_match: mean of A[c, o(c)], the closing bracket looking back. Both over the c with o(c) < c - 1: of the
others, about half, the opener is the token before, where a head that matches nothing may look. A network that closes
brackets has to attend to the last unclosed opener: Ebrahimi et al. 2020, arXiv 2010.04303; brackets as
pre-pre-training: Hu et al. 2025, arXiv 2502.19249. Range 0 to 1; chance is uniform attention, the mean of 1 / (q + 1)
over the queries q.
"""

import numpy as np

from nca_interp import dyck, probe


def at_openers(attention, ahead):
    """Mean mass on the opener of the bracket that stands `ahead` places after the query."""
    opener = attention.stimulus.opener
    wanted = np.full(opener.shape, -2)
    wanted[:, : attention.length - ahead] = opener[:, ahead:]
    places = np.arange(attention.length)
    wanted = np.where(wanted < places + ahead - 1, wanted, -2)
    return attention.matching(wanted, np.tile(places, (len(opener), 1))).mean()


@probe(stimulus=dyck(), unit="attention mass", low=0.0, high=1.0, hit=0.3)
def dyck_opener(attention):
    """Return score[batch, head]."""
    return at_openers(attention, 1)


@probe(stimulus=dyck(), unit="attention mass", low=0.0, high=1.0, hit=0.3)
def dyck_match(attention):
    """Return score[batch, head]."""
    return at_openers(attention, 0)
