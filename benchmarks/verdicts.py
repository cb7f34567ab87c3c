"""Size, power and coverage of every verdict on simulated studies of known truth, at n = 2, 3, 5 and 8 seeds.

python benchmarks/verdicts.py > docs/statistics_measured.md     (a few minutes; --studies 200 for a look)

Each cell is a share of so many simulated studies; its standard error is sqrt(p (1 - p) / studies), 0.007 for 0.05 of 1,000. The truth
that is simulated stands in nca_interp/analysis/verdicts/simulate.py, what judges it is what judges a study.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from nca_interp.analysis.verdicts.claims import SUPPORTED, claims_table
from nca_interp.analysis.verdicts.contrasts import Values, contrast_tables
from nca_interp.analysis.verdicts.judge import Case, Judgement, judge
from nca_interp.analysis.verdicts.plan import Contrast
from nca_interp.analysis.verdicts.shares import fieller, shapley_weights
from nca_interp.analysis.verdicts.simulate import Accuracies, Losses, curves, lose
from nca_interp.analysis.verdicts.simulate_carriers import GAP, Mediation, sum_of
from nca_interp.analysis.verdicts.speedup import speedup_tables
from nca_interp.claims import Claim
from nca_interp.config import MODULES, Regime, Study
from nca_interp.data.specs import NcaSpec
from nca_interp.discover import find

SEEDS = (2, 3, 5, 8)
MANY = 18
"""Comparisons of a study of the demonstration's kind."""
Rng = np.random.Generator
Rate = Callable[[int, Rng], float]
"""From seeds and a random stream to 1 (happened), 0, or a share of one study."""


def differs(found: list[Judgement]) -> bool:
    """Whether any comparison is called better or worse."""
    return any(j.verdict.startswith(("better", "worse")) for j in found)


def equal(found: list[Judgement]) -> bool:
    """Whether any is called equivalent or negligible."""
    return any(j.verdict == "equivalent" or "negligibly" in j.verdict for j in found)


def of(truth: Losses | Accuracies, what: Callable[[list[Judgement]], float]) -> Rate:
    """How often `what` is true of the verdicts on a study of this truth."""
    return lambda n, rng: float(what(judge(replace(truth, n=n).draw(rng))))


def first(what: Callable[[list[Judgement]], float]) -> Callable[[list[Judgement]], float]:
    """The same of the first comparison alone."""
    return lambda found: what(found[:1])


def primary(truth: Losses) -> Rate:
    """Power for a primary comparison, the first of many."""

    def rate(n: int, rng: Rng) -> float:
        cases = replace(truth, n=n).draw(rng)
        return float(differs(judge([replace(cases[0], primary=True), *cases[1:]])[:1]))

    return rate


def covers(value: float) -> Callable[[list[Judgement]], float]:
    """Share of the single intervals that hold the truth."""
    return lambda found: float(np.mean([j.low <= value <= j.high for j in found]))


def covers_all(value: float) -> Callable[[list[Judgement]], float]:
    """Whether all simultaneous intervals hold it."""
    return lambda found: float(all(j.low_all <= value <= j.high_all for j in found))


def seeds_alone(truth: Losses, what: Callable[[list[Judgement]], float]) -> Rate:
    """What a test that knows of no documents would say."""

    def rate(n: int, rng: Rng) -> float:
        return float(what(judge([replace(case, items=()) for case in replace(truth, n=n).draw(rng)])))

    return rate


def bootstrap(truth: Losses) -> Rate:
    """Coverage of the percentile bootstrap over seeds and documents together, for comparison."""

    def rate(n: int, rng: Rng) -> float:
        (case,) = replace(truth, n=n).draw(rng)
        weights = case.items[0].weights
        differences = np.array([i.treated - i.control for i in case.items])
        means = []
        for _ in range(200):
            seeds, documents = rng.integers(0, n, n), rng.integers(0, len(weights), len(weights))
            means.append(differences[np.ix_(seeds, documents)].sum() / n / weights[documents].sum())
        low, high = np.quantile(means, [0.025, 0.975])
        return float(low <= truth.effect <= high)

    return rate


