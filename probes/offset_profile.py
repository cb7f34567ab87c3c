"""Offset profile: the distance that a head prefers, whatever it is for.

Random tokens (a block of n = 64, twice, T in all). m(d) = mean over queries q >= d of A[q, q - d], for d = 0 to T / 2
(further back few queries have such a key). offset_peak: the d where m, averaged over sequences, is largest; 1 for a
previous-token head, n - 1 for an induction head. Range 0 to T / 2; chance, uniform attention, is 0, the distance that
every query has. offset_peak_mass: m there. Range 0 to 1; chance is the mean of 1 / (q + 1). It is a maximum, so even a
random head is above chance: compare with randomly initialised models. Elhage et al. 2021, A Mathematical Framework for
Transformer Circuits (positional heads).
"""

from nca_interp import probe, repeated_tokens


def profile(attention):
    """m [batch, head, offset] and its peak [head]."""
    mass = attention.profile(attention.length // 2 + 1)
    return mass, mass.mean(0).argmax(-1)


@probe(stimulus=repeated_tokens(), unit="tokens", low=0.0)
def offset_peak(attention):
    """Return score[batch, head]."""
    mass, peak = profile(attention)
    return peak.float().expand(len(mass), -1)


@probe(stimulus=repeated_tokens(), unit="attention mass", low=0.0, high=1.0, hit=0.3)
def offset_peak_mass(attention):
    """Return score[batch, head]."""
    mass, peak = profile(attention)
    return mass.gather(-1, peak.expand(len(mass), -1)[..., None])[..., 0]
