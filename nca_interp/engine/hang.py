"""Who hangs: a job that neither computes nor says anything, or one that computes and gets no further.

Further means whatever shows from outside: a step in its metrics, a checkpoint or state, a line in its record, tokens or a measurement on
disk, a word of its own (how much is done, a warning). Processor time is none: a loop without an end has that too. Both limits are generous,
since a job that is ended by mistake costs more than one that is found late.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nca_interp.base import duration
from nca_interp.engine.graph import Job, MeasureJob, TokensJob
from nca_interp.store import AnalysisDir, StudyDir
from nca_interp.train.run import RunConfig

if TYPE_CHECKING:
    import psutil

    from nca_interp.engine.crew import Worker

HUNG, STUCK = "NCA_INTERP_HUNG_SECONDS", "NCA_INTERP_STUCK_SECONDS"
"""Environment: how long a job may neither compute nor say anything; how long it may compute without getting further."""
HUNG_SECONDS, STUCK_SECONDS, LOOK_SECONDS, ALIVE_SECONDS = 600.0, 3600.0, 15.0, 0.2
"""That by default (at least); between two looks; processor time between them that shows life."""
TOKENS = 3
"""Times both limits of token files, which may wait for a network, or read a corpus without a word."""
AGAIN = 20
"""Times the longest time that the job has taken so far from one sign to the next."""
STEPS, SLOW_FLOPS = 21, {"cpu": 1e10, "cuda": 1e12}
"""From one sign of a run to the next there may be the work of so many steps (validation), at so many FLOP/s of a thread or GPU."""
ESTIMATES, SMALL_BYTES = 20, 4e6
"""Times the estimate of a measurement, which holds for weights of that size and grows with them."""


@dataclass
class Pulse:
    """When a worker last showed life at its job, and when it last got further."""

    heard: float = field(default_factory=time.monotonic)
    spent: float = 0.0
    """Processor seconds then."""
    further: float = field(default_factory=time.monotonic)
    longest: float = 0.0
    """Seconds from one sign to the next, so far."""
    left: object = None
    """What its files looked like then."""

    def spoke(self) -> None:
        """It said something."""
        now = time.monotonic()
        self.heard = now
        self._moved(now)

    def look(self, now: float, spent: float, left: object) -> None:
        """Processor seconds of the job and what its files look like, now."""
        if abs(spent - self.spent) >= ALIVE_SECONDS:
            self.spent, self.heard = spent, now
        if left != self.left and self.left is not None:
            self._moved(now)
        self.left = left

    def rest(self, seconds: float) -> None:
        """Seconds in which nobody looked do not count."""
        self.heard += seconds
        self.further += seconds

    def _moved(self, now: float) -> None:
        self.longest = max(self.longest, now - self.further)
        self.further = now


class Patience:
    """How long the jobs of a folder are waited for; `look` ends those that hang."""

    def __init__(self, folder: Path, threads: int, device: str) -> None:
        self._folder, self._flops = folder, SLOW_FLOPS["cuda"] if device == "cuda" else SLOW_FLOPS["cpu"] * threads
        self._silent = float(os.environ.get(HUNG, HUNG_SECONDS))
        self._given = os.environ.get(STUCK)
        self._pause = min(LOOK_SECONDS, self._silent / 4, float(self._given or STUCK_SECONDS) / 4)
        self._looked = time.monotonic()

    def silent(self, job: Job) -> float:
        """Seconds that a job may neither compute nor say anything."""
        return self._silent * (TOKENS if isinstance(job.payload, TokensJob) else 1)

    def stuck(self, job: Job, longest: float = 0.0) -> float:
        """Seconds that a job may compute without getting further: what is asked for, or else an hour and what its estimate allows; never less
        than AGAIN times the `longest` that it took before."""
        least = float(self._given) if self._given else STUCK_SECONDS
        if isinstance(job.payload, TokensJob):
            least *= TOKENS
        elif not self._given:
            least = max(least, self._estimate(job))
        return max(least, AGAIN * longest)

    def _estimate(self, job: Job) -> float:
        if isinstance(job.payload, RunConfig):
            return STEPS * job.flops / job.payload.config.steps / self._flops
        return ESTIMATES * job.cost * (1 + job.weights / SMALL_BYTES)

    def look(self, workers: Iterable[Worker]) -> None:
        """End those that hang, with all their children, and say in `hung` why; nothing where the last look was just now."""
        now = time.monotonic()
        since, self._looked = now - self._looked, now if now - self._looked >= self._pause else self._looked
        if since < self._pause:
            return
        for worker in workers:
            if since > 4 * self._pause:  # this process was stopped, or busy with something else
                worker.pulse.rest(since)
            self._look_at(worker, now)

    def _look_at(self, worker: Worker, now: float) -> None:
        import psutil

        with suppress(psutil.Error, OSError):
            process = psutil.Process(worker.process.pid)
            everyone = [process, *process.children(recursive=True)]
            pulse, job = worker.pulse, worker.job
            if any(_waits_for_a_core(one) for one in everyone):
                pulse.heard = now
            pulse.look(now, sum(_spent(one) for one in everyone), tuple(traces(self._folder, job)))
            silent, stuck = self.silent(job), self.stuck(job, pulse.longest)
            if now - pulse.heard > silent:
                worker.hung = f"it neither computed nor said anything for {duration(silent)} and was ended"
            elif now - pulse.further > stuck:
                worker.hung = f"it computed for {duration(stuck)} without getting further (no step, no file, no word) and was ended"
            for one in reversed(everyone if worker.hung else []):
                with suppress(psutil.Error):
                    one.kill()


def _waits_for_a_core(process: psutil.Process) -> bool:
    """Whether it would compute, were the machine less busy."""
    import psutil

    with suppress(psutil.Error):
        return bool(process.status() == psutil.STATUS_RUNNING)
    return False


def _spent(process: psutil.Process) -> float:
    import psutil

    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def traces(folder: Path, job: Job) -> Iterator[tuple[str, int, int]]:
    """(path, size, time in ns) of what a job has left so far in the folder of its study or analysis."""
    study = StudyDir(folder)
    if isinstance(job.payload, RunConfig):
        run = study.run(job.payload.id)
        places = [(run.path, 1), (run.checkpoints, 2), (run.states, 2)]
    elif isinstance(job.payload, MeasureJob):
        of, what = job.payload.subject, job.payload.what
        places = [(study.run(of).path / what, 2), (AnalysisDir(folder).measured / of / what, 2)]
    else:
        name = Path(job.payload.path).name
        places = [(path, 2) for path in sorted(study.tokens.glob(f".*{name}*")) if path.is_dir()]
    for place, depth in places:
        yield from _entries(place, depth)


def _entries(folder: Path, depth: int) -> Iterator[tuple[str, int, int]]:
    with suppress(OSError):
        for entry in sorted(os.scandir(folder), key=lambda one: one.name):
            with suppress(OSError):
                stat = entry.stat(follow_symlinks=False)
                yield entry.path, stat.st_size, stat.st_mtime_ns
                if depth > 1 and entry.is_dir(follow_symlinks=False):
                    yield from _entries(Path(entry.path), depth - 1)