def looks(n: int, rng: Rng) -> float:
    """A verdict at any look at a study of n planned seeds, looked at after each seed up to 8, without any effect."""
    values = rng.normal(size=(2, 8))
    rows = pd.DataFrame([(r, "web", s, values[i, s]) for i, r in enumerate(("scratch", "nca")) for s in range(8)],
                        columns=["regime", "domain", "seed", "value"])  # fmt: skip
    plan = [Contrast("regime", "web", "val_loss", "nca", "scratch", tuple(range(n)), 0.01)]
    roles = {"scratch": "regime", "nca": "regime"}
    for seen in range(2, 9):
        part = Values(rows[rows.seed < seen], "val_loss", 0.01)
        verdict = contrast_tables(roles, {"web": "web"}, part, None, plan)["contrasts"].verdict.iloc[0]
        if verdict.startswith(("better", "worse")):
            return 1.0
    return 0.0


def looks_without(n: int, rng: Rng) -> float:
    """The same where every look gives a verdict, from n seeds on."""
    values = rng.normal(size=8)
    return float(any(stats.ttest_1samp(values[:k], 0).pvalue < 0.05 for k in range(n, 9)))


def lost(truth_of_lost: bool) -> Rate:
    """A verdict where the third of the runs of the treated regime with the highest losses diverged, without any effect."""

    def rate(n: int, rng: Rng) -> float:
        values = rng.normal(size=(2, n))
        case = Case(tuple(values[0] - values[1]), 0.01)
        (kept,) = lose([case], 0.43, values[0], np.full(n, -9.0))
        judged = judge([kept if truth_of_lost else Case(kept.differences, 0.01)]) if kept.differences else []
        return float(any(j.verdict.startswith(("better", "equivalent")) for j in judged))

    return rate


def speed(factor: float, what: Callable[[pd.Series], float]) -> Rate:
    """A property of the mean speed-up over seeds (tokens of pre-training)."""

    def rate(n: int, rng: Rng) -> float:
        means = speedup_tables(curves(n, factor, rng))["speedups"]
        return what(means[means.budget == "pt"].iloc[0])

    return rate


def mediation(truth: Mediation, what: str) -> Rate:
    """A property of what is said of attention's Shapley share: whether its interval holds the truth (nats), whether a share of the gap
    is given (given), and, where it is (else NaN), whether that interval holds the truth (share), or how large the share is (size)."""
    attention = sum_of(shapley_weights("attn", MODULES))
    gap = truth.gain(frozenset(MODULES))

    def rate(n: int, rng: Rng) -> float:
        losses = truth.draw(n, rng)
        seeds = losses.seeds(attention)
        if what == "nats":
            found = losses.estimate(attention, seeds)
            return float(found.low <= truth.shares["attn"] <= found.high)
        whole = losses.estimate(GAP, seeds)
        given = whole.low > 0 or whole.high < 0
        if what == "given":
            return float(given)
        ratio = fieller(losses.by_seed(attention, seeds), losses.by_seed(GAP, seeds))
        if not given:
            return math.nan
        return ratio.value if what == "size" else float(ratio.low <= truth.shares["attn"] / gap <= ratio.high)

    return rate


def claimed(claim: Claim, effects: dict[str, float]) -> Rate:
    """How often a claim that is judged alone is called supported, where the final loss of a regime is its effect and noise of 0.02."""
    compared = (("nca", "scratch"), ("nca-wide", "scratch-wide"), ("no-attn", "nca"), ("no-mlp", "nca"))
    smoke: Study = find("runs", "smoke").value()
    (web, *_) = smoke.domains
    regimes = tuple(Regime(name=r, label=r, source=None if "scratch" in r else NcaSpec()) for r in effects)
    study = smoke.model_copy(update={"regimes": regimes, "domains": (web,), "claims": (claim,)})

    def losses(n: int, rng: Rng) -> dict[str, pd.DataFrame]:
        ends = {r: e + 0.02 * rng.normal(size=n) for r, e in effects.items()}
        pairs = [
            {"metric": "val_loss", "domain": web.name, "treated": a, "control": b, "seed": s, "difference": d}
            for a, b in compared
            if a in ends
            for s, d in enumerate(ends[a] - ends[b])
        ]
        (gain,) = judge([Case(tuple(ends["nca"] - ends["scratch"]), study.margin)])
        families = {"no-attn": "transfer", "no-mlp": "transfer"}
        contrasts = [
            {"family": families.get(a, "regime"), "domain": web.name, "metric": "val_loss", "treated": a, "control": b, "verdict": gain.verdict}
            for a, b in compared
        ]  # fmt: skip
        return {"pairs": pd.DataFrame(pairs), "contrasts": pd.DataFrame(contrasts)}

    def rate(n: int, rng: Rng) -> float:
        faster = claim.kind == "faster"
        tables = {"speedups": speedup_tables(curves(n, 1.0, rng))["speedups"]} if faster else losses(n, rng)
        return float((claims_table(study, tables).verdict == SUPPORTED).any())

    return rate


