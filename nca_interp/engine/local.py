"""The embedded engine: worker processes of this machine (crew.py), by cores and by memory, several on a GPU where they fit.

Nothing to install, no server, no port. Who hangs is ended and named; whom the kernel ended for want of memory is told from whom
somebody killed; the runner tries each of them once more.
"""

from __future__ import annotations

import signal

from nca_interp.base import UserError
from nca_interp.engine.crew import Crew, Worker
from nca_interp.engine.engines import Asked, Resources, Said, distinct
from nca_interp.engine.graph import Job
from nca_interp.engine.hang import Patience
from nca_interp.engine.memory import free_memory, gpu_bytes, oom_kills, total_memory
from nca_interp.engine.worker import EXIT_MEMORY

SERVER_LOST = 255
"""Exit code of a worker whose fork server was ended, as multiprocessing has it; no worker ends with it itself."""
GPU_SHARE = 0.95
"""Of a GPU's memory that jobs may be given."""


def connect(asked: Asked) -> LocalEngine:
    """The engine of this machine. UserError where a job needs more memory than there is."""
    return LocalEngine(asked)


def default_workers() -> int:
    """One worker a GPU; without one, one a core that this process may use."""
    import torch

    from nca_interp.machine import cores

    return torch.cuda.device_count() if torch.cuda.is_available() else cores()


class LocalEngine:
    """Worker processes of this machine."""

    def __init__(self, asked: Asked) -> None:
        self.asked, self.about = asked, ""
        self.workers = asked.workers or default_workers()
        self._memory, self._gpus = free_memory(), [GPU_SHARE * n for n in gpu_bytes(asked.device)]
        self._taken: dict[str, tuple[Resources, int | None]] = {}
        self._cancelled, self._started = False, list[Said]()
        self.needs = asked.needs("cuda" if self._gpus else "cpu")
        _refuse(self.needs, self._gpus)
        self._patience = Patience(asked.folder, asked.threads, "cuda" if self._gpus else "cpu")
        self._crew = Crew(asked, self.workers)

    @property
    def known(self) -> set[str]:
        """Runs that those who wait measured last."""
        return self._crew.known

    @property
    def running(self) -> list[Job]:
        """What is being done."""
        return self._crew.jobs

    @property
    def room(self) -> bool:
        """Whether a worker is free."""
        return self._crew.free

    def submit(self, job: Job, resources: Resources) -> bool:
        """Start a job, unless all workers are busy or the running ones leave too little memory; one that runs alone always starts."""
        used = sum(needs.memory for needs, _ in self._taken.values())
        if not self._crew.free or (self._taken and used + resources.memory > self._memory):
            return False
        gpu = self._gpu(resources) if resources.gpu_memory and self._gpus else None
        if gpu is not None and gpu < 0:
            return False
        self._taken[job.id] = (resources, gpu)
        self._crew.give(job, resources.smaller, gpu)
        self._started.append(Said("start", job))
        return True

    def events(self, timeout: float) -> list[Said]:
        """What workers said, and how those ended that did."""
        said, self._started = self._started, []
        self._crew.wait(0.0 if said else timeout)
        for worker in self._crew.ended(lambda what, job, text: said.append(Said(what, job, text))):  # type: ignore[arg-type]
            del self._taken[worker.job.id]
            said.append(self._ended(worker))
        self._patience.look(self._crew.live)
        return said

    def cancel(self, now: bool = False) -> None:
        """Ask every worker to stop, or end it."""
        self._cancelled = True
        self._crew.kill() if now else self._crew.stop()

    def close(self) -> None:
        """Let those go who wait."""
        self._crew.close()

    def _gpu(self, needs: Resources) -> int:
        """The GPU with most memory left, where that is enough or nobody else computes there; -1: none."""
        free, jobs = list(self._gpus), [0] * len(self._gpus)
        for other, gpu in self._taken.values():
            if gpu is not None:
                free[gpu] -= other.gpu_memory
                jobs[gpu] += 1
        best = max(range(len(free)), key=lambda n: (free[n], -n))
        return best if not jobs[best] or needs.gpu_memory <= free[best] else -1

    def _ended(self, worker: Worker) -> Said:
        code = worker.code or 0
        text = "\n".join(worker.errors)
        if worker.hung:
            return Said("ended", worker.job, worker.hung, code, "hung")
        if code == EXIT_MEMORY:
            return Said("ended", worker.job, text, code, "memory")
        if code == -signal.SIGKILL and oom_kills() > worker.oom_kills:
            return Said(
                "ended", worker.job, "the system ended its process since memory is short (SIGKILL)", code, "memory"
            )
        if code == SERVER_LOST:
            text = "the process from which workers are started is gone, and so is it; the same command continues from the last state"
            return Said("ended", worker.job, text, code, "" if self._cancelled else "killed")
        if code < 0:
            return Said("ended", worker.job, text or _death(code), code, "" if self._cancelled else "killed")
        return Said("ended", worker.job, text if text or not code else f"its process died (exit code {code})", code)


def _refuse(needs: dict[str, Resources], gpus: list[float]) -> None:
    """UserError for a job that fits on nothing that is here."""
    from nca_interp.engine.cost import size

    total = total_memory()
    for what, job in distinct(needs).items():
        if gpus and what.gpu_memory > max(gpus) / GPU_SHARE:
            raise UserError(
                f"{job}: needs about {size(what.gpu_memory)} of a GPU, the largest here has {size(max(gpus) / GPU_SHARE)}; a smaller "
                "micro_batch or gradient_checkpointing=true needs less, several GPUs share one run under accelerate launch (--shard)"
            )
        if what.memory > total:
            raise UserError(
                f"{job}: needs about {size(what.memory)} of memory, this machine has {size(total)}; a smaller micro_batch "
                "or gradient_checkpointing=true needs less"
            )


def _death(code: int) -> str:
    name = signal.Signals(-code).name
    hint = ", as the system does when memory is short" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}; the same command continues from the last state"
