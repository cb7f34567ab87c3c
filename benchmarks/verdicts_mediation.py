"""Size, power and coverage of the verdicts on what heads mediate of a gain, and on what hindering training takes from it.

python benchmarks/verdicts_mediation.py > docs/statistics_mediation_measured.md     (minutes; --studies 50 for a look)

Each cell is a share of so many simulated studies (analysis/mediation/simulate.py): gains of 0.1 nats with a standard deviation of 0.03
over seeds, final losses with 0.01 of their own, random sets of heads that mediate 0.1 of the gain with 0.05 over sets, where a row does
not say otherwise. Its standard error is sqrt(p (1 - p) / studies). What judges them is what judges a study.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from nca_interp.analysis.mediation.judge import (
    LEAVES,
    MEDIATES,
    NO_GAIN,
    NO_MORE,
    RAISES,
    REMOVES,
    Mediation,
    judge_mediation,
    judge_removal,
)
from nca_interp.analysis.mediation.simulate import Studied

SEEDS = (2, 3, 5, 8)
Rng = np.random.Generator
Rate = Callable[[int, Rng], float]
"""From seeds and a random stream to 1 (happened), 0, or NaN (this study does not count)."""


def said(word: str, **fields: Any) -> Rate:
    """A verdict that begins with `word` of the first question."""
    return lambda n, rng: float(Studied(n=n, **fields).judged(rng).verdict.startswith(word))


def anywhere(word: str, **fields: Any) -> Rate:
    """The same of any question of the study."""
    return lambda n, rng: float(
        any(m.verdict.startswith(word) for m in judge_mediation(Studied(n=n, **fields).draw(rng)))
    )


def at_margin(n: int, rng: Rng) -> float:
    """`no more than random heads` said of heads that mediate as much more than random ones as the margin, on average over seeds."""
    found = Studied(n=n, share=0.2, others=0.1, others_sd=0.0, gain=0.1, spread=0.0).judged(rng)
    return float(found.verdict == NO_MORE)


def held(share: float, **fields: Any) -> Rate:
    """The interval of the share holds it, of studies that show a gain."""

    def rate(n: int, rng: Rng) -> float:
        found: Mediation = Studied(n=n, share=share, **fields).judged(rng)
        return math.nan if math.isnan(found.share.low) else float(found.share.low <= share <= found.share.high)

    return rate


def removal(words: tuple[str, ...], removed: float, gain: float = 0.1, interval: bool = False) -> Rate:
    """One of `words` said where hindering takes `removed` of the gain; or (`interval`) the interval of that share holds it."""

    def rate(n: int, rng: Rng) -> float:
        gains = gain + 0.03 * rng.normal(size=n)
        noise = 0.01 * math.sqrt(2) * rng.normal(size=(2, n))
        (found,) = judge_removal([(gains + noise[0], (1 - removed) * gains + noise[1], 0.01)])
        if interval:
            return math.nan if math.isnan(found.share.low) else float(found.share.low <= removed <= found.share.high)
        return float(found.verdict in words)

    return rate


def rows() -> list[tuple[str, str, Rate]]:
    """(what is measured, what it should be, how)."""
    return [
        ("mediates said, heads like any, 4 random sets", "<= 0.05", said(MEDIATES, share=None)),
        ("the same, 20 random sets", "<= 0.05", said(MEDIATES, share=None, sets=20)),
        ("the same, sets differ by 0.3 of the gain", "<= 0.05", said(MEDIATES, share=None, others_sd=0.3)),
        ("mediates said anywhere of four questions, heads like any", "<= 0.05", anywhere(MEDIATES, share=None, questions=4)),
        ("mediates said, there is no gain", "<= 0.05", said(MEDIATES, share=None, gain=0.0)),
        ("a gain is found, there is none", "<= 0.05", lambda n, rng: 1 - said(NO_GAIN, share=0.5, gain=0.0)(n, rng)),
        ("no more than random heads said, excess = margin", "<= 0.05", at_margin),
        ("power: mediates said, all of the gain", "", said(MEDIATES, share=1.0)),
        ("power: the same, one of four questions", "", said(MEDIATES, share=1.0, questions=4)),
        ("power: mediates said, half of the gain", "", said(MEDIATES, share=0.5)),
        ("power: the same, gain of 0.05 nats", "", said(MEDIATES, share=0.5, gain=0.05)),
        ("power: no more than random heads said, share 0", "", said(NO_MORE, share=0.0)),
        *((f"interval holds a share of {s:g}, gain 0.1", "0.95", held(s)) for s in (0.0, 0.5, 1.0)),
        *((f"interval holds a share of {s:g}, gain 0.03", "0.95", held(s, gain=0.03)) for s in (0.0, 0.5, 1.0)),
        ("hindering: removes or raises said, nothing is removed", "<= 0.05", removal((REMOVES, RAISES), 0.0)),
        ("hindering: leaves said, a tenth (= margin) is removed", "<= 0.05", removal((LEAVES,), 0.1)),
        ("power: removes said, all of the gain", "", removal((REMOVES,), 1.0)),
        ("power: removes said, half of the gain", "", removal((REMOVES,), 0.5)),
        ("power: leaves said, nothing is removed", "", removal((LEAVES,), 0.0)),
        ("hindering: interval holds a removed share of 0.5", "0.95", removal((), 0.5, interval=True)),
        ("hindering: interval holds a removed share of 1", "0.95", removal((), 1.0, interval=True)),
    ]  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies a cell")
    parser.add_argument(
        "--only", default="", help="rows whose name contains this; every row has random streams of its own"
    )
    asked = parser.parse_args()
    studies = asked.studies
    print(
        f"# Measured rates of verdicts on mediation\n\n`python benchmarks/verdicts_mediation.py --studies {studies}`\n"
    )
    print(f"| what | should be | {' | '.join(f'n = {n}' for n in SEEDS)} |\n|---|---|{'---|' * len(SEEDS)}")
    for what, should, rate in (row for row in rows() if asked.only in row[0]):
        means = []
        for n in SEEDS:
            rng = np.random.default_rng([zlib.crc32(what.encode()), n])
            found = [value for value in (rate(n, rng) for _ in range(studies)) if not math.isnan(value)]
            means.append(f"{np.mean(found):.3f}" if len(found) >= max(1, studies // 10) else "few show a gain")
        print(f"| {what} | {should} | {' | '.join(means)} |", flush=True)


if __name__ == "__main__":
    main()
