"""NCA induction: attention to what followed earlier, in this rule, when things looked the same.

NCA rows. A patch token p of grid t is predicted at query q = p - 1. nca_induction: attention on the earlier tokens p'
(any place, any grid t' >= 1) whose own patch in grid t' - 1 equals the own patch of p in grid t - 1; mean over the
queries that have such a p'. nca_induction_stencil: the same where all cells that decide the patch are equal (4 x 4 cells
for 2 x 2 patches): with a deterministic rule p' is then the answer. Prefix matching (Olsson et al. 2022, arXiv
2209.11895) with the rule's neighbourhood as the prefix. Range 0 to 1; chance is uniform attention, the number of such p'
over q + 1. nca_match_frequency and nca_match_frequency_stencil: share of the patch queries of grids t >= 1 that have
such a p'; low where patches hardly repeat, and then the scores rest on few queries. Range 0 to 1.
"""

import numpy as np

from nca_interp import nca_frames, probe
from nca_interp.analysis.stimuli.geometry import next_patch, patch_of_target


def own_patch(stimulus):
    """Ids by the patch itself."""
    return next_patch(np.where(stimulus.places >= 0, stimulus.inputs, -1), stimulus.frame)


def neighbourhood(stimulus):
    """Ids by all cells that decide the patch."""
    return next_patch(stimulus.places, stimulus.frame)


def frequency(ids, stimulus):
    """Share of the patch queries of grids t >= 1 that have a match."""
    grid, _, _, is_patch = patch_of_target(stimulus.frame, stimulus.length)
    queries = np.flatnonzero(is_patch & (grid >= 1))
    shares = []
    for at_query, at_key in zip(*ids, strict=True):
        known, first = np.unique(at_key, return_index=True)
        place = np.searchsorted(known, at_query[queries]).clip(max=len(known) - 1)
        shares.append(
            ((known[place] == at_query[queries]) & (at_query[queries] >= 0) & (first[place] <= queries)).mean()
        )
    return np.array(shares)


@probe(stimulus=nca_frames(), unit="attention mass", low=0.0, high=1.0, hit=0.3)
def nca_induction(attention):
    """Return score[batch, head]."""
    return attention.matching(*own_patch(attention.stimulus)).mean()


@probe(stimulus=nca_frames(), unit="attention mass", low=0.0, high=1.0, hit=0.3)
def nca_induction_stencil(attention):
    """Return score[batch, head]."""
    return attention.matching(*neighbourhood(attention.stimulus)).mean()


@probe(stimulus=nca_frames(), reads="stimulus", unit="share of queries", low=0.0, high=1.0)
def nca_match_frequency(stimulus):
    """Return share[batch]."""
    return frequency(own_patch(stimulus), stimulus)


@probe(stimulus=nca_frames(), reads="stimulus", unit="share of queries", low=0.0, high=1.0)
def nca_match_frequency_stencil(stimulus):
    """Return share[batch]."""
    return frequency(neighbourhood(stimulus), stimulus)
