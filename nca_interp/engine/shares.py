"""A plan cut into shares of about the same work, for as many processes that know nothing of each other (an array of a queue)."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable

from nca_interp.base import UserError
from nca_interp.engine.graph import Job, Plan
from nca_interp.engine.stands import Stand, left


def parse_share(text: str) -> tuple[int, int]:
    """(which, of how many) of `I/N`, I from 0. UserError for anything else."""
    which, _, of = text.partition("/")
    if not (which.isdecimal() and of.isdecimal() and int(which) < int(of)):
        raise UserError(f"--share {text}: legal: I/N, the I-th of N shares, I from 0 to N - 1")
    return int(which), int(of)


def only(plan: Plan, job: str) -> Plan:
    """One job of a plan, what it needs taken as done. UserError where there is none of that id."""
    from nca_interp.config import suggest

    found = [one._replace(needs=()) for one in plan.jobs if one.id == job]
    if not found:
        raise UserError(f"--job {job}: not in the plan{suggest(job, [one.id for one in plan.jobs])}")
    return Plan(plan.study, found)


def share(plan: Plan, which: int, of: int) -> Plan:
    """One of `of` shares: the runs that nothing else of the plan starts from, spread by their FLOPs, those of one parent together as far as
    that goes, each with all it needs. What two shares need is done by who comes first; the other waits for it."""
    bins = _spread(plan, of)
    return Plan(plan.study, _closed(plan.jobs, (job for job, place in bins.items() if place == which)))


def leaves(plan: Plan) -> int:
    """Shares that are not empty, at most."""
    return len(_spread(plan, 1))


def costs(plan: Plan, of: int, stands: dict[str, Stand] | None = None) -> list[float]:
    """FLOPs of every share, what it needs included; `stands`: of that, what is still to be done."""
    to_do = {job.id: job.flops * left(job, stands or {}) for job in plan.jobs}
    bins, by_bin = _spread(plan, of), defaultdict[int, list[str]](list)
    for job, place in bins.items():
        by_bin[place].append(job)
    return [sum(to_do[job.id] for job in _closed(plan.jobs, by_bin[place])) for place in range(of)]


def _spread(plan: Plan, of: int) -> dict[str, int]:
    """The share of every run that no other run needs, or of every job where there is no run."""
    by_id = {job.id: job for job in plan.jobs}
    needed = {need for job in plan.jobs for need in job.needs if job.kind == "train"}
    leaves = [job for job in plan.jobs if job.id not in needed and job.kind == "train"]
    leaves = leaves or [job for job in plan.jobs if not any(job.id in other.needs for other in plan.jobs)]
    groups: dict[str, list[Job]] = defaultdict(list)
    for job in leaves:
        groups[_root(job, by_id)].append(job)
    limit = sum(job.flops for job in plan.jobs) / of
    whole: list[tuple[float, list[Job]]] = []
    for jobs in groups.values():
        together = _flops(jobs, by_id)
        whole += [(together, jobs)] if together <= limit else [(_flops([job], by_id), [job]) for job in jobs]
    heap, found = [(0.0, place) for place in range(of)], {}
    for flops, jobs in sorted(whole, key=lambda one: -one[0]):
        taken, place = heapq.heappop(heap)
        heapq.heappush(heap, (taken + flops, place))
        found.update({job.id: place for job in jobs})
    return found


def _root(job: Job, by_id: dict[str, Job]) -> str:
    """The first training that a job comes from."""
    while before := next((need for need in job.needs if by_id[need].kind == "train"), None):
        job = by_id[before]
    return job.id


def _flops(jobs: Iterable[Job], by_id: dict[str, Job]) -> float:
    """Of jobs and all that they need."""
    return sum(by_id[name].flops for name in _with_needs((job.id for job in jobs), by_id))


def _closed(jobs: list[Job], wanted: Iterable[str]) -> list[Job]:
    """Jobs and all that they need, in the order of the plan."""
    found = _with_needs(wanted, {job.id: job for job in jobs})
    return [job for job in jobs if job.id in found]


def _with_needs(names: Iterable[str], by_id: dict[str, Job]) -> set[str]:
    found, open_ = set[str](), list(names)
    while open_:
        name = open_.pop()
        if name not in found:
            found.add(name)
            open_ += by_id[name].needs
    return found
