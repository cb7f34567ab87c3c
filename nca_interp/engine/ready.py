"""Which jobs of a plan can be done now: linear in the number of jobs, whatever the number that waits."""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping

from nca_interp.engine.engines import Resources, subject
from nca_interp.engine.graph import Job

Order = tuple[bool, bool, bool, float, int]


class Ready:
    """Jobs that nobody does yet. Long ones come first, what another process was doing last; jobs that need the same lie in one heap, so
    that who has no room for one of them is asked for no other."""

    def __init__(self, jobs: Iterable[Job], needs: Mapping[str, Resources]) -> None:
        self._jobs = {job.id: job for job in jobs}
        self._place = {name: place for place, name in enumerate(self._jobs)}
        self._needs = dict(needs)
        self._missing = {job.id: set(job.needs) for job in self._jobs.values()}
        self._after: dict[str, list[str]] = defaultdict(list)
        for job in self._jobs.values():
            for need in job.needs:
                assert need in self._jobs, f"{job.id} needs {need}, which is not in the plan"
                self._after[need].append(job.id)
        self._open = set(self._jobs)
        self._heaps: dict[Resources, list[tuple[Order, str]]] = defaultdict(list)
        self._of: dict[str, list[tuple[int, str]]] = defaultdict(list)  # measurements by their run
        self._waiting: set[str] = set()  # in a heap
        self._resting: list[tuple[float, str]] = []
        self._rested: set[str] = set()
        for job in self._jobs.values():
            if not self._missing[job.id]:
                self._push(job)

    def __len__(self) -> int:
        """Jobs that are neither taken nor given up."""
        return len(self._open)

    def needs(self, job: Job) -> Resources:
        """What a job needs."""
        return self._needs.get(job.id, Resources())

    def offers(self, known: Iterable[str] = ()) -> list[Job]:
        """The best job of each need, the best first; of measurements one of a run that is `known`."""
        now = time.monotonic()
        while self._resting and self._resting[0][0] <= now:
            self._push(self._jobs[heapq.heappop(self._resting)[1]])
        found = []
        for needs, heap in list(self._heaps.items()):
            while heap and (heap[0][1] not in self._waiting or self.needs(self._jobs[heap[0][1]]) != needs):
                heapq.heappop(heap)
            if not heap:
                del self._heaps[needs]
                continue
            job = self._jobs[heap[0][1]]
            found.append((heap[0][0], self._alike(job, needs, known)))
        return [job for _, job in sorted(found, key=lambda one: one[0])]

    def take(self, job: Job) -> None:
        """It is being done."""
        self._waiting.discard(job.id)
        self._open.discard(job.id)

    def rest(self, job: Job, seconds: float) -> None:
        """Offer a job that was taken again, in so many seconds."""
        self._open.add(job.id)
        self._rested.add(job.id)
        heapq.heappush(self._resting, (time.monotonic() + seconds, job.id))

    def again(self, job: Job, needs: Resources) -> None:
        """Offer a job that was taken again, with other needs."""
        self._needs[job.id] = needs
        self.rest(job, 0.0)

    def done(self, job: Job) -> None:
        """What waited for it alone can be done now."""
        for name in self._after[job.id]:
            self._missing[name].discard(job.id)
            if not self._missing[name] and name in self._open:
                self._push(self._jobs[name])

    def lost(self, job: Job) -> list[Job]:
        """Give up whatever waits for a job that will never be done; returns it."""
        given_up, names = [], [job.id]
        while names:
            for name in self._after[names.pop()]:
                if name in self._open:
                    self.take(self._jobs[name])
                    given_up.append(self._jobs[name])
                    names.append(name)
        return given_up

    def _push(self, job: Job) -> None:
        place, kind = self._place[job.id], job.kind
        order = (job.id in self._rested, kind != "tokens", kind != "train", -job.flops, place)
        heapq.heappush(self._heaps[self.needs(job)], (order, job.id))
        self._waiting.add(job.id)
        if kind == "measure" and job.id not in self._rested:
            heapq.heappush(self._of[subject(job)], (place, job.id))

    def _alike(self, best: Job, needs: Resources, known: Iterable[str]) -> Job:
        if best.kind != "measure" or best.id in self._rested:
            return best
        places = []
        for run in known:
            heap = self._of.get(run, [])
            while heap and heap[0][1] not in self._waiting:
                heapq.heappop(heap)
            if heap and self.needs(self._jobs[heap[0][1]]) == needs:
                places.append(heap[0])
        return self._jobs[min(places)[1]] if places else best
