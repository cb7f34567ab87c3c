"""Jobs as tasks of a Ray cluster that is there already (extra [ray], Ray Core only: remote, wait, get, cancel).

A task does what a local worker does, guarded by the same locks, and writes to the folder that all nodes share; it returns an exit code and
what went wrong. So whatever dies, the files are right: a lost worker or node is tried again by Ray (max_retries), and where the head goes
Ray ends this process at once, without an exception, and the same command skips what is finished.
"""

from __future__ import annotations

import logging
import math
import os
import time
from pathlib import Path
from typing import Any

from nca_interp.engine.engines import Asked, Resources, Said
from nca_interp.engine.graph import Job
from nca_interp.engine.journal import Journal, Journals
from nca_interp.engine.ray_cluster import check as check
from nca_interp.engine.ray_cluster import check_needs, looked_at, probe
from nca_interp.engine.ray_node import FORWARDED, Task, perform
from nca_interp.engine.worker import EXIT_FAILED, EXIT_MEMORY, EXIT_STOPPED

LOST_RETRIES = 3
"""Of a task whose worker or node was lost."""
IN_FLIGHT = 1000
"""Tasks that are given to the cluster at a time, at most."""
TELL_SECONDS = 1.0
"""Between two readings of what jobs say."""


def connect(asked: Asked) -> RayEngine:
    """The cluster at an address; one is never started. UserError where none answers, where a node does not see the folder, or where no
    node has what a job needs."""
    import ray

    address = asked.address or os.environ.get("RAY_ADDRESS", "auto")
    check("" if address == "auto" else address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    probe(address)
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        return RayEngine(asked)
    except BaseException:
        ray.shutdown()
        raise


class RayEngine:
    """The nodes of a cluster."""

    def __init__(self, asked: Asked) -> None:
        import ray

        self.asked = asked
        self.known: set[str] = set()
        nodes = looked_at(asked.folder)
        self._gpu = min((node.gpu_bytes for node in nodes if node.gpus), default=0.0)  # 0: of one it is unknown
        gpus = asked.device != "cpu" and any(node.gpus for node in nodes)
        self.needs = asked.needs("cuda" if gpus else "cpu")
        check_needs(self.needs, nodes, asked.device)
        room = sum(int(node.cpus // asked.threads) for node in nodes)
        self.about = (
            f"ray: {len(nodes)} node(s), {sum(n.cpus for n in nodes):g} cores, {sum(n.gpus for n in nodes):g} GPUs"
        )
        self.workers = asked.workers or max(1, room)
        self._most = asked.workers or IN_FLIGHT
        self._once, self._again = ray.remote(max_calls=1)(perform), ray.remote(perform)
        self._task = asked._replace(needs=_nothing)  # the whole plan need not travel with each job
        self._refs: dict[Any, Job] = {}
        self._jobs: dict[str, Job] = {}
        self._doing: dict[str, Job] = {}
        self._said = Journals(asked.folder)
        self._own, self._told = Journal(asked.folder).path, 0.0
        list(self._said.fresh())  # of earlier commands

    @property
    def running(self) -> list[Job]:
        """What somebody has begun."""
        return list(self._doing.values())

    @property
    def room(self) -> bool:
        """Whether another task is given to the cluster now."""
        return len(self._refs) < self._most

    def submit(self, job: Job, resources: Resources) -> bool:
        """Make a task of a job: the cluster decides where and when. Training gets a worker of its own."""
        if not self.room:
            return False
        self._own.parent.mkdir(parents=True, exist_ok=True)
        self._own.touch()
        environment = {name: os.environ[name] for name in FORWARDED if name in os.environ}
        task = Task(self._task, job, resources.smaller, Path.cwd(), environment, self._own)
        remote = self._again if job.kind == "measure" else self._once
        options = {
            "name": job.id,
            "num_cpus": resources.cpus,
            "num_gpus": self._share(resources),
            "memory": int(resources.memory),
            "max_retries": LOST_RETRIES,
        }
        self._refs[remote.options(**options).remote(task)] = job
        self._jobs[job.id] = job
        return True

    def _share(self, resources: Resources) -> float:
        """Of a GPU; a whole one where nobody knows its memory."""
        if not resources.gpu_memory:
            return 0.0
        return min(1.0, math.ceil(100 * resources.gpu_memory / self._gpu) / 100) if self._gpu else 1.0

    def events(self, timeout: float) -> list[Said]:
        """What tasks said through the shared folder, and how those ended that did."""
        import ray

        if not self._refs:
            time.sleep(timeout)
            return []
        refs = list(self._refs)
        done, _ = ray.wait(refs, num_returns=1, timeout=timeout)
        if done:
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        said = self._heard() if done or time.monotonic() - self._told > TELL_SECONDS else []
        return said + [self._ended(ref, self._refs.pop(ref)) for ref in done]

    def cancel(self, now: bool = False) -> None:
        """Cancel every task; one that trains finishes its step and saves, unless `now`."""
        import ray

        for ref in self._refs:
            ray.cancel(ref, force=now)

    def close(self) -> None:
        """Leave the cluster as it is."""
        import ray

        ray.shutdown()

    def _ended(self, ref: Any, job: Job) -> Said:
        import ray
        from ray import exceptions

        self._doing.pop(job.id, None)
        self._jobs.pop(job.id, None)
        try:
            code, text = ray.get(ref)
        except exceptions.TaskCancelledError:
            return Said("ended", job, "", EXIT_STOPPED)
        except exceptions.OutOfMemoryError as error:
            return Said("ended", job, f"memory was short on its node ({_first(error)})", EXIT_FAILED, "memory")
        except (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.LocalRayletDiedError) as error:
            return Said(
                "ended",
                job,
                f"its worker or node was lost {LOST_RETRIES + 1} times ({_first(error)})",
                EXIT_FAILED,
                "killed",
            )
        except exceptions.RayError as error:
            return Said("ended", job, _first(error), EXIT_FAILED)
        return Said("ended", job, text, code, "memory" if code == EXIT_MEMORY else "")

    def _heard(self) -> list[Said]:
        self._told, said = time.monotonic(), []
        for path, row in self._said.fresh():
            job, what = self._jobs.get(str(row["job"])), row["what"]
            if job is None or path == self._own or what not in ("start", "note", "share"):
                continue
            if what == "start":
                self._doing[job.id] = job
            said.append(Said(what, job, str(row.get("message", ""))))
        return said


def _first(error: BaseException) -> str:
    """What a Ray error says, without its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def _nothing(device: str) -> dict[str, Resources]:
    return {}
