"""Studies of known truth, drawn at random: what the error rates of verdicts are measured on (benchmarks/verdicts.py, tests)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nca_interp.analysis.verdicts.crossed import Items
from nca_interp.analysis.verdicts.judge import Case
from nca_interp.analysis.verdicts.speedup import Curve


@dataclass(frozen=True)
class Losses:
    """Arms against scratch, paired by seed: losses of a run are effect + seed noise + what the documents add."""

    n: int
    """Seeds."""
    arms: int = 1
    effect: float = 0.0
    """Of every arm, or of the first alone (`others`)."""
    others: float | None = None
    """Effect of all arms but the first; None: the same."""
    sd: float = 0.02
    """Over seeds, of one run; a paired difference has sqrt(2) times this."""
    shared: float = 0.0
    """Standard deviation over documents of what an arm changes on each, the same in all seeds."""
    own: float = 0.0
    """The same, drawn for each seed."""
    documents: int = 64
    """Validation documents."""
    margin: float = 0.01
    tails: str = "normal"
    """normal, or t3: heavy tails of the same scale."""

    def draw(self, rng: np.random.Generator) -> list[Case]:
        """One study; losses of documents only where documents differ."""
        noise = (
            rng.standard_t(3, (self.arms + 1, self.n)) / np.sqrt(3)
            if self.tails == "t3"
            else rng.normal(size=(self.arms + 1, self.n))
        )
        effects = np.full(self.arms, self.effect)
        if self.others is not None:
            effects[1:] = self.others
        mean = effects[:, None] + self.sd * (noise[1:] - noise[0])
        if not self.shared and not self.own:
            return [Case(tuple(row), self.margin) for row in mean]
        return [self._with_documents(row, rng) for row in mean]

    def _with_documents(self, mean: np.ndarray, rng: np.random.Generator) -> Case:
        # documents of unlike length, as in a corpus
        weights = rng.integers(20, 200, self.documents).astype(float)
        # of a document's mean, less the longer it is, and of the right size for the whole set
        scale = np.sqrt(weights.mean() / weights)
        local = mean[:, None] + scale * (
            self.shared * rng.normal(size=self.documents) + self.own * rng.normal(size=(self.n, self.documents))
        )
        items = tuple(Items(weights * (3 + row), weights * 3, weights) for row in local)
        values = (local * weights).sum(1) / weights.sum()
        return Case(tuple(values), self.margin, items=items)


@dataclass(frozen=True)
class Accuracies:
    """Right answers of arms and control to the same problems: each problem has a difficulty, each model a skill."""

    n: int
    problems: int
    rate: float
    """Mean share of right answers of the control."""
    effect: float = 0.0
    """Added to it, in share of problems."""
    arms: int = 1
    difficulty: float = 1.0
    """Standard deviation over problems, in logits."""
    sd: float = 0.1
    """Standard deviation over seeds, in logits."""
    shared: float = 0.5
    """Standard deviation over problems of what an arm changes on each, in logits."""
    margin: float = 0.01

    def draw(self, rng: np.random.Generator) -> list[Case]:
        """One study; the effect is that over all problems there are, not only those drawn."""
        hard = self.difficulty * rng.normal(size=self.problems)
        base = self._answers(hard, self.rate, 0.0, rng)
        cases = []
        for _ in range(self.arms):
            own = self._answers(hard, self.rate + self.effect, self.shared, rng)
            one = np.ones(self.problems)
            items = tuple(Items(a, b, one) for a, b in zip(own, base, strict=True))
            cases.append(Case(tuple(own.mean(1) - base.mean(1)), self.margin, True, items))
        return cases

    def _answers(self, hard: np.ndarray, rate: float, changed: float, rng: np.random.Generator) -> np.ndarray:
        """0 or 1 [seed, problem], whose expectation over problems and seeds is `rate`."""
        if rate <= 0 or rate >= 1:
            return np.full((self.n, self.problems), float(rate > 0))
        spread = np.sqrt(self.difficulty**2 + changed**2 + self.sd**2)
        logits = _logit_for(rate, float(spread)) + hard + changed * rng.normal(size=self.problems)
        chance = 1 / (1 + np.exp(-(logits + self.sd * rng.normal(size=(self.n, 1)))))
        return (rng.random((self.n, self.problems)) < chance).astype(float)


def _logit_for(rate: float, sd: float) -> float:
    """The logit around which normal logits of this spread give `rate` on average."""
    from scipy import optimize

    nodes, weights = np.polynomial.hermite_e.hermegauss(41)
    weights = weights / weights.sum()
    return float(optimize.brentq(lambda x: float((weights / (1 + np.exp(-(x + sd * nodes)))).sum()) - rate, -40, 40))


def curves(
    n: int, factor: float, rng: np.random.Generator, sd: float = 0.02, noise: float = 0.003
) -> dict[tuple[str, str, int], Curve]:
    """Loss curves of scratch and of a regime that needs 1 / factor of its tokens, n seeds on the domain "web".

    `sd`: of the log of a run's own speed; `noise`: of each validation, in nats.
    """
    tokens = np.arange(0, 41) * 100.0

    def one(speed: float) -> Curve:
        losses = 2 + 4 * (1 + tokens * speed * np.exp(sd * rng.normal()) / 200) ** -0.6
        return Curve(tokens, losses + noise * rng.normal(size=len(tokens)), 1.0)

    return {("web", name, seed): one(speed) for seed in range(n) for name, speed in (("scratch", 1.0), ("nca", factor))}


def lose(cases: list[Case], threshold: float, treated: np.ndarray, control: np.ndarray) -> list[Case]:
    """Cases of one arm of which the seeds are lost whose loss, of either run, is above a threshold."""
    bad = [treated > threshold, control > threshold]
    kept = ~(bad[0] | bad[1])
    lost = [
        tuple(f"{side}.s{s}" for s in np.flatnonzero(b)) for side, b in zip(("treated", "control"), bad, strict=True)
    ]
    names = (lost[0], lost[1])
    return [
        replace(case, differences=tuple(np.array(case.differences)[kept]), planned=len(kept), lost=names) for case in cases
    ]  # fmt: skip
