"""Run a plan in this process, one job after the other: the way under `accelerate launch`, where every process of the group works on
the same run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from nca_interp.engine.graph import Job, Plan
from nca_interp.engine.jobs import execute
from nca_interp.engine.runner import Event, Outcome
from nca_interp.store import StudyDir

LONGEST_WAIT = timedelta(days=30)
"""For the first of several processes, while it writes tokens or analyses; a collective of NCCL would give up after minutes."""


def run_inline(
    study: StudyDir, plan: Plan, *,
    on_event: Event = lambda what, job, message: None, on_tick: Callable[[list[Job]], None] = lambda running: None,
) -> Outcome:  # fmt: skip
    """Run every job of a plan here; only the first process of a group writes token files and analyses, the others wait."""
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
