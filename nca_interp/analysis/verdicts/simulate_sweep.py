"""Simulated sweeps of known truth, for the error rates of `hypotheses` (docs/statistics_sweep.md).

Arms lie anywhere between nearly constant and nearly random; what a model learns of an arm falls with its entropy, so that all predictors
go together as they do in measured sweeps. Gain is what the truth says, a part of every arm's own that all seeds and (half of it) all
domains share, and noise of seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nca_interp.analysis.verdicts.hypotheses import ENTROPY, LEARNABILITY, MATCHING, DomainArms

TRUTHS = ("nothing", MATCHING, ENTROPY, LEARNABILITY)


@dataclass(frozen=True)
class Sweep:
    """A sweep to be drawn. Sizes are standard deviations over arms, in units of that of what the truth explains."""

    truth: str
    """Which predictor gain follows, or "nothing"."""
    arms: int
    seeds: int = 3
    corpora: tuple[float, ...] = (0.8, 0.55)
    """Complexity of each domain's corpus."""
    own: float = 0.5
    """What differs between arms for any other reason."""
    noise: float = 0.3
    """Of a seed."""
    alike: float = 0.7
    """Correlation of learnability with the opposite of entropy."""
    lowest: float = 0.3
    """Complexity of the simplest arms; 1 is random."""

    def draw(self, rng: np.random.Generator) -> list[DomainArms]:
        """One study."""
        x = rng.uniform(self.lowest, 1.0, self.arms)
        learned = -self.alike * _unit(x) + np.sqrt(1 - self.alike**2) * rng.normal(size=self.arms)
        shared, found = rng.normal(size=self.arms), []
        for corpus in self.corpora:
            distance = np.abs(x - corpus)
            told = {MATCHING: -_unit(distance), ENTROPY: _unit(x), LEARNABILITY: _unit(learned)}
            mine = (shared + rng.normal(size=self.arms)) / np.sqrt(2)
            gain = told.get(self.truth, np.zeros(self.arms)) + self.own * mine
            gains = gain + self.noise * rng.normal(size=(self.seeds, self.arms))
            found.append(DomainArms(gains, {MATCHING: distance, ENTROPY: x, LEARNABILITY: learned}))
        return found


def _unit(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean()) / values.std())
