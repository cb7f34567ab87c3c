"""The worker processes of a plan: who does what, who waits for more, and what they say.

A measurement takes seconds, of which opening libraries, drawing stimuli and testing how a model is read are the larger part. So a
process that measured is asked for the next measurement, preferably of the same run; training and token files get a fresh one each.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from nca_interp.engine.engines import Asked, subject
from nca_interp.engine.graph import Job
from nca_interp.engine.hang import Pulse
from nca_interp.engine.memory import oom_kills
from nca_interp.engine.worker import Work, goes_on, work
from nca_interp.signals import shielded

ALWAYS = ["nca_interp.engine.worker", "nca_interp.train.loop"]
"""What every worker needs to say how its job ended."""
PRELOAD = {
    "tokens": ["nca_interp.data.tokens"],
    "train": ["transformers.models.llama.modeling_llama"],
    "measure": ["nca_interp.analysis.probing.study", "transformers.models.llama.modeling_llama"],
}
"""What the fork server imports once for jobs of a kind, so that one starts in milliseconds."""


@dataclass
class Worker:
    """A process and the job that it does, or did last."""

    process: BaseProcess
    job: Job
    slot: int
    pipe: Connection
    errors: list[str] = field(default_factory=list)
    gpu: int | None = None
    code: int | None = None
    """How its job ended, as an exit code; None while it is under way."""
    pulse: Pulse = field(default_factory=Pulse)
    hung: str = ""
    """Why it was ended, if it hung."""
    oom_kills: int = field(default_factory=oom_kills)
    """Of the machine, when its job began."""


class Crew:
    """At most `workers` processes, forks of one server that has imported what jobs need."""

    def __init__(self, asked: Asked, workers: int) -> None:
        self._asked = asked
        self._context: multiprocessing.context.ForkServerContext | None = None
        self._slots = list(range(workers))
        self._idle: list[Worker] = []
        self._live: dict[str, Worker] = {}

    @property
    def jobs(self) -> list[Job]:
        """What is being done."""
        return [worker.job for worker in self._live.values()]

    @property
    def live(self) -> list[Worker]:
        """Those who do something."""
        return list(self._live.values())

    @property
    def free(self) -> bool:
        """Whether somebody can take a job."""
        return bool(self._slots or self._idle)

    @property
    def known(self) -> set[str]:
        """Runs that those who wait measured last."""
        return {subject(worker.job) for worker in self._idle}

    def give(self, job: Job, smaller: bool = False, gpu: int | None = None) -> None:
        """Have somebody do a job, on one of the GPUs that this process may use."""
        fit = [w for w in self._idle if w.gpu == gpu] if job.kind == "measure" and not smaller else []
        if fit:
            worker = next((w for w in fit if subject(w.job) == subject(job)), fit[0])
            self._idle.remove(worker)
            with suppress(OSError):  # one that died while it waited is found dead at its job
                worker.pipe.send(job)
            worker.job, worker.errors, worker.code = job, [], None
            worker.pulse, worker.oom_kills = Pulse(), oom_kills()
        else:
            if not self._slots:
                self._dismiss(self._idle.pop())
            worker = self._start(job, self._slots.pop(0), smaller, gpu)
        self._live[job.id] = worker

    def wait(self, timeout: float) -> None:
        """Until somebody says something or ends, at most so many seconds."""
        heard: list[Connection | int] = [worker.pipe for worker in self._live.values() if not worker.pipe.closed]
        heard += [worker.process.sentinel for worker in self._live.values()]
        wait(heard, timeout) if heard else time.sleep(timeout)

    def ended(self, said: Callable[[str, Job, str], None]) -> list[Worker]:
        """Those whose job has ended since it was asked; `said` gets what workers say, but for errors, which are kept."""
        over = []
        for worker in list(self._live.values()):
            died = worker.process.exitcode  # before it is listened to: what it said last is not lost
            self._listen(worker, said)
            if worker.code is None and died is None:
                continue
            del self._live[worker.job.id]
            if worker.code is None or not goes_on(worker.job, worker.code):
                worker.code = died if worker.code is None else worker.code
                self._dismiss(worker)
            else:
                self._idle.append(worker)
            over.append(worker)
        return over

    def stop(self) -> None:
        """Ask every worker to stop."""
        for worker in self._live.values():
            worker.process.terminate()

    def kill(self) -> None:
        """End every worker."""
        for worker in self._live.values():
            worker.process.kill()

    def close(self) -> None:
        """Let those go who wait."""
        while self._idle:
            self._dismiss(self._idle.pop())

    def _start(self, job: Job, slot: int, smaller: bool, gpu: int | None) -> Worker:
        if self._context is None:
            self._context = _fork_server(self._asked.kinds, self._asked.threads)
        pipe, theirs = self._context.Pipe()
        asked = Work(self._asked.folder, job, self._asked.probes, smaller, gpu, os.getpid(), self._asked.body)
        process = self._context.Process(target=work, args=(asked, theirs), daemon=True)
        resource_tracker.ensure_running()  # here, since it takes the shield away
        with shielded():  # a signal to all processes must leave the server, which alone knows how its workers ended
            forkserver.ensure_running()
        process.start()
        theirs.close()
        return Worker(process, job, slot, pipe, gpu=gpu)

    def _dismiss(self, worker: Worker) -> None:
        worker.pipe.close()  # what it waits for ends
        self._slots.append(worker.slot)

    def _listen(self, worker: Worker, said: Callable[[str, Job, str], None]) -> None:
        with suppress(EOFError, OSError):
            while worker.pipe.poll():
                kind, _, text = worker.pipe.recv_bytes().decode().partition(":")
                worker.pulse.spoke()
                if kind == "error":
                    worker.errors.append(text)
                elif kind == "ended":
                    worker.code = int(text)
                else:
                    said(kind, worker.job, text)


def _fork_server(kinds: Iterable[str], threads: int) -> multiprocessing.context.ForkServerContext:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["PYTHONSAFEPATH"] = "1"  # the server imports what it preloads, and never from the working directory
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*ALWAYS, *(module for kind in sorted(kinds) for module in PRELOAD[kind])])
    return context
