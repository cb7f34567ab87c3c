"""A plan in a control group with too little memory: `python -m tests.engine.short_of_memory GROUP FOLDER LIMIT`, started by test_memory.py.

This process enters the group, so its workers are in it too. Prints what became of each job as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from nca_interp.engine.engines import Asked
from nca_interp.engine.graph import Job, MeasureJob, Plan

CHUNK = 20_000_000


def body(study: Path, job: Job, probes, say, smaller: bool) -> None:
    """`hog` takes memory until the kernel ends it, `greedy` too at its second try; `killed` is ended by somebody else."""
    first = not (study / job.id).exists()
    (study / job.id).touch()
    if job.payload.what == "greedy" or (job.payload.what == "hog" and not smaller):
        held = []
        while True:
            held.append(bytearray(os.urandom(1)) * CHUNK)
    if job.payload.what == "killed" and first:
        os.kill(os.getpid(), signal.SIGKILL)


def main(group: Path, folder: Path, limit: int) -> None:
    from nca_interp.engine.local import LocalEngine
    from nca_interp.engine.memory import free_memory, total_memory
    from nca_interp.engine.runner import run_plan
    from nca_interp.store import AnalysisDir

    (group / "cgroup.procs").write_text(str(os.getpid()))
    assert total_memory() == limit, (total_memory(), limit)
    assert 0 < free_memory() < limit
    jobs = [
        Job(name, "train", MeasureJob(what, name), needs, 0.0)
        for name, what, needs in (
            ("killed", "killed", ()),
            ("hog", "hog", ("killed",)),  # one after the other: a kill of either is no sign of the other
            ("greedy", "greedy", ("hog",)),
            ("blocked", "fine", ("greedy",)),
            ("fine", "fine", ("hog",)),
        )
    ]
    retried: dict[str, str] = {}

    def event(what: str, job: Job, message: str) -> None:
        if what == "retried":
            retried[job.id] = message

    engine = LocalEngine(Asked(folder, lambda device: {}, workers=2, device="cpu", kinds=frozenset(), body=body))
    outcome = run_plan(
        AnalysisDir(folder), Plan(None, jobs), engine=engine, on_event=event, done=lambda study, job: False
    )
    print(json.dumps({"states": outcome.states, "messages": outcome.messages, "retried": retried}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
