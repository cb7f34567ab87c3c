"""Error rates of the hypotheses of a sweep, on simulated sweeps of known truth.

python benchmarks/verdicts_sweep.py > docs/statistics_sweep_measured.md     (--studies 40 for a look)

Each cell is the share of simulated studies in which a hypothesis was called supported or contradicted; its standard error is
sqrt(p (1 - p) / studies). What judges them is what judges a study.
"""

from __future__ import annotations

import argparse
import zlib
from collections import Counter

import numpy as np

from nca_interp.analysis.verdicts.hypotheses import (
    BETWEEN,
    CANNOT_TELL,
    CONTRADICTED,
    ENTROPY,
    LEARNABILITY,
    MATCHING,
    SUPPORTED,
    weigh,
)
from nca_interp.analysis.verdicts.simulate_sweep import TRUTHS, Sweep

ARMS = (5, 6, 8, 12, 16)
PERMUTATIONS = 999
"""Of more than eight arms, fewer than a study takes, so that this ends."""
DESIGNS: dict[str, dict[str, object]] = {
    "corpora inside the range of the arms, two domains": {},
    "corpora inside the range, one domain": {"corpora": (0.65,)},
    "corpora at the upper end: distance and entropy nearly one order": {"corpora": (0.97, 0.95)},
    "arms differ little for other reasons": {"own": 0.2, "noise": 0.1},
}


def counted(sweep: Sweep, studies: int) -> Counter[str]:
    """How often each (hypothesis, verdict) was said."""
    rng = np.random.default_rng([zlib.crc32(repr(sweep).encode())])
    said: Counter[str] = Counter()
    for _ in range(studies):
        found = weigh(sweep.draw(rng), PERMUTATIONS)
        told = {(t.predictor, t.verdict) for t in found}
        said.update(f"{predictor} {verdict}" for predictor, verdict in told)
        said["false"] += any(v in (SUPPORTED, CONTRADICTED) and not true(p, v, sweep.truth) for p, v in told)
    return said


def true(predictor: str, verdict: str, truth: str) -> bool:
    """Whether a verdict says what the simulation is."""
    return verdict == SUPPORTED and predictor in ((MATCHING, BETWEEN) if truth == MATCHING else (truth,))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--only", default="", help="only designs whose name holds this text")
    options = parser.parse_args()
    studies = options.studies
    print("# Measured error rates of the hypotheses of a sweep\n")
    print(
        f"`python benchmarks/verdicts_sweep.py --studies {studies}`; what is simulated: `nca_interp/analysis/verdicts/simulate_sweep.py`."
    )
    print(
        f'Of more than eight arms {PERMUTATIONS} random orders are tried. "False": anything supported or contradicted that is not so.'
    )
    for design, changed in ((d, c) for d, c in DESIGNS.items() if options.only in d):
        print(f"\n## {design[0].upper()}{design[1:]}\n")
        print(
            "| gain follows | arms | false | distance | between domains | entropy | learnability | cannot tell: distance |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for truth in TRUTHS:
            for arms in ARMS:
                said = counted(Sweep(truth, arms, **changed), studies)  # type: ignore[arg-type]
                cells = [said["false"], *(said[f"{p} {SUPPORTED}"] for p in (MATCHING, BETWEEN, ENTROPY, LEARNABILITY)), said[f"{MATCHING} {CANNOT_TELL}"]]  # fmt: skip
                print(f"| {truth} | {arms} | {' | '.join(f'{n / studies:.3f}' for n in cells)} |", flush=True)


if __name__ == "__main__":
    main()
