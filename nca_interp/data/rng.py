"""Counter-based random numbers: value = f(key, counter), so any part of a stream is had in any order on any thread.

SplitMix64 (Steele, Lea, Flood 2014): the stream of `key` at `counter` is mix(key + GOLDEN * (counter + 1)).
`nca_kernels.mix` is the same function compiled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nca_interp.base import stream_seed

U64 = npt.NDArray[np.uint64]
GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


@np.errstate(over="ignore")  # wrapping is meant; numpy warns of it for scalars only
def mix(x: U64) -> U64:
    """SplitMix64's finaliser, a bijection of 64-bit words."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def stream_key(seed: int, *names: Any) -> int:
    """64-bit key of one named stream; streams with different names are independent."""
    return (stream_seed(seed, *names) * GOLDEN) & _MASK


@np.errstate(over="ignore")
def bits(key: int | U64, counter: npt.ArrayLike) -> U64:
    """64 random bits for each pair of key and counter (broadcast)."""
    counters = np.asarray(counter, dtype=np.uint64)
    return mix(np.asarray(key, dtype=np.uint64) + np.uint64(GOLDEN) * (counters + np.uint64(1)))


def uniforms(key: int | U64, counter: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 bits."""
    return np.asarray((bits(key, counter) >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def below(key: int | U64, counter: npt.ArrayLike, n: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Uniform integers in [0, n), n < 2**31 (multiply-shift; bias below n / 2**32)."""
    product = (bits(key, counter) >> np.uint64(32)) * np.asarray(n, dtype=np.uint64)
    return (product >> np.uint64(32)).astype(np.int64)
