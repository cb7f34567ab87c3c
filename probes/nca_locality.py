"""NCA locality: attention within the current grid, to the previous grid, and to older ones.

NCA rows. For a query q, the current grid is that of the token it predicts; the delimiter that opens a grid belongs to
it. Mean over the queries that predict a patch of a grid t >= 2 of the attention on keys of grid t (nca_current_frame),
of grid t - 1 (nca_previous_frame) and of all before, a begin-of-sequence token included (nca_older_frames); they add to
1. The rule reads grid t - 1 only (arXiv 2603.10055). Range 0 to 1; chance is uniform attention, the share of such keys.
"""

from nca_interp import nca_frames, probe
from nca_interp.analysis.stimuli.geometry import grid_start, patch_of_target


def mass(attention, newest, oldest):
    """Mean mass from the start of the grid `oldest` grids back to the end of the one `newest` grids back."""
    frame, length = attention.stimulus.frame, attention.length
    grid, _, _, is_patch = patch_of_target(frame, length)
    first, last = grid_start(frame, length, oldest), grid_start(frame, length, newest) + frame.tokens - 1
    return attention.between(first, last).mean(is_patch & (grid >= 2))


@probe(stimulus=nca_frames(), unit="attention mass", low=0.0, high=1.0)
def nca_current_frame(attention):
    """Return score[batch, head]."""
    return mass(attention, 0, 0)


@probe(stimulus=nca_frames(), unit="attention mass", low=0.0, high=1.0)
def nca_previous_frame(attention):
    """Return score[batch, head]."""
    return mass(attention, 1, 1)


@probe(stimulus=nca_frames(), unit="attention mass", low=0.0, high=1.0)
def nca_older_frames(attention):
    """Return score[batch, head]."""
    return 1.0 - nca_current_frame(attention) - nca_previous_frame(attention)
