"""Is the run well? Spikes of the loss, values that are not finite, and what is done about them."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nca_interp.base import RunFailed
from nca_interp.config import StageConfig

WINDOW = 32
"""Steps whose median a loss is compared with."""
SKIPS_IN_A_ROW = 20
"""As many skipped steps one after the other end the run: the weights do not change any more."""


class Diverged(RunFailed):
    """The loss or a gradient is not finite."""


class Verdict(NamedTuple):
    """What is wrong with one step ("nonfinite", "spike" or nothing), and whether its update is left out."""

    event: str | None
    skip: bool


@dataclass
class Health:
    """Judges each step by those before it. Its memory is a function of the metrics, so a resumed run judges alike."""

    stage: StageConfig
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    skipped: int = 0
    """Steps skipped since the last one that was not."""

    def recall(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take up the steps that metrics.jsonl holds."""
        for row in rows:
            if row["step"]:
                self._remember(row["loss"], row.get("skipped", False))

    def judge(self, loss: float, grad_norm: float) -> Verdict:
        """What is wrong with a step of this loss (nats a token) and gradient norm before clipping."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            verdict = Verdict("nonfinite", True)
        elif self._is_spike(loss):
            verdict = Verdict("spike", self.stage.on_spike == "skip")
        else:
            verdict = Verdict(None, False)
        self._remember(loss, verdict.skip)
        return verdict

    def problem(self, verdict: Verdict) -> str | None:
        """Why the run cannot go on, if it cannot."""
        if verdict.event == "nonfinite" and self.stage.on_nonfinite == "stop":
            return "not finite"
        if self.skipped >= SKIPS_IN_A_ROW:
            return f"{self.skipped} steps were skipped one after the other"
        return None

    def _is_spike(self, loss: float) -> bool:
        threshold = self.stage.spike_threshold
        if threshold is None or len(self.losses) < WINDOW:
            return False
        return loss > statistics.median(self.losses) + threshold

    def _remember(self, loss: float | None, skipped: bool) -> None:
        # the loss of a skipped spike counts: a lasting change of level becomes the new normal
        if loss is not None and math.isfinite(loss):
            self.losses.append(loss)
        self.skipped = self.skipped + 1 if skipped else 0
