"""How far the jobs of a plan are in a folder, from what lies there: for plans that are printed and for `watch`. Decides nothing."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from nca_interp.base import UserError
from nca_interp.engine.graph import Job, Plan
from nca_interp.engine.jobs import is_done
from nca_interp.engine.journal import Journals
from nca_interp.store import RunDir, StudyDir
from nca_interp.train.grafted import left_out
from nca_interp.train.run import RunConfig

State = Literal["not begun", "running", "done", "stopped", "failed", "diverged", "blocked", "damaged", "left out"]


class Stand(NamedTuple):
    """How far a job is."""

    state: str
    """One of State; a measurement may also be waiting, retried or lost (journal.py)."""
    step: int = 0
    """Of a run."""


BEGINNING = Stand("not begun")


def state_of(run: RunDir, status: dict[str, Any]) -> tuple[State, str]:
    """State of a run by its record, and why it is not running or done; one whose process is gone is stopped."""
    state = status["state"]
    if state == "new":
        return "not begun", ""
    if state == "running" and run.is_live() is False:
        return "stopped", f"{run.holder()} is gone; start the same command to continue"
    return state, str(status.get("message", ""))


def stands_of(study: StudyDir, plan: Plan) -> dict[str, Stand]:
    """Every job of a plan, by id. Token files and runs by their own files; a measurement as the last process tells that did it, and not
    begun where the run that it is of is not done (it compares hashes itself when it is asked again)."""
    told = {row.job: row.state for row in Journals(study.path).rows()}
    found: dict[str, Stand] = {}
    for job in plan.jobs:
        if isinstance(job.payload, RunConfig):
            found[job.id] = _run(study, job.payload)
        elif job.kind == "tokens":
            found[job.id] = Stand("done") if is_done(study, job) else BEGINNING
        elif all(found.get(need, BEGINNING).state in ("done", "left out") for need in job.needs):
            state = told.get(job.id, BEGINNING.state)
            found[job.id] = Stand("done" if state == "skipped" else state)
        else:
            found[job.id] = BEGINNING
    return found


def _run(study: StudyDir, config: RunConfig) -> Stand:
    try:
        run = study.run(config.id)
        status = run.status()
        state, _ = state_of(run, status)
        if state == "not begun" and left_out(study, config):
            return Stand("left out")
        return Stand(state, int(status["step"]))
    except UserError:
        return Stand("damaged")


def left(job: Job, stands: dict[str, Stand]) -> float:
    """Share of a job that is still to be done."""
    stand = stands.get(job.id, BEGINNING)
    if stand.state in ("done", "left out"):
        return 0.0
    return 1 - min(1.0, stand.step / job.payload.config.steps) if isinstance(job.payload, RunConfig) else 1.0