def rows() -> list[tuple[str, str, Rate, int]]:
    """(what is measured, what it should be, how, one study in so many of --studies)."""
    null, many = Losses(3), Losses(3, arms=MANY)
    edge = Losses(3, effect=0.01, sd=0.001)
    two = 2 * math.sqrt(2) * null.sd
    rows_ = Losses(3, sd=0.0007, shared=0.024, own=0.024)
    mixed = replace(rows_, sd=0.004)
    answers = Accuracies(3, problems=300, rate=0.4)
    pair = {"name": "c", "says": "it is so", "treated": "nca", "control": "scratch"}
    faster = Claim(kind="faster", **pair)
    depends = Claim(kind="depends_on_swap", other=("nca-wide", "scratch-wide"), **pair)
    carries = Claim(kind="part_carries", **{**pair, "treated": "no-attn", "control": "no-mlp"})
    four = {"scratch": 0.0, "nca": -0.1, "scratch-wide": 0.2, "nca-wide": 0.1}
    parts = {"scratch": 0.0, "nca": -0.3, "no-attn": -0.1, "no-mlp": -0.1}
    strong, weak = (Mediation(attn=0.6 * gap, mlp=0.2 * gap, both=0.2 * gap, effects=0.1) for gap in (0.0566, 0.0113))
    return [
        ("better or worse said, no effect, 1 comparison", "0.05", of(null, differs), 1),
        (f"better or worse said anywhere, no effect, {MANY} comparisons", "<= 0.05", of(many, differs), 2),
        (f"the same, heavy tails (t with 3 degrees), {MANY} comparisons", "<= 0.05", of(replace(many, tails="t3"), differs), 2),
        ("equivalent said, effect = margin, 1 comparison", "0.05", of(edge, equal), 1),
        (f"equivalent said anywhere, effect = margin, {MANY} comparisons", "<= 0.05", of(replace(edge, arms=MANY), equal), 2),
        ("single 95 % interval holds the truth", "0.95", of(null, covers(0.0)), 1),
        (f"simultaneous intervals all hold the truth, {MANY} comparisons", ">= 0.95", of(many, covers_all(0.0)), 2),
        ("power: effect of 2 standard deviations, 1 comparison", "", of(replace(null, effect=two), differs), 1),
        (f"power: the same, first of {MANY} comparisons", "", of(replace(many, effect=two, others=0.0), first(differs)), 2),
        (f"power: the same, primary of {MANY} comparisons", "", primary(replace(many, effect=two, others=0.0)), 2),
        ("power: equivalent said, no effect, margin 7 standard deviations", "", of(Losses(3, sd=0.001), equal), 1),
        ("documents: better or worse said, no effect", "<= 0.05", of(rows_, differs), 1),
        ("documents: equivalent said, effect = margin", "<= 0.05", of(replace(rows_, effect=0.01), equal), 1),
        ("documents: equivalent said, effect = margin, by seeds alone", "", seeds_alone(replace(rows_, effect=0.01), equal), 1),
        ("documents: single 95 % interval holds the truth", ">= 0.95", of(rows_, covers(0.0)), 1),
        ("documents and seeds that differ more: single 95 % interval holds the truth", ">= 0.95", of(mixed, covers(0.0)), 1),
        ("documents and seeds that differ more: percentile bootstrap of both", "", bootstrap(mixed), 5),
        ("accuracy: better or worse said, no effect, 300 problems", "<= 0.05", of(answers, differs), 1),
        ("accuracy: equivalent said, effect = margin, 3,000 problems", "<= 0.05",
         of(Accuracies(3, 3000, 0.4, effect=0.01, sd=0.02, shared=0.1), equal), 5),
        ("accuracy: single 95 % interval holds the truth, 300 problems", ">= 0.95", of(answers, covers(0.0)), 1),
        ("accuracy: power, 0.40 against 0.55, 300 problems", "", of(replace(answers, effect=0.15), differs), 1),
        ("accuracy: cannot tell said, 1 of 30 right in both", "1", of(Accuracies(3, 30, 1 / 30), lambda f: f[0].verdict == "cannot tell"), 5),
        ("looks: better or worse said at any look, up to 8 seeds, no effect", "<= 0.05", looks, 2),
        ("looks: the same, a verdict at each look", "", looks_without, 1),
        ("lost: better or equivalent said, the worst runs of the regime diverged", "<= 0.05", lost(True), 1),
        ("lost: the same, their pairs dropped without a word", "", lost(False), 1),
        ("speed-up: mean logarithm, no effect", "0", speed(1.0, lambda r: r.log_mean), 5),
        ("speed-up: 95 % interval holds 1, no effect", "0.95", speed(1.0, lambda r: float(r.low <= 1 <= r.high)), 5),
        ("speed-up: mean logarithm, a true factor of 0.7 (-0.357)", "-0.357", speed(0.7, lambda r: r.log_mean), 5),
        ("carriers: a share of the gap given, no transfer", "0.05", mediation(Mediation(), "given"), 1),
        ("carriers: interval of a Shapley share (nats) holds the truth", "0.95", mediation(strong, "nats"), 1),
        ("carriers: interval of the share of the gap, where given; a gap of 10 standard deviations", "0.95", mediation(strong, "share"), 1),
        ("carriers: the same, a gap of 2 standard deviations", "", mediation(weak, "share"), 1),
        ("carriers: that share given, a gap of 2 standard deviations", "", mediation(weak, "given"), 1),
        ("carriers: mean of that share, where given (0.7)", "", mediation(weak, "size"), 1),
        ("claims: faster, supported, no effect", "<= 0.05", claimed(faster, {"scratch": 0.0, "nca": 0.0}), 5),
        ("claims: depends on the swap, supported, the same effect under both", "<= 0.05", claimed(depends, four), 5),
        ("claims: the same, effects that differ by 4 standard deviations of a run", "", claimed(depends, {**four, "nca-wide": 0.18}), 5),
        ("claims: one part carries more, supported, both the same", "<= 0.05", claimed(carries, parts), 5),
        ("claims: the same, no gain that a part could carry", "<= 0.05", claimed(carries, {**parts, "nca": 0.0}), 5),
        ("claims: one part carries more, by 4 standard deviations of a run", "", claimed(carries, {**parts, "no-attn": -0.02}), 5),
    ]  # fmt: skip


def mean(found: list[float]) -> float:
    """Over the studies in which there is something to count; NaN where in none."""
    known = [value for value in found if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--studies", type=int, default=1000, help="simulated studies a cell (fewer where the row says so)"
    )
    parser.add_argument("--only", default="", help="only rows that hold this text; each row has its own random numbers")
    options = parser.parse_args()
    studies = options.studies
    print("# Measured rates of verdicts\n")
    print(
        f"`python benchmarks/verdicts.py --studies {studies}`; what is simulated: `nca_interp/analysis/verdicts/simulate.py`.\n"
    )
    print(
        f"| what | should be | {' | '.join(f'n = {n}' for n in SEEDS)} | studies |\n|---|---|{'---|' * len(SEEDS)}---|"
    )
    for what, should, rate, every in (row for row in rows() if options.only in row[0]):
        count = max(1, studies // every)
        streams = {n: np.random.default_rng([zlib.crc32(what.encode()), n]) for n in SEEDS}
        means = [mean([rate(n, streams[n]) for _ in range(count)]) for n in SEEDS]
        print(f"| {what} | {should} | {' | '.join(f'{m:.3f}' for m in means)} | {count:,} |", flush=True)


if __name__ == "__main__":
    main()
