"""Complexity of token sequences: pure functions of integer rows [n, length] (docs/measures.md).

Entropies are in nats and carry the Miller-Madow correction, (kinds seen - 1) / (2 n). Everything but gzip is unchanged
by relabelling the tokens.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt

from nca_interp.data.complexity.gzip_score import GzipReach, gzip_floor_ceiling, gzip_ratio
from nca_interp.data.rng import below, stream_key

Rows = npt.NDArray[Any]
"""Integer tokens [n, length]."""
Floats = npt.NDArray[np.float64]
SHUFFLES = 4
"""Permutations of each row whose mean mutual information is taken as its bias."""


def entropy(counts: Rows) -> float:
    """Entropy in nats of observed counts with the Miller-Madow correction (Miller 1955)."""
    seen = counts[counts > 0].astype(float)
    n = seen.sum()
    share = seen / n
    return float(-(share * np.log(share)).sum() + (len(seen) - 1) / (2 * n))


def row_entropies(rows: Rows) -> Floats:
    """Entropy in nats of the tokens of each row [n]."""
    return np.array([entropy(np.unique(row, return_counts=True)[1]) for row in rows])


def blocks(rows: Rows, size: int) -> Rows:
    """[n, length - size + 1] number of each block of `size` neighbours, equal where the blocks are."""
    codes = np.unique(rows, return_inverse=True)[1].reshape(rows.shape)
    found = codes
    for more in range(1, size):
        # renumbering keeps the code of a block below (blocks seen) * (kinds), far inside 64 bits
        found = found[:, :-1] * (codes.max() + 1) + codes[:, more:]
        found = np.unique(found, return_inverse=True)[1].reshape(found.shape)
    return found


def block_entropy(rows: Rows, size: int) -> float:
    """Entropy in nats of all blocks of `size` neighbours, pooled over the rows."""
    return entropy(np.bincount(blocks(rows, size).ravel()))


def conditional_entropy(rows: Rows, before: int = 1) -> float:
    """H(x[t] | x[t - before .. t - 1]) in nats over rows [n, length]: block entropy minus that of its first members."""
    return block_entropy(rows, before + 1) - block_entropy(rows[:, :-1], before)


def row_conditional_entropies(rows: Rows) -> Floats:
    """H(x[t] | x[t-1]) in nats within each row [n]."""
    return np.array([conditional_entropy(row[None]) for row in rows])


class Gzip(NamedTuple):
    """gzip ratios of rows, and what rows of this length, alphabet and dtype can reach."""

    ratio: Floats
    """[n] compressed / raw bytes."""
    normalised: Floats
    """[n] 0: a constant row, 1: iid uniform tokens."""
    reach: GzipReach


def gzip_rows(rows: Rows, alphabet: int, dtype: npt.DTypeLike) -> Gzip:
    """gzip ratio (level 9, header included) of each row stored little-endian as `dtype`."""
    stored = np.dtype(dtype).newbyteorder("<")
    reach = _reach(rows.shape[1], alphabet, stored.str)
    ratio = np.array([gzip_ratio(row.tobytes()) for row in np.asarray(rows).astype(stored)])
    return Gzip(ratio, (ratio - reach.floor) / (reach.ceiling - reach.floor), reach)


@cache
def _reach(length: int, alphabet: int, dtype: str) -> GzipReach:
    return gzip_floor_ceiling(length, alphabet, dtype)


class LempelZiv(NamedTuple):
    """Lempel-Ziv (1976) complexity of rows."""

    phrases: npt.NDArray[np.int64]
    """[n] phrases of the exhaustive history."""
    normalised: Floats
    """[n] 0: a constant row, 1: iid uniform tokens of the same length and alphabet."""
    rate: Floats
    """[n] phrases * ln(length) / length, nats a token: tends to the entropy rate, slowly."""


def lempel_ziv(rows: Rows, alphabet: int) -> LempelZiv:
    """LZ76 phrase count of each row."""
    phrases = lz76(rows)
    length = rows.shape[1]
    floor, ceiling = min(2, length), _phrase_ceiling(length, alphabet)
    return LempelZiv(phrases, (phrases - floor) / max(ceiling - floor, 1), phrases * np.log(length) / length)


def lz76(rows: Rows) -> npt.NDArray[np.int64]:
    """[n] phrases of each row's exhaustive history: each phrase is the shortest string not seen before it ends."""
    from nca_interp.data.complexity.kernels import phrases_of_rows

    out = np.empty(len(rows), np.int64)
    phrases_of_rows(np.ascontiguousarray(rows, dtype=np.int64), out)
    return out


@cache
def _phrase_ceiling(length: int, alphabet: int) -> int:
    return int(lz76(below(stream_key(0, "lz ceiling"), np.arange(length), alphabet)[None])[0])


class MutualInformation(NamedTuple):
    """Mutual information of tokens `lags` apart, in nats, within each row."""

    lags: npt.NDArray[np.int64]
    """[lags]"""
    value: Floats
    """[n, lags] plug-in estimate minus `bias`; iid rows give 0 on average."""
    bias: Floats
    """[n, lags] mean plug-in estimate of `SHUFFLES` permutations of the row."""


