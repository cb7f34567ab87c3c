"""NCA stencil: attention to the true causes of the predicted patch, its 3x3 neighbourhood in the previous grid.

NCA validation rows. nca_stencil: mean over the queries q = p - 1 that predict a patch token p of grid t >= 1 of the
attention on the 3x3 toroidal neighbourhood of that patch in grid t - 1. Range 0 to 1; chance is uniform attention, the
mean of 9 / (q + 1). nca_stencil_excess, over t >= 2: mass per key of the stencil minus the mean mass per key of its
controls (the same stencil in grid t - 2; the stencil at the torus antipode in grid t - 1), times the stencil's size. It
separates the place in space from mere recency. Range -1 to 1 or below where a control holds fewer keys; chance 0.
"""

from nca_interp import nca_frames, probe
from nca_interp.analysis.stimuli.geometry import controls, stencil


@probe(stimulus=nca_frames(), unit="attention mass", low=0.0, high=1.0, hit=0.3)
def nca_stencil(attention):
    """Return score[batch, head]."""
    return attention.to(stencil(attention.stimulus.frame, attention.length)).mean()


@probe(stimulus=nca_frames(), unit="attention mass", high=1.0, hit=0.1)
def nca_stencil_excess(attention):
    """Return score[batch, head]."""
    frame, length = attention.stimulus.frame, attention.length
    true, others = stencil(frame, length), controls(frame, length)
    size = true.sum(1).max()
    excess = attention.to(true)
    for keys in others:
        excess = excess - attention.to(keys) * (size / keys.sum(1).max() / len(others))
    return excess.mean()
