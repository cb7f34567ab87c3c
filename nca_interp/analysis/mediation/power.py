"""What the planned seeds and random sets can show of mediation, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator

from nca_interp.analysis.mediation.arms import grafted_arms
from nca_interp.analysis.verdicts.statistics import ALPHA
from nca_interp.config import Study


def mediation_plan(study: Study) -> Iterator[str]:
    """Lines that say whether the questions about heads can have a verdict at all; none where the study asks none."""
    asked = [
        (min(_seeds(study, name, domain.name) for name in (arm.arm, arm.full, arm.scratch)), len(arm.random))
        for arm in grafted_arms(study) for domain in study.domains
    ]  # fmt: skip
    asked = [(n, sets) for n, sets in asked if n]
    for n, sets in sorted(set(asked)):
        least = len(asked) * (sets + 1.0) ** -n
        told = f"corrected p can be {least:.2g}"
        if n < 2 or least >= ALPHA:
            needed = next(k for k in range(2, 64) if len(asked) * (sets + 1.0) ** -k < ALPHA) if sets else None
            told = (
                f'no verdict "mediates" is possible; legal: {needed} seeds or more'
                if needed
                else "no random set to compare with"
            )
        yield f"mediation   {len(asked)} question(s) about heads together: with {n} seed(s) and {sets} random set(s) {told}"


def _seeds(study: Study, regime: str, domain: str) -> int:
    runs = study.regime(regime).runs
    return len(study.seeds) if runs is None else runs.get(domain, 0)
