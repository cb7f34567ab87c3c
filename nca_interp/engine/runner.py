"""Run a plan on this machine: one worker process per core (or GPU), each job in a fresh fork of a warm server.

The fork server has imported torch and transformers once, so a job starts in milliseconds and a crash takes nothing
with it. Workers talk to the parent through the files they write anyway; the parent only watches.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from nca_interp.base import RunFailed, UserError
from nca_interp.engine.jobs import execute, is_done
from nca_interp.engine.plan import Job, Plan
from nca_interp.store import StudyDir, write_text

EXIT_USAGE, EXIT_FAILED, EXIT_STOPPED = 2, 1, 130
Event = Callable[[str, Job, str], None]
"""Called with (what, job, message); what is start, done, skipped, failed, stopped or blocked."""


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
    study: StudyDir, plan: Plan, *, workers: int, threads: int = 1, probes: Path | None = None,
    on_event: Event = lambda what, job, message: None, on_tick: Callable[[list[Job]], None] = lambda running: None,
) -> Outcome:  # fmt: skip
    """Run every job after those it needs, `workers` at a time; a failed job blocks only what needs it.

    SIGINT or SIGTERM stops the running jobs after their present step (state saved) and starts no more.
    """
    outcome = Outcome()
    todo = {job.id: job for job in plan.jobs}
    live: dict[str, tuple[BaseProcess, Job, int]] = {}
    slots = list(range(workers))
    logs = study.path / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    context = _fork_server(threads)
    with _collect_signals() as received:
        while live or (todo and not received):
            for job_id, (process, job, slot) in list(live.items()):
                if process.exitcode is not None:
                    del live[job_id]
                    slots.append(slot)
                    _record(outcome, job, process.exitcode, logs, on_event)
            if received and not outcome.stopped:
                outcome.stopped = received[0]
                for process, _, _ in live.values():
                    process.terminate()
            if len(received) > 1:
                for process, _, _ in live.values():
                    process.kill()
            while slots and not received and (ready := _next(todo, outcome, study, on_event)):
                slot = slots.pop(0)
                worker = context.Process(target=_work, args=(study.path, ready, probes, slot, os.getpid()), daemon=True)
                worker.start()
                live[ready.id] = (worker, ready, slot)
                on_event("start", ready, "")
            on_tick([job for _, job, _ in live.values()])
            time.sleep(0.1 if live else 0.0)
    return outcome


def run_inline(study: StudyDir, plan: Plan, on_event: Event, probes: Path | None = None) -> Outcome:
    """Run a plan in this process, one job after the other: the way under `accelerate launch`, where every process
    of the group works on the same run. Only the first process writes token files and analyses."""
    import torch.distributed as dist
    from accelerate import PartialState

    state = PartialState()
    outcome = Outcome()
    for job in plan.jobs:
        on_event("start", job, "")
        if job.kind == "train" or state.is_main_process:
            execute(study.path, job, probes)
        if dist.is_initialized():
            dist.barrier()
        outcome.states[job.id] = "done"
        on_event("done", job, "")
    return outcome


def _next(todo: dict[str, Job], outcome: Outcome, study: StudyDir, on_event: Event) -> Job | None:
    """Take the next ready job: finished ones are skipped, those whose needs failed are blocked. Long jobs first."""
    changed = True
    while changed:
        changed = False
        for job in list(todo.values()):
            states = [outcome.states.get(need) for need in job.needs]
            if any(state in ("failed", "blocked", "stopped") for state in states):
                outcome.states[job.id] = "blocked"
                on_event("blocked", job, "")
            elif all(state == "done" for state in states) and is_done(study, job):
                outcome.states[job.id] = "done"
                on_event("skipped", job, "")
            else:
                continue
            del todo[job.id]
            changed = True
    ready = [j for j in todo.values() if all(outcome.states.get(need) == "done" for need in j.needs)]
    if not ready:
        return None
    return todo.pop(max(ready, key=lambda j: (j.kind == "tokens", j.kind == "train", j.flops)).id)


def _record(outcome: Outcome, job: Job, code: int | None, logs: Path, on_event: Event) -> None:
    state = "done" if code == 0 else "stopped" if code in (EXIT_STOPPED, 143, -signal.SIGTERM) else "failed"
    outcome.states[job.id] = state
    message = ""
    if state == "failed":
        log = _log_file(logs, job)
        message = log.read_text().strip() if log.exists() else f"the worker died (exit code {code})"
        outcome.messages[job.id] = message
        outcome.usage_error |= code == EXIT_USAGE
    on_event(state, job, message)


def _log_file(logs: Path, job: Job) -> Path:
    return logs / f"{job.id.replace('/', '_').replace(':', '_')}.error.txt"


def _fork_server(threads: int) -> multiprocessing.context.ForkServerContext:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nca_interp.engine.preload"])
    return context


def _work(study: Path, job: Job, probes: Path | None, slot: int, parent: int) -> None:
    """Body of a worker process: do the job, leave the error in a file, exit with its code."""
    os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which then asks each worker once
    _die_with(parent)
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if os.environ.get("CUDA_VISIBLE_DEVICES") is None and torch.cuda.device_count() > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(slot % torch.cuda.device_count())
    log = _log_file(study / "logs", job)
    log.unlink(missing_ok=True)
    sys.exit(_guarded(study, job, probes, log))


def _guarded(study: Path, job: Job, probes: Path | None, log: Path) -> int:
    from nca_interp.train.loop import Stopped

    try:
        execute(study, job, probes)
    except Stopped as stopped:
        return 128 + stopped.signal
    except UserError as error:
        write_text(log, f"{error}\n")
        return EXIT_USAGE
    except RunFailed as error:
        write_text(log, f"{error}\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_STOPPED
    except Exception:
        import traceback

        write_text(log, traceback.format_exc())
        return EXIT_FAILED
    return 0


def _die_with(parent: int) -> None:
    """Ask the kernel for SIGTERM when the fork server goes, which goes when the parent does: no orphan trains on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            sys.exit(EXIT_STOPPED)


@contextmanager
def _collect_signals() -> Iterator[list[int]]:
    received: list[int] = []
    old = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError):  # not the main thread
            old[number] = signal.signal(number, lambda n, frame: received.append(n))
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
