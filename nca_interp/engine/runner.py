"""Run a plan on this machine: one worker process per core (or GPU), forks of a warm server (crew.py).

The fork server has imported torch and transformers once, so a job starts in milliseconds and a crash takes nothing
with it. Several such commands, on this machine or on others that see the same folder, share one study: every job is
guarded by a file lock, and what another process is doing is waited for.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from nca_interp.engine.crew import Crew, Worker, subject
from nca_interp.engine.jobs import execute, is_done
from nca_interp.engine.plan import Job, Plan
from nca_interp.engine.worker import EXIT_BUSY, EXIT_STOPPED, EXIT_USAGE
from nca_interp.signals import collected
from nca_interp.store import AnalysisDir, StudyDir

RETRY_SECONDS = 2.0
"""Until a job that another process was doing is tried again."""
LONGEST_WAIT = timedelta(days=30)
"""For the first of several processes, while it writes tokens or analyses; a collective of NCCL would give up after minutes."""
Event = Callable[[str, Job, str], None]
"""Called with (what, job, message); what is start, done, skipped, failed, stopped, blocked, waiting, note, or share (of the job
that is done, a colon, and what is being done)."""


@dataclass
class Outcome:
    """How a plan ended: jobs by final state, messages of those that failed, the signal that stopped it (0: none)."""

    states: dict[str, str] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    stopped: int = 0
    usage_error: bool = False

    @property
    def failed(self) -> list[str]:
        """Ids of the jobs that failed themselves (not those blocked by them)."""
        return [job for job, state in self.states.items() if state == "failed"]


def default_workers() -> int:
    """One worker a GPU; without one, one a core that this process may use."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_plan(
    study: AnalysisDir, plan: Plan, *, workers: int, threads: int = 1, probes: Path | None = None,
    on_event: Event = lambda what, job, message: None, on_tick: Callable[[list[Job]], None] = lambda running: None,
) -> Outcome:  # fmt: skip
    """Run every job after those it needs, `workers` at a time; a failed job blocks only what needs it.

    SIGINT or SIGTERM stops the running jobs after their present step (state saved) and starts no more.
    """
    outcome = Outcome()
    todo = {job.id: job for job in plan.jobs}
    resting: dict[str, float] = {}  # jobs that another process does -> monotonic time of the next try
    crew = Crew(study, plan, workers, threads, probes)
    with collected(insisted=crew.kill) as received:
        while crew.jobs or (todo and not received):
            for worker in crew.ended(on_event):
                if worker.code == EXIT_BUSY and not received:
                    todo[worker.job.id] = worker.job
                    if worker.job.id not in resting:
                        on_event("waiting", worker.job, "\n".join(worker.errors))
                    resting[worker.job.id] = time.monotonic() + RETRY_SECONDS
                else:
                    _record(outcome, worker, on_event)
            if received and not outcome.stopped:
                outcome.stopped = received[0]
                crew.stop()
            while crew.free and not received and (job := _next(todo, resting, outcome, study, crew.known, on_event)):
                crew.give(job)
                if job.id not in resting:
                    on_event("start", job, "")
            on_tick(crew.jobs)
            time.sleep(0.1 if crew.jobs or todo else 0.0)
    crew.close()
    return outcome


def run_inline(
    study: StudyDir, plan: Plan, *,
    on_event: Event = lambda what, job, message: None, on_tick: Callable[[list[Job]], None] = lambda running: None,
) -> Outcome:  # fmt: skip
    """Run a plan in this process, one job after the other: the way under `accelerate launch`, where every process
    of the group works on the same run. Only the first process writes token files and analyses; the others wait."""
    import torch.distributed as dist
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    from nca_interp.train.health import Diverged
    from nca_interp.train.loop import Stopped

    # told of the CPU, or two CPU processes would be two worlds
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    waiting = dist.new_group(backend="gloo", timeout=LONGEST_WAIT) if dist.is_initialized() else None
    outcome = Outcome()
    for job in plan.jobs:
        if any(outcome.states[need] != "done" for need in job.needs):
            outcome.states[job.id] = "blocked"
            on_event("blocked", job, "")
            continue
        on_event("start", job, "")
        message = ""
        try:
            if job.kind == "train" or state.is_main_process:
                with _ticking(on_tick, job):
                    execute(study.path, job, None)
        except Stopped as stopped:
            outcome.stopped, outcome.states[job.id] = stopped.signal, "stopped"
            return outcome
        except Diverged as error:  # as all processes see it; any other failure ends them all
            message = outcome.messages[job.id] = str(error)
        if waiting is not None:
            dist.barrier(group=waiting)
        outcome.states[job.id] = "failed" if message else "done"
        on_event(outcome.states[job.id], job, message)
    return outcome


@contextmanager
def _ticking(on_tick: Callable[[list[Job]], None], job: Job) -> Iterator[None]:
    """Call `on_tick` now and then while this thread is busy with `job`."""
    over = threading.Event()

    def tick() -> None:
        while not over.wait(0.5):
            on_tick([job])

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _next(
    todo: dict[str, Job],
    resting: dict[str, float],
    outcome: Outcome,
    study: AnalysisDir,
    known: set[str],
    on_event: Event,
) -> Job | None:
    """Take the next ready job: finished ones are skipped, those whose needs failed are blocked. Long jobs first; of measurements
    those of runs that are `known` to who waits."""
    now = time.monotonic()
    changed = True
    while changed:
        changed = False
        for job in list(todo.values()):
            states = [outcome.states.get(need) for need in job.needs]
            if any(state in ("failed", "blocked", "stopped") for state in states):
                outcome.states[job.id] = "blocked"
                on_event("blocked", job, "")
            elif all(state == "done" for state in states) and now >= resting.get(job.id, 0.0) and is_done(study, job):
                outcome.states[job.id] = "done"
                on_event("skipped", job, "")
            else:
                continue
            del todo[job.id]
            changed = True
    ready = [
        job for job in todo.values()
        if now >= resting.get(job.id, 0.0) and all(outcome.states.get(need) == "done" for need in job.needs)
    ]  # fmt: skip
    if not ready:
        return None
    # what nobody else is doing comes first
    best = max(
        ready, key=lambda j: (j.id not in resting, j.kind == "tokens", j.kind == "train", j.flops, subject(j) in known)
    )
    return todo.pop(best.id)


def _record(outcome: Outcome, worker: Worker, on_event: Event) -> None:
    code, job = worker.code, worker.job
    state = "done" if code == 0 else "stopped" if code in (EXIT_STOPPED, 143, -signal.SIGTERM) else "failed"
    if code == EXIT_BUSY:
        state = "stopped"
    outcome.states[job.id] = state
    message = ""
    if state == "failed":
        message = "\n".join(worker.errors) or _death(code)
        outcome.messages[job.id] = message
        outcome.usage_error |= code == EXIT_USAGE
    on_event(state, job, message)


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = ", as the system does when memory is short" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}; the same command continues from the last state"
    return f"its process died (exit code {code}); the same command continues from the last state"
