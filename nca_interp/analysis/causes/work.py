"""A task as it is measured, and how long that takes on this machine."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import torch

from nca_interp.analysis.causes.ablation import mean_outputs
from nca_interp.analysis.causes.effects import Task, score
from nca_interp.analysis.causes.options import CausesOptions, Scope
from nca_interp.analysis.causes.resume import Trunk


class Speed(NamedTuple):
    """Seconds of one token, about."""

    through: float
    """Through all layers."""
    scored: float
    """Through the unembedding."""


class Work:
    """A task as it is measured: some of its sequences and metrics. What replaces a head is the mean over all of them."""

    def __init__(self, trunk: Trunk, whole: Task, options: CausesOptions, scope: Scope) -> None:
        metrics = {name: m for name, m in whole.metrics.items() if name in (options.metric or whole.metrics)}
        n = scope.sequences(whole.batch.length) or len(whole.batch.inputs)
        self.sequences = min(n, len(whole.batch.inputs))
        self.whole, self._trunk = whole, trunk
        self.task = replace(whole, batch=whole.batch.rows(0, self.sequences), metrics=metrics)

    @property
    def name(self) -> str:
        """Of its stimulus."""
        return self.task.name

    @cached_property
    def means(self) -> list[torch.Tensor]:
        """Mean output of every head over all sequences."""
        return mean_outputs(self._trunk, self.whole)

    def seconds(self, speed: Speed, passes: float, scored: float) -> float:
        """Of so many passes through all layers, and through the unembedding."""
        places = self.sequences * self.task.batch.length
        return places * speed.through * passes + self.sequences * int(self.task.counts.sum()) * speed.scored * scored


def speed_of(trunk: Trunk, task: Task) -> Speed:
    """Measured on a few sequences, the better of two times."""
    part = replace(task, batch=task.batch.rows(0, 4))
    inputs, targets = part.tokens(trunk.model.device), len(part.batch.inputs) * max(1, int(task.counts.sum()))
    times = []
    for _ in range(2):
        started = time.perf_counter()
        passage = trunk.passage(inputs)
        between = time.perf_counter()
        score(trunk, passage, passage.residuals[-1], part)
        times.append((between - started, time.perf_counter() - between))
    through, scored = (min(each) for each in zip(*times, strict=True))
    return Speed(through / inputs.numel(), scored / targets)
