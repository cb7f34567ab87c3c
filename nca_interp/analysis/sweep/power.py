"""What the arms of a study can show of complexity matching, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator

from nca_interp.analysis.sweep.arms import arms_of
from nca_interp.analysis.verdicts.hypotheses import MIN_ARMS, detectable
from nca_interp.analysis.verdicts.statistics import POWER
from nca_interp.config import Study

TESTS = 4
"""Of the declared family at most: distance, entropy, learnability, distance between domains."""


def arms_plan(study: Study) -> Iterator[str]:
    """Lines for `--dry-run`; none for a study without arms of another complexity."""
    arms = arms_of(study)
    if len(arms) < 2:
        return
    if len(arms) < MIN_ARMS:
        yield f"matching    {len(arms)} sources of automata: too few to ask what gain follows, it takes {MIN_ARMS}"
        return
    size = min(detectable(len(arms), TESTS), 1.0)
    yield (
        f"matching    {len(arms)} sources of automata, the unit of the test: a rank correlation of {size:.2f} with gain is found in "
        f"{POWER:.0%} of cases,"
    )
    yield "            less what its rivals explain, if all models beat the mode and a copy on new rules; others are left out (docs/sweep.md)"
    if len(study.domains) == 1:
        yield "            one domain: that the best complexity moves with the domain cannot be told"
