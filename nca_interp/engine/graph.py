"""Jobs, and a plan of them as a graph: who needs whom. How a plan is made: plan.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from nca_interp.config import Study
from nca_interp.train.run import RunConfig

RULES = "head-rules"
"""Measurement of a pre-pre-training that decides which heads the rules of its arms mean."""


@dataclass(frozen=True)
class TokensJob:
    """Write one token directory."""

    path: str
    """Relative to the study."""
    spec: dict[str, Any]
    n_train: int
    n_val: int
    seq_len: int
    seed: int
    tokenizer_from: str | None = None
    """Token directory whose tokenizer encodes question-answer pairs."""


@dataclass(frozen=True)
class MeasureJob:
    """Measure something of a run and keep it in a file."""

    what: str
    """Name of the measurement."""
    subject: str
    """Id of a run; of what several runs share, of the first of them."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options that differ from their defaults."""
    part: tuple[int, int] | None = None
    """Which of several jobs that share the work, from 0, and how many; None: the only one, or the last."""


class Job(NamedTuple):
    """One unit of work; `needs` are ids of jobs that come first."""

    id: str
    kind: Literal["tokens", "train", "measure"]
    payload: TokensJob | RunConfig | MeasureJob
    needs: tuple[str, ...]
    flops: float
    cost: float = 1.0
    """Of a measurement: seconds that it takes, about; only ratios count."""
    weights: float = 0.0
    """Of a measurement: bytes of the weights of a checkpoint in fp32, about."""


class Plan(NamedTuple):
    """All jobs of a study or of a collection, every job after those it needs."""

    study: Study | None
    """None: checkpoints from elsewhere."""
    jobs: list[Job]

    @property
    def runs(self) -> list[RunConfig]:
        """The training runs, in order."""
        return [job.payload for job in self.jobs if isinstance(job.payload, RunConfig)]
