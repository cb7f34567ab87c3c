"""NCA grid-time: attention to the same patch of the previous grid when a patch is predicted.

NCA rows with G tokens a grid: mean over the queries q = p - 1 that predict a patch token p of grid t >= 1 of
A[q, p - G]. Range 0 to 1; chance is uniform attention, the mean of 1 / (q + 1) over those queries. A head at a fixed
distance scores too: compare with nca_stencil_excess.
"""

from nca_interp import nca_frames, probe
from nca_interp.analysis.stimuli.geometry import patch_of_target


@probe(stimulus=nca_frames(), unit="attention mass", low=0.0, high=1.0, hit=0.3)
def nca_grid_time(attention):
    """Return score[batch, head]."""
    frame = attention.stimulus.frame
    grid, _, _, is_patch = patch_of_target(frame, attention.length)
    return attention.offset(frame.tokens - 1).mean(is_patch & (grid >= 1))
