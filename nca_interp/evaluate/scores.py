"""Scores of answers: unbiased pass@k, accuracy normalised by chance, means over tasks. Skipped is NaN, never right or wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nca_interp.base import UserError


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that at least one of k answers, drawn without repetition from n of which `correct` are right, is right.

    1 - C(n - c, k) / C(n, k), the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, section 2.1), 0 to 1. NaN for n = 0
    (nothing was answered). ValueError where k is not 1 to n, or `correct` not 0 to n.
    """
    if n == 0:
        return math.nan
    if not 1 <= k <= n:
        raise ValueError(f"k: {k} of {n} answers; legal: 1 to {n}")
    if not 0 <= correct <= n:
        raise ValueError(f"correct: {correct} of {n} answers; legal: 0 to {n}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def check_k(ks: Sequence[int], samples: int) -> None:
    """UserError for a k that no number of samples, or this one, can give."""
    for k in ks:
        if not 1 <= k <= samples:
            raise UserError(
                f"k: {k} is larger than the {samples} answer(s) drawn to each problem (samples); legal: 1 to {samples}"
                if k > 0
                else f"k: {k}; legal: 1 to {samples} (samples)"
            )


def normalised(accuracy: float, chance: float) -> float:
    """(accuracy - chance) / (1 - chance): 0 at chance, 1 where all is right, negative below chance. NaN stays NaN."""
    if not 0 <= chance < 1:
        raise ValueError(f"chance: {chance}; legal: 0 to less than 1")
    return (accuracy - chance) / (1.0 - chance)


def macro(values: Mapping[str, float], floor: bool = False) -> float:
    """Mean over tasks, each counted once; NaN as soon as one of them is NaN (nothing of it was answered), and for none.

    `floor`: tasks below zero count as zero (arXiv 2603.10055, released bigbench.py, of accuracies normalised by chance).
    """
    known = [max(0.0, v) if floor and not math.isnan(v) else v for v in values.values()]
    return sum(known) / len(known) if known else math.nan


def mean_known(values: Sequence[float]) -> float:
    """Mean of what is not NaN; NaN where nothing is."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan
