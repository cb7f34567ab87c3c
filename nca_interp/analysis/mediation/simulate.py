"""Simulated studies of known mediation, through the code that judges real ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nca_interp.analysis.mediation.judge import Mediation, Question, judge_mediation


@dataclass(frozen=True)
class Studied:
    """Seeds, their gains, and which share of them sets of heads mediate."""

    n: int
    """Seeds."""
    share: float | None
    """Share of the gain that the chosen set mediates; None: it is one of the random sets' kind (the null)."""
    gain: float = 0.1
    """Mean over seeds, in nats."""
    sd: float = 0.01
    """Standard deviation of a run's final loss over seeds beyond what its seed shares."""
    spread: float = 0.03
    """Standard deviation of the gain over seeds."""
    others: float = 0.1
    """Mean share that random sets mediate."""
    others_sd: float = 0.05
    """Its standard deviation over sets."""
    sets: int = 4
    """Random sets of each seed."""
    margin: float = 0.01
    questions: int = 1
    """Of the family; all but the first are of the null."""

    def draw(self, rng: np.random.Generator) -> list[Question]:
        """The questions of one study: final losses of scratch, full transfer and every arm, each with its own noise."""
        gains = self.gain + self.spread * rng.normal(size=self.n)
        scratch, full = (self.sd * rng.normal(size=self.n) for _ in range(2))
        return [
            self._question(self.share if i == 0 else None, gains, scratch, full, rng) for i in range(self.questions)
        ]

    def _question(
        self, share: float | None, gains: np.ndarray, scratch: np.ndarray, full: np.ndarray, rng: np.random.Generator
    ) -> Question:
        shares = self.others + self.others_sd * rng.normal(size=(self.n, 1 + self.sets))
        if share is not None:
            shares[:, 0] = share
        # losses, relative to that of scratch without noise: re-initialising a set gives its share of the gain back
        arms = -gains[:, None] * (1 - shares) + self.sd * rng.normal(size=shares.shape)
        whole, moved = scratch - (-gains + full), arms - (-gains + full)[:, None]
        return Question(
            tuple(whole), tuple(moved[:, 0]), tuple(tuple(row) for row in moved[:, 1:]), self.margin
        )  # fmt: skip

    def judged(self, rng: np.random.Generator) -> Mediation:
        """What is said of the first question of one study."""
        return judge_mediation(self.draw(rng))[0]
