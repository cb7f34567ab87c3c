"""A phase diagram as a sequence of plans: what its runs on disk say of each cell, and which cell gets the next seed.

Every decision is a function of what is on disk, so a phase that was stopped anywhere goes on as if nothing had been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from nca_interp.analysis.verdicts.sequential import Looks, Open, Standing, most_doubtful, standing
from nca_interp.base import UserError
from nca_interp.config import Study
from nca_interp.engine.graph import Job, Plan
from nca_interp.engine.plan import make_plan
from nca_interp.phase import Cell, Phase
from nca_interp.store import RunDir, StudyDir
from nca_interp.train.run import RunConfig

UNFINISHED = ("running", "stopped", "failed")
"""States of a run that has begun and may still end as planned."""
Precision = Callable[[Study], Literal["fp32", "bf16"]]


class CellState(NamedTuple):
    """Where one cell stands."""

    cell: Cell
    differences: list[float]
    """Final validation loss of the treated minus that of the control, nats a token, of its finished seeds in their order."""
    standing: Standing
    lost: str
    """Why its next seed can never be had (a run of it diverged), or nothing."""
    cost: float
    """FLOPs of its next seed that are not spent yet; 0 where there is none."""
    begun: bool
    """Whether a run of its next seed was begun and is not finished."""

    def wants(self, looks: Looks) -> str:
        """What becomes of it: first seeds, more seeds, settled, no more seeds, or lost."""
        if self.lost:
            return "lost"
        if self.standing.n < looks.first:
            return "first seeds"
        if self.standing.sign != "uncertain":
            return "settled"
        return "more seeds" if self.standing.n < looks.last else "no more seeds"


@dataclass(frozen=True)
class _Seen:
    """One run on disk."""

    job: Job
    state: str
    share: float
    """Of its steps, done."""
    loss: float | None
    """Last validation, of a finished run."""


class PhaseState:
    """A phase and the folder that holds its studies, as both are now."""

    def __init__(self, phase: Phase, folder: Path, precision: Precision) -> None:
        self.phase, self.folder, self.precision = phase, folder, precision
        self.looks = Looks(phase.first_seeds, phase.last_seed)
        self.plans = {study.name: make_plan(study, precision(study), analyze=False) for study in phase.studies}

    @cached_property
    def runs(self) -> dict[tuple[str, str], _Seen]:
        """(study, run id) -> what is on disk of every run that a cell may need."""
        found = {}
        for name, plan in self.plans.items():
            directory = StudyDir(self.folder / name)
            for job in plan.jobs:
                if isinstance(job.payload, RunConfig):
                    found[name, job.payload.id] = _look(directory.run(job.payload.id), job)
        return found

    @cached_property
    def cells(self) -> list[CellState]:
        """Every cell, in the order of the phase."""
        return [self._cell(cell) for cell in self.phase.cells]

    @property
    def spent(self) -> float:
        """FLOPs of everything that was trained, unfinished runs by their steps; what cells share counts once."""
        return sum(run.job.flops * run.share for run in self.runs.values())

    @property
    def tokens(self) -> int:
        """Tokens of it."""
        return sum(round(_tokens(run.job) * run.share) for run in self.runs.values())

    def needs(self, cell: Cell, seed: int) -> list[_Seen]:
        """The runs of a seed of a cell, of both sides, synthetic stages included."""
        found: dict[str, _Seen] = {}
        for regime in (cell.treated, cell.control):
            run = self.runs[cell.study, f"pt.{regime}.{self.phase.domain}.s{seed}"]
            assert isinstance(run.job.payload, RunConfig)
            for id_ in (run.job.payload.parent, run.job.payload.id):
                if id_ is not None:
                    found[id_] = self.runs[cell.study, id_]
        return list(found.values())

    def _cell(self, cell: Cell) -> CellState:
        differences: list[float] = []
        for seed in range(self.looks.last):
            needs = self.needs(cell, seed)
            losses = self._losses(cell, seed)
            if losses is not None and all(run.state == "done" for run in needs):
                differences.append(losses[0] - losses[1])
                continue
            why = [
                f"{_id(run)} {'ended without a loss' if run.state == 'done' else 'diverged'}"
                for run in needs
                if _lost(run)
            ]
            cost = sum(run.job.flops * (1 - run.share) for run in needs)
            begun = any(run.state in UNFINISHED for run in needs)
            return CellState(cell, differences, self._judge(cell, differences), ", ".join(why), cost, begun)
        return CellState(cell, differences, self._judge(cell, differences), "", 0.0, False)

    def _losses(self, cell: Cell, seed: int) -> tuple[float, float] | None:
        ends = [self.runs[cell.study, f"pt.{r}.{self.phase.domain}.s{seed}"].loss for r in (cell.treated, cell.control)]
        return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])

    def _judge(self, cell: Cell, differences: list[float]) -> Standing:
        return standing(differences, self.looks, self.phase.study(cell.study).margin)

    def first(self) -> list[tuple[Study, Plan]]:
        """For each study the runs of the first seeds."""
        return [
            (study, joined(study, [self._seed(study, None, seed) for seed in range(self.looks.first)]))
            for study in self.phase.studies
        ]

    def next(self, at_most: int, without: Collection[str] = ()) -> list[CellState]:
        """The cells that get one more seed now, at most so many and all of one study, the most deserving first; none where every
        sign is settled or the budget is spent. `without`: names of cells that are passed over."""
        wanting = [
            state for state in self.cells if state.wants(self.looks) == "more seeds" and state.cell.name not in without
        ]
        left = self.phase.budget - self.spent
        order = most_doubtful(
            [Open(state.standing.doubt, state.cost, state.begun, state.standing.reach) for state in wanting], left
        )
        best = [wanting[i] for i in order]
        chosen: list[CellState] = []
        for state in best:
            if len(chosen) < at_most and state.cell.study == best[0].cell.study and state.cost <= left:
                chosen.append(state)
                left -= state.cost
        return chosen

    def round(self, chosen: Iterable[CellState]) -> tuple[Study, Plan]:
        """The runs of one more seed of these cells (of one study)."""
        chosen = list(chosen)
        study = self.phase.study(chosen[0].cell.study)
        plans = [
            self._seed(study, regime, state.standing.n)
            for state in chosen
            for regime in (state.cell.treated, state.cell.control)
        ]
        return study, joined(study, plans)

    def _seed(self, study: Study, regime: str | None, seed: int) -> Plan:
        return make_plan(study, self.precision(study), regime, self.phase.domain, seed, analyze=False)


def joined(study: Study, plans: Iterable[Plan]) -> Plan:
    """All jobs of several plans of a study, each once."""
    return Plan(study, list({job.id: job for plan in plans for job in plan.jobs}.values()))


def flops(plan: Plan) -> float:
    """Of the training runs of a plan."""
    return sum(job.flops for job in plan.jobs)


def check_budget(phase: Phase, precision: Precision) -> None:
    """UserError where the budget does not hold the first seeds of all cells."""
    least = sum(flops(plan) for _, plan in PhaseState(phase, Path("."), precision).first())
    if least > phase.budget:
        raise UserError(
            f"budget: {phase.budget:.3g} FLOPs; the first {phase.first_seeds} seeds of {len(phase.cells)} cells need {least:.3g}; "
            "legal: that and more, fewer cells, or fewer first_seeds"
        )


def _look(run: RunDir, job: Job) -> _Seen:
    assert isinstance(job.payload, RunConfig)
    status, loss = run.status(), None
    if status["state"] == "done" and (rows := run.last_metrics(1)):
        last = rows[-1].get("val_loss")
        loss = last if last is not None and math.isfinite(last) else None
    share = min(1.0, status["step"] / job.payload.config.steps)
    return _Seen(job, status["state"], 1.0 if status["state"] == "done" else share, loss)


def _lost(run: _Seen) -> bool:
    """Whether it has no loss and never will."""
    ended_without = run.state == "done" and run.loss is None
    return run.state == "diverged" or ended_without


def _id(run: _Seen) -> str:
    assert isinstance(run.job.payload, RunConfig)
    return run.job.payload.id


def _tokens(job: Job) -> int:
    run = job.payload
    assert isinstance(run, RunConfig)
    return run.config.steps * run.config.batch_size * run.model.n_ctx
