"""Size, power and coverage of the verdicts on heads, on what happens over training, on rule inference, read-out and matching.

python benchmarks/verdicts_heads.py > docs/statistics_heads_measured.md     (a few minutes; --studies 100 for a look)

Each cell is a share of so many simulated studies; its standard error is sqrt(p (1 - p) / studies), 0.007 for 0.05 of 1,000. What judges
them is what judges a study.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.causes.random_sets import random_sets, ranked
from nca_interp.analysis.causes.shared_heads import associate
from nca_interp.analysis.causes.top_sets import BEARING, LIGHT, top_set_rows
from nca_interp.analysis.dynamics.bend import Bend, bend
from nca_interp.analysis.dynamics.contrasts import compare_spans, decide_family
from nca_interp.analysis.dynamics.emergence import Span, level_of
from nca_interp.analysis.inference.rungs import NEAR, Context, climb
from nca_interp.analysis.matching.evidence import permuted
from nca_interp.analysis.readout.regression import jackknife, judge, make_folds, predict
from nca_interp.analysis.survival.fates import effect_bound, used_at_end
from nca_interp.analysis.verdicts.statistics import Interval

SEEDS = (2, 3, 5, 8)
LAYERS, MARGIN, PLACE = 3, 0.01, ["domain", "stage", "regime"]
Rng = np.random.Generator
Rate = Callable[[int, Rng], float]
"""From seeds and a random stream to 1 (happened), 0, or a share of one study."""


def carried(heads: int, hit: bool, word: str, family: str, sigma: float = 0.01, probes: int = 4) -> Rate:
    """`word` in a study of models whose one head carries 5 nats; the top head of the first probe is that head (`hit`) or any, the
    others lie anywhere."""

    def rate(n: int, rng: Rng) -> float:
        rows: list[dict[str, Any]] = []
        for seed in range(n):
            run, carrier = f"s{seed}", int(rng.integers(LAYERS * heads))
            rows += [{"run": run, "probe": "ablation", "head": h} for h in range(heads)]
            for number in range(probes):
                top = carrier if hit and number == 0 else int(rng.integers(LAYERS * heads))
                harm = 5.0 * (np.arange(heads) + heads * (top // heads) == carrier) + sigma * rng.normal(size=heads)
                others = np.delete(harm, top % heads)
                name = ("induction", "previous_token", *(f"p{i}" for i in range(probes)))[number]
                same = {"run": run, "by": name, "metric": "repeated_token_loss", "unit": "nats", "at": ""}
                rows.append(
                    {
                        **same,
                        "probe": "top_heads",
                        "harm": harm[top % heads],
                        "random": others.mean(),
                        "sd": others.std(),
                    }
                )
                rows += [{**same, "probe": "random_heads", "harm": v} for v in others]
        frame = pd.DataFrame(rows).assign(domain="web", stage="pt", regime="nca")
        told = [row for row in top_set_rows(frame, PLACE, MARGIN) if row["family"] == family]
        return float(any(row["verdict"] == word for row in (told[:1] if hit else told)))

    return rate


def light(n: int, rng: Rng) -> float:
    """`not load-bearing` said where the mean excess is the margin."""
    rows: list[dict[str, Any]] = []
    for seed in range(n):
        same = {"run": f"s{seed}", "by": "induction", "metric": "repeated_token_loss", "unit": "nats", "at": ""}
        rows.append({**same, "probe": "top_heads", "harm": MARGIN + 0.005 * rng.normal(), "random": 0.0, "sd": 0.0})
        rows += [{**same, "probe": "random_heads", "harm": 0.005 * v} for v in rng.normal(size=3)]
    frame = pd.DataFrame(rows).assign(domain="web", stage="pt", regime="nca", head=0)
    return float(top_set_rows(frame, PLACE, MARGIN)[0]["verdict"] == LIGHT)


def disjoint_pairs(n: int, rng: Rng) -> float:
    """p <= 0.05 of pairs of heads where one head of a layer of eight carries everything and the pair is any."""
    harms, rounds = [], []
    for _ in range(n):
        load = 5.0 * (np.arange(8) == rng.integers(8)) + 0.01 * rng.normal(size=8)
        chosen = [(0, int(h)) for h in rng.choice(8, 2, replace=False)]
        harm = [sum(load[h] for _, h in part) for part in (chosen, *random_sets(chosen, 8, 50).round)]
        harms.append(harm[0])
        rounds.append(harm[1:])
    return float(ranked(harms, rounds).p <= 0.05)


def score_harm(within: bool) -> Rate:
    """p <= 0.05 where scores and harms both rise from layer to layer and nothing else joins them."""

    def rate(n: int, rng: Rng) -> float:
        layers = np.repeat(np.arange(LAYERS), 4)
        models = [tuple(layers[:, None] + 0.5 * rng.normal(size=(12, 1)) for _ in range(2)) for _ in range(n)]
        return float(associate(models, [layers] * n if within else None, permutations=199).p[0, 0] <= 0.05)

    return rate


TOKENS = np.arange(1, 601) * 64.0
X = np.log(TOKENS / 64)
KINK = 80 * 64.0
SHAPES = {
    "line": 6 - 0.3 * X, "power law": 6 * np.exp(-0.1 * X), "power law above a floor": 2 + 4 * np.exp(-0.4 * X),
    "learning curve": 2 + 4 * ((TOKENS + 3200) / 3264) ** -0.5, "two power laws": 2 + 2 * np.exp(-0.1 * X) + 2 * np.exp(-0.6 * X),
    "kink": 6 - 0.05 * X - 0.3 * np.maximum(X - math.log(80), 0),
}  # fmt: skip


def bent(shape: str, what: Callable[[Bend], float], deviation: float, rho: float = 0.3) -> Rate:
    """Of one loss curve (seeds do not enter)."""

    def rate(n: int, rng: Rng) -> float:
        noise = rng.normal(size=len(X))
        for i in range(1, len(noise)):
            noise[i] = rho * noise[i - 1] + math.sqrt(1 - rho**2) * noise[i]
        return what(bend(TOKENS, SHAPES[shape] + deviation * noise))

    return rate


def claimed(found: Bend) -> float:
    return float(not math.isnan(found.at))


def holds(found: Bend) -> float:
    return math.nan if math.isnan(found.at) else float(found.low <= KINK <= found.high)


def reached(maximum: bool, heavy: bool = False) -> Rate:
    """A random model of 12 heads reaches the level made of five others (seeds do not enter)."""

    def rate(n: int, rng: Rng) -> float:
        drawn = rng.lognormal(-3, 1, size=(6, 12)) if heavy else rng.beta(2, 20, size=(6, 12))
        null, highest = drawn[:5], drawn[5].max()
        rows = pd.DataFrame({"null_95": [np.percentile(null, 95)]})
        return float(highest >= level_of(rows.null_95.to_numpy(float), 0.0, null.max(1) if maximum else None))

    return rate


def timing(shift: float, factor: float, words: tuple[str, ...], sd: float = 0.8) -> Rate:
    """A verdict on emergence of two regimes, `shift` doublings apart, with checkpoints `factor` apart."""

    def rate(n: int, rng: Rng) -> float:
        head = {
            "family": "regime",
            "domain": "",
            "stage": "pt",
            "probe": "",
            "treated": "",
            "control": "",
            "budget": "pt",
        }
        cells = np.floor((14 + sd * rng.normal(size=(2, n)) + np.array([[shift], [0.0]])) / math.log2(factor))
        spans = [[Span(factor**c, factor ** (c + 1)) for c in side] for side in cells]
        return float(decide_family([compare_spans(head, list(zip(*spans, strict=True)), False)])[0]["verdict"] in words)

    return rate


def rung(own: float, word: str, used: bool = False) -> Rate:
    """A rung claimed of a model of accuracy `own`, 64 rules (seeds do not enter)."""
    levels = {
        "mode": 0.58,
        "cell-mode": 0.57,
        "copy": 0.5,
        "lookup": 0.915,
        "backoff": 0.93,
        "oracle": 0.99,
        "own": own,
    }
    nothing = Interval(0.0, -0.1, 0.1)

    def rate(n: int, rng: Rng) -> float:
        rule = 0.05 * rng.normal(size=64)
        values = {name: rule + 0.02 * rng.normal(size=64) + level for name, level in levels.items()}
        found = climb(values.pop("own"), values, [str(i) for i in range(64)], Context(nothing, nothing))
        return float(found.verdict == word)

    return rate


def used(skewed: bool, persistent: bool) -> Rate:
    """`used` said of a head like 10 others (seeds do not enter): effects normal or exponential, drawn anew at each checkpoint or not."""

    def rate(n: int, rng: Rng) -> float:
        drawn = (rng.exponential if skewed else rng.normal)(size=(1 if persistent else 2, 11)) * np.ones((2, 1))
        return float(used_at_end([*drawn[:, 0]], [0.01, 0.01], [effect_bound(row[1:]) for row in drawn]))

    return rate


def readout(truth: float) -> Rate:
    """The 95 % interval of a read-out of 80 rules holds what other rules give on average (seeds do not enter)."""

    def rate(n: int, rng: Rng) -> float:
        x = rng.normal(size=(80, 6))
        y, folds = x[:, :1] + 1.5 * rng.normal(size=(80, 1)), make_folds(80)
        found = jackknife(judge(predict(x, y, folds), y, folds).spearman[:, 0])
        return float(found.low <= truth <= found.high)

    return rate


def readout_truth(draws: int = 400) -> float:
    """Mean over many sets of rules."""
    rng, values = np.random.default_rng(0), []
    for _ in range(draws):
        x = rng.normal(size=(80, 6))
        y, folds = x[:, :1] + 1.5 * rng.normal(size=(80, 1)), make_folds(80, groups=0)
        values.append(float(judge(predict(x, y, folds), y, folds).spearman[0, 0]))
    return float(np.mean(values))


def matching(arms: int, slope: float) -> Rate:
    """yes or no said of a domain where arms differ by 1 for reasons of their own, beside `slope` times their distance."""

    def rate(n: int, rng: Rng) -> float:
        distance = rng.random(arms)
        losses = slope * distance + rng.normal(size=arms) + 0.1 * rng.normal(size=(n, arms))
        return float(permuted(distance, losses)[1] < 0.05)

    return rate


def rows() -> list[tuple[str, str, Rate, int]]:
    """(what is measured, what it should be, how, one study in so many of --studies)."""
    apart, near = ("earlier", "later"), ("together",)
    return [
        ("declared: load-bearing said anywhere, top heads are any heads, 4 heads a layer", "<= 0.05", carried(4, False, BEARING, "declared"), 2),
        ("exploration: the same, 6 other probes", "<= 0.05", carried(4, False, BEARING, "exploration", probes=8), 4),
        ("declared: power, a head that carries everything, 4 heads a layer", "", carried(4, True, BEARING, "declared"), 5),
        ("declared: power, the same, 8 heads a layer", "", carried(8, True, BEARING, "declared"), 5),
        ("declared: not load-bearing said, excess = margin", "0.05", light, 2),
        ("pairs of heads, one head carries everything, p <= 0.05", "<= 0.05", disjoint_pairs, 1),
        ("score and harm rise by layer, p <= 0.05, within layers", "0.05", score_harm(True), 5),
        ("the same, all heads of a model as one", "", score_harm(False), 5),
        *((f"bend claimed, {name}, noise {sd}", "<= 0.05", bent(name, claimed, sd), 10) for name in list(SHAPES)[:-1] for sd in (0.01, 0.1)),
        ("bend claimed, line, noise 0.1, slow (0.8)", "<= 0.05", bent("line", claimed, 0.1, 0.8), 10),
        ("bend claimed, learning curve, noise 0.1, slow (0.9)", "<= 0.05", bent("learning curve", claimed, 0.1, 0.9), 10),
        ("power: bend claimed, kink, noise 0.1", "", bent("kink", claimed, 0.1), 10),
        ("interval of a claimed bend holds the kink", ">= 0.95", bent("kink", holds, 0.1), 10),
        ("a random model reaches the level of emergence", "<= 0.05", reached(True), 1),
        ("the same, log-normal scores (sigma 1)", "<= 0.05", reached(True, heavy=True), 1),
        ("the same, level = 95th percentile of heads", "", reached(False), 1),
        ("earlier or later said, no difference, checkpoints 2 apart", "<= 0.05", timing(0, 2.0, apart), 2),
        ("the same, checkpoints 1.19 apart", "<= 0.05", timing(0, 2**0.25, apart), 2),
        ("power: earlier or later, 3 doublings, checkpoints 2 apart", "", timing(3, 2.0, apart), 2),
        ("together said, 1 doubling apart, checkpoints 1.19 apart", "<= 0.05", timing(1, 2**0.25, near, 0.2), 2),
        ("power: together, no difference, checkpoints 1.19 apart", "", timing(0, 2**0.25, near, 0.2), 2),
        ("together said, no difference, checkpoints 2 apart", "0 where not offered", timing(0, 2.0, near, 0.2), 2),
        ("rung claimed at its own height: beats mode and copy", "<= 0.025", rung(0.58, "beats mode and copy"), 1),
        ("rung claimed at its own height: beats lookup", "<= 0.025", rung(0.915, "beats lookup"), 1),
        ("rung claimed at its own height: beats back-off", "<= 0.025", rung(0.93, "beats back-off"), 1),
        ("rung claimed at its own height: near the oracle", "<= 0.025", rung(0.99 - NEAR, "near the oracle"), 1),
        ("power: beats back-off by 0.01 of the cells", "", rung(0.94, "beats back-off"), 1),
        *(
            (f"used said of an ordinary head of 11, {shape} effects, {way}", "<= 0.05", used(shape == "skewed", way == "lasting"), 1)
            for shape in ("normal", "skewed") for way in ("lasting", "drawn anew at each checkpoint")
        ),
        ("read-out: 95 % interval holds the truth", "0.95", readout(readout_truth()), 10),
        ("matching: yes or no said of a domain, no relation, 5 arms", "<= 0.05", matching(5, 0.0), 1),
        ("the same, 7 arms", "<= 0.05", matching(7, 0.0), 10),
        ("power: relation twice as large as arms differ, 7 arms", "", matching(7, 6.0), 10),
    ]  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--studies", type=int, default=1000, help="simulated studies a cell (fewer where the row says so)"
    )
    studies = parser.parse_args().studies
    print(f"# Measured rates of verdicts on heads\n\n`python benchmarks/verdicts_heads.py --studies {studies}`\n")
    print(
        f"| what | should be | {' | '.join(f'n = {n}' for n in SEEDS)} | studies |\n|---|---|{'---|' * len(SEEDS)}---|"
    )
    for what, should, rate, every in rows():
        count = max(1, studies // every)
        streams = {n: np.random.default_rng([zlib.crc32(what.encode()), n]) for n in SEEDS}
        means = [float(np.nanmean([rate(n, streams[n]) for _ in range(count)])) for n in SEEDS]
        print(f"| {what} | {should} | {' | '.join(f'{m:.3f}' for m in means)} | {count:,} |", flush=True)


if __name__ == "__main__":
    main()