def default_lags(length: int, n: int = 24) -> npt.NDArray[np.int64]:
    """About `n` lags from 1 to a quarter of the row, evenly spaced in their logarithm."""
    return np.unique(np.geomspace(1, max(length // 4, 1), n).round().astype(np.int64))


def mutual_information(
    rows: Rows, lags: npt.ArrayLike | None = None, shuffles: int = SHUFFLES, seed: int = 0
) -> MutualInformation:
    """I(x[t]; x[t + d]) within each row, its bias by shuffles taken off (Lin, Tegmark 2017, arXiv 1606.06737).

    Within a row, because rows of different rules differ in their unigram distribution, which alone gives pooled
    tokens a mutual information that never decays.
    """
    from nca_interp.data.complexity.kernels import lagged_information

    chosen = default_lags(rows.shape[1]) if lags is None else np.atleast_1d(np.asarray(lags, dtype=np.int64))
    if not 0 < chosen.min() <= chosen.max() < rows.shape[1]:
        raise ValueError(f"lags: {chosen.min()} to {chosen.max()}; legal: 1 to {rows.shape[1] - 1}")
    dense = np.stack([_by_appearance(row) for row in rows])
    kinds = dense.max(axis=1) + 1
    plain, bias, once = (np.zeros((len(rows), len(chosen))) for _ in range(3))
    lagged_information(dense, kinds, chosen, plain)
    for repeat in range(shuffles):
        lagged_information(shuffled(dense, seed, repeat), kinds, chosen, once)
        bias += once / shuffles
    return MutualInformation(chosen, plain - bias, bias)


def _by_appearance(row: Rows) -> npt.NDArray[np.int64]:
    """The row with its kinds numbered in the order in which they appear."""
    _, first, kinds = np.unique(row, return_index=True, return_inverse=True)
    return first.argsort().argsort()[kinds]


def shuffled(rows: Rows, *seed: int) -> Rows:
    """Each row permuted; by its own content, so that the result does not depend on the rows beside it."""
    seeds = (np.array([*seed, crc32(row.tobytes())], np.uint32) for row in rows)
    return np.stack([np.random.default_rng(one).permutation(row) for one, row in zip(seeds, rows, strict=True)])


class Decay(NamedTuple):
    """How mutual information falls with the lag: A d^-exponent against A exp(-d / length)."""

    exponent: float
    """Of the power law."""
    length: float
    """Of the exponential, in tokens."""
    aic_power: float
    aic_exponential: float
    flaw: str = ""
    """Why neither law can describe this curve (`undescribed`); empty where one may."""

    @property
    def preference(self) -> float:
        """AIC of the exponential minus that of the power law: positive where the power law fits better."""
        return self.aic_exponential - self.aic_power


def mi_decay(mi: MutualInformation) -> Decay:
    """Least squares of both laws on the mean over rows, weighted by its standard error where there are several rows."""
    from scipy.optimize import least_squares

    mean = mi.value.mean(axis=0)
    if len(mi.value) > 1:
        error = mi.value.std(axis=0, ddof=1) / len(mi.value) ** 0.5
        error = np.maximum(error, max(float(error.max()), 1e-12) * 1e-3)
    else:
        error = np.full(len(mean), max(float(np.abs(mean).max()), 1e-12))
    lags, top = mi.lags.astype(float), max(float(np.abs(mean).max()), 1e-12)

    def fit(law: Any, start: list[float], low: list[float], high: list[float]) -> tuple[Floats, float]:
        found = least_squares(lambda p: (top * p[0] * law(lags, p[1]) - mean) / error, start, bounds=(low, high))
        return found.x, float(2 * found.cost) + 4  # Gaussian errors of known size: AIC = chi^2 + 2 * parameters

    power, aic_power = fit(lambda d, b: d**-b, [1.0, 1.0], [0, 0], [10, 10])
    rate, aic_rate = fit(lambda d, r: np.exp(-(d - 1) * r), [1.0, 0.1], [0, 1e-6], [10, 20])
    return Decay(float(power[1]), float(1 / rate[1]), aic_power, aic_rate, undescribed(mi))


def undescribed(mi: MutualInformation, level: float = 0.01) -> str:
    """Why a law that falls towards 0 cannot describe the mean over rows: significantly below 0 at a lag, or above the lag
    before (t-tests over rows at `level`, Bonferroni over the lags). Empty where neither is so, and for a single row.
    """
    from scipy.special import stdtrit

    n, lags = mi.value.shape
    if n < 2:
        return ""
    limit = float(stdtrit(n - 1, 1 - level / lags))

    def t(values: Floats) -> Floats:
        error = values.std(axis=0, ddof=1) / n**0.5
        return values.mean(axis=0) / np.maximum(error, 1e-12)

    below, above = np.flatnonzero(t(mi.value) < -limit), 1 + np.flatnonzero(t(np.diff(mi.value, axis=1)) > limit)
    if len(below):
        return f"mutual information lies below 0 at lag {mi.lags[below[-1]]}: the shuffles take off too much where tokens cluster"
    if len(above):
        top = above[mi.value[:, above].mean(axis=0).argmax()]
        return f"mutual information rises again at lag {mi.lags[top]}, which no law of decay does"
    return ""


def rank_slope(rows: Rows, max_rank: int = 1000) -> float:
    """Minus the least-squares slope of ln frequency on ln rank, ranks 1 to `max_rank` that occur; 0 for a single kind."""
    counts = np.sort(np.unique(rows, return_counts=True)[1])[::-1][:max_rank]
    if len(counts) < 2:
        return 0.0
    return float(-np.polyfit(np.log(np.arange(1, len(counts) + 1)), np.log(counts), 1)[0])
