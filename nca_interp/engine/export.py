"""A plan for other engines: the graph as JSON, as a makefile, as a drawing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nca_interp.engine.engines import Resources
from nca_interp.engine.graph import Plan
from nca_interp.engine.stands import BEGINNING, Stand
from nca_interp.train.run import RunConfig

COLOURS = {"tokens": "lightgrey", "train": "lightblue", "measure": "lightgreen"}
FINISHED = ("done", "left out")


class Commands(NamedTuple):
    """The words of the commands that do the work of a plan."""

    train: Sequence[str]
    """All training; `--job ID` does one job of the plan."""
    analyze: Sequence[str]
    report: Sequence[str]

    def job(self, name: str) -> str:
        """The command line that does one job."""
        return shlex.join([*self.train, "--job", name])


def as_json(
    plan: Plan, needs: Mapping[str, Resources], commands: Commands, folder: Path, stands: Mapping[str, Stand]
) -> Iterator[str]:
    """Lines of one JSON object: every job with what it needs, how far it is, and the command that does it. A job's command is idempotent, leaves with 0 once
    it is done, and with 130 or 143 where it was stopped and saved."""
    assert plan.study is not None
    about = {"format": 1, "study": plan.study.name, "folder": str(folder), "done": _done(plan, stands), "after": {}}
    about["after"] = {"analyze": shlex.join(commands.analyze), "report": shlex.join(commands.report)}
    yield json.dumps(about, indent=1)[:-2] + ',\n "jobs": ['
    last = len(plan.jobs) - 1
    for place, job in enumerate(plan.jobs):
        what, stand = needs[job.id], stands.get(job.id, BEGINNING)
        one = {
            "id": job.id, "kind": job.kind, "needs": job.needs, "flops": job.flops, "cpus": what.cpus,
            "memory": what.memory, "gpu_memory": what.gpu_memory, "command": commands.job(job.id), "state": stand.state,
        }  # fmt: skip
        if isinstance(job.payload, RunConfig):
            one |= {"step": stand.step, "steps": job.payload.config.steps}
        yield f"  {json.dumps(one)}{'' if place == last else ','}"
    yield " ]\n}"


def as_make(plan: Plan, commands: Commands, folder: Path, stands: Mapping[str, Stand]) -> Iterator[str]:
    """Lines of a makefile: `make -f FILE -j N`. A job that is done leaves an empty file in `made/` of the folder; of one that
    is done already nothing else is left to do (`analyze`, which comes after all, measures whatever is out of date)."""
    made, touch = _quoted(str(folder / "made")), _command(shlex.quote(str(folder / "made")))
    stamp = {job.id: f"{made}/{_name(job.id)}" for job in plan.jobs}
    yield f"# make -f THIS_FILE -j N; {_done(plan, stands)} of {len(plan.jobs)} jobs were done when this was written\n.PHONY: report\nreport: {made}/analyze\n\t{_command(shlex.join(commands.report))}\n"
    yield f"{made}/analyze: \\\n  " + " \\\n  ".join(stamp.values())
    yield f"\t{_command(shlex.join(commands.analyze))}\n\t@touch {touch}/analyze\n"
    for job in plan.jobs:
        yield f"{stamp[job.id]}: {' '.join(stamp[need] for need in job.needs)}".rstrip()
        if stands.get(job.id, BEGINNING).state not in FINISHED:
            yield f"\t{_command(commands.job(job.id))}"
        yield f"\t@mkdir -p {touch} && touch {touch}/{_name(job.id)}\n"


def as_dot(plan: Plan, stands: Mapping[str, Stand]) -> Iterator[str]:
    """Lines of a Graphviz drawing: `dot -Tsvg`. What is done is white."""
    yield "digraph plan {\n rankdir=LR; node [shape=box style=filled];"
    for job in plan.jobs:
        stand = stands.get(job.id, BEGINNING)
        label = "" if stand == BEGINNING else f" label={json.dumps(f'{job.id}: {stand.state}')}"
        yield f" {json.dumps(job.id)} [fillcolor={'white' if stand.state in FINISHED else COLOURS[job.kind]}{label}];"
        for need in job.needs:
            yield f" {json.dumps(need)} -> {json.dumps(job.id)};"
    yield "}"


def _done(plan: Plan, stands: Mapping[str, Stand]) -> int:
    return sum(stands.get(job.id, BEGINNING).state in FINISHED for job in plan.jobs)


def _name(job: str) -> str:
    """A job's id as the name of a file that make takes: other characters by their number."""
    return "".join(c if c.isalnum() or c in ".-_" else f"%{ord(c):x}" for c in job).replace("%", "+")


def _quoted(path: str) -> str:
    return path.replace("$", "$$").replace(" ", "\\ ").replace("#", "\\#").replace(":", "\\:")


def _command(line: str) -> str:
    return line.replace("$", "$$")
