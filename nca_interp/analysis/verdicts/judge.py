"""From all planned comparisons of a study, together, to a verdict each: the policy of docs/statistics.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from nca_interp.analysis.verdicts.crossed import (
    Estimate,
    Items,
    half_width,
    p_difference,
    p_equivalence,
    paired,
    with_documents,
    with_problems,
)
from nca_interp.analysis.verdicts.statistics import ALPHA, holm, sign_flip_floor, sign_flip_p, standard_effect

ONE_SEED, NO_PAIR = "no verdict (one seed)", "no verdict (no common seed)"
INTERIM, CANNOT_TELL, INCONCLUSIVE = "inconclusive (interim)", "cannot tell", "inconclusive"
FEWEST = 5
"""Problems that models of one regime at least must get right, and wrong, on average, for an accuracy to be able to move."""


@dataclass(frozen=True)
class Case:
    """One planned comparison and what there is of it."""

    differences: tuple[float, ...]
    """Treated minus control, one a planned seed that both have."""
    margin: float
    higher_is_better: bool = False
    items: tuple[Items, ...] = ()
    """Of the same seeds, where single documents or problems are known."""
    planned: int | None = None
    """Seeds that were planned; None: those that are there."""
    pending: bool = False
    """Whether a planned run has not ended."""
    lost: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Runs without a usable result: of the treated regime, of the control."""
    primary: bool = False
    """Tested alone and first; the others count only if it shows a difference."""
    estimate: Estimate = field(init=False)

    def __post_init__(self) -> None:
        values = np.asarray(self.differences, dtype=float)
        if not np.isfinite(values).all():
            raise ValueError(f"differences: {list(self.differences)}; legal: finite numbers")
        if not self.margin > 0:
            raise ValueError(f"margin: {self.margin}; legal: positive")
        found = paired(values) if len(values) else Estimate(0, math.nan, math.nan)
        if self.items and len(values) > 1:
            found = (with_problems if self.higher_is_better else with_documents)(found, list(self.items))
        object.__setattr__(self, "estimate", found)

    @property
    def counts(self) -> bool:
        """Whether it is one of the comparisons to correct for: one that was planned with seeds enough for a test."""
        return (len(self.differences) if self.planned is None else self.planned) > 1

    @property
    def final(self) -> bool:
        """Whether all is there that will be, and enough of it to judge."""
        return self.counts and not self.pending and self.estimate.known and (self.higher_is_better or self.varies)

    @property
    def varies(self) -> bool:
        """Whether the seeds differ at all; losses that do not are not of separate runs."""
        return self.estimate.seed_error > 0

    @property
    def limit(self) -> str:
        """Where accuracies cannot move: "floor" or "ceiling" (both regimes, on average over seeds), else nothing."""
        if not self.items or not self.higher_is_better:
            return ""
        right = np.array([[s.treated.sum(), s.control.sum()] for s in self.items]).mean(0)
        if (right < FEWEST).all():
            return "floor"
        return "ceiling" if (len(self.items[0].weights) - right < FEWEST).all() else ""

    def without(self, index: int) -> Case:
        """The same with one seed less."""
        kept = [i for i in range(len(self.differences)) if i != index]
        items = tuple(self.items[i] for i in kept) if self.items else ()
        return Case(
            tuple(self.differences[i] for i in kept), self.margin, self.higher_is_better, items, self.planned,
            self.pending, self.lost, self.primary,
        )  # fmt: skip


class Judgement(NamedTuple):
    """What is said of one comparison; NaN where there is no number."""

    n: int
    effect: float
    low: float
    """95 % interval of this comparison alone."""
    high: float
    low_all: float
    """95 % interval for all comparisons together (Bonferroni)."""
    high_all: float
    p: float
    p_holm: float
    p_exact: float
    floor: float
    """Smallest p_exact with so many seeds, times the number of comparisons."""
    p_equivalence: float
    """Corrected with Holm over all comparisons."""
    comparisons: int
    """That p_holm is corrected for; 1 for a primary one."""
    seed_error: float
    item_error: float
    items: int
    margin: float
    detectable: float
    """Difference that a paired t-test at the strictest level of the correction finds four times in five."""
    verdict: str
    hangs_on: tuple[int, ...]
    """Positions of the seeds without which, one at a time, the verdict would be another."""


def judge(cases: Sequence[Case]) -> list[Judgement]:
    """Judge all comparisons of a study as one family. The verdict is the first that holds:

    1. "no verdict (one seed)", "no verdict (no common seed)", "inconclusive (interim)" where planned runs are to come;
    2. "cannot tell": no spread, accuracies at floor or ceiling, or a loss of runs that could have made the verdict;
    3. "better" or "worse": p of no difference, corrected with Holm, below 0.05; with ", negligibly" where 4 holds as well;
    4. "equivalent": p of a difference as large as the margin, corrected with Holm, below 0.05;
    5. "inconclusive".
    """
    differ, same = _p_values(cases)
    return [_judgement(case, index, cases, differ, same) for index, case in enumerate(cases)]


def _p_values(cases: Sequence[Case]) -> tuple[list[float], list[float]]:
    """Corrected p of no difference, and of no equivalence; what is planned and not yet known counts as p = 1."""
    counted = [case.counts for case in cases]
    first = [i for i, case in enumerate(cases) if case.primary]
    raw = [p_difference(case.estimate) if case.final else 1.0 for case in cases]
    same = [p_equivalence(case.estimate, case.margin) if case.final else 1.0 for case in cases]
    rest = holm(
        [p if counts and i not in first else math.nan for i, (p, counts) in enumerate(zip(raw, counted, strict=True))]
    )
    gate = max((raw[i] for i in first), default=0.0)
    differ = [raw[i] if i in first else max(p, gate) if not math.isnan(p) else p for i, p in enumerate(rest)]
    return differ, holm([p if counts else math.nan for p, counts in zip(same, counted, strict=True)])


def _word(case: Case, differ: float, same: float) -> str:
    n = case.estimate.n
    if not case.counts or (n < 2 and not case.pending):
        return NO_PAIR if n == 0 and not case.pending else ONE_SEED
    if case.pending:
        return INTERIM
    if not case.final:
        return CANNOT_TELL
    different, equal = differ < ALPHA, same < ALPHA
    if case.limit and (equal or not different):
        return CANNOT_TELL
    word = INCONCLUSIVE
    if different:
        word = "better" if (case.estimate.effect > 0) == case.higher_is_better else "worse"
        word += ", negligibly" if equal else ""
    elif equal:
        word = "equivalent"
    # a lost run speaks against its own regime: no verdict in favour of a regime that lost some, nor that it makes no difference
    gains = {"better": case.lost[0], "worse": case.lost[1]}.get(word, case.lost[0] + case.lost[1])
    return CANNOT_TELL if gains and word != INCONCLUSIVE else word


def _hangs_on(case: Case, index: int, cases: Sequence[Case], word: str) -> tuple[int, ...]:
    """Seeds without which the word would be another, everything else as it is."""
    if not word.startswith(("better", "worse", "equivalent")):
        return ()
    found = []
    for seed in range(case.estimate.n):
        less = case.without(seed)
        differ, same = _p_values([*cases[:index], less, *cases[index + 1 :]])
        if less.estimate.n < 2 or _word(less, differ[index], same[index]) != word:
            found.append(seed)
    return tuple(found)


def _judgement(case: Case, index: int, cases: Sequence[Case], differ: list[float], same: list[float]) -> Judgement:
    estimate, n = case.estimate, case.estimate.n
    total = sum(other.counts for other in cases)
    comparisons = 1 if case.primary else max(1, sum(other.counts and not other.primary for other in cases))
    known = case.final
    word = _word(case, differ[index], same[index])
    single = half_width(estimate, 1 - ALPHA) if n > 1 and estimate.known else math.nan
    joint = half_width(estimate, 1 - ALPHA / max(1, total)) if known else math.nan
    level = ALPHA / comparisons
    return Judgement(
        n=n, effect=estimate.effect, low=estimate.effect - single, high=estimate.effect + single,
        low_all=estimate.effect - joint, high_all=estimate.effect + joint,
        p=p_difference(estimate) if known else math.nan, p_holm=differ[index] if known else math.nan,
        p_exact=sign_flip_p(case.differences) if known else math.nan,
        floor=sign_flip_floor(n, comparisons) if n > 1 else math.nan,
        p_equivalence=same[index] if known else math.nan, comparisons=comparisons,
        seed_error=estimate.seed_error, item_error=estimate.item_error, items=estimate.items, margin=case.margin,
        detectable=standard_effect(n, level) * math.hypot(estimate.seed_error, estimate.item_error) * math.sqrt(n)
        if n > 1 else math.nan,
        verdict=word, hangs_on=_hangs_on(case, index, cases, word),
    )  # fmt: skip
