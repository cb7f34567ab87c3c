"""What runs jobs: the one interface behind which every engine stands, and how one is found by its name.

An engine is a module of this room with a function `connect(asked) -> Engine`; its name is that of the module. It knows jobs and what
they need, and nothing of the plan: who comes first, what waits for what, what is tried again is decided in runner.py for all of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from nca_interp.base import UserError
from nca_interp.config import suggest
from nca_interp.engine.graph import Job, MeasureJob
from nca_interp.engine.jobs import execute
from nca_interp.machine import DEVICE

LOCAL = "local"
"""Processes of this machine (local.py): what is used where nobody says anything."""


class Resources(NamedTuple):
    """What a job needs while it runs, about (needs.py)."""

    cpus: int = 1
    """Threads."""
    memory: float = 0.0
    """Bytes, the process included."""
    gpu_memory: float = 0.0
    """Bytes on one GPU; 0: it computes on the processor."""
    smaller: bool = False
    """Whether the micro-batch is halved first, since the job hung or ran out of memory."""


def distinct(needs: Mapping[str, Resources]) -> dict[Resources, str]:
    """Each need once, with the first job that has it."""
    found: dict[Resources, str] = {}
    for job, what in needs.items():
        found.setdefault(what, job)
    return found


class Said(NamedTuple):
    """What an engine has to say of a job."""

    what: Literal["start", "note", "share", "ended"]
    """start: somebody does it now (text: who); note, share: said by the job; ended: it did, with `code`."""
    job: Job
    text: str = ""
    code: int = 0
    """Exit code (worker.py); negative: the signal that ended its process."""
    lost: Literal["", "killed", "hung", "memory"] = ""
    """Why it ended without an answer of its own; empty where it gave one."""


def subject(job: Job) -> str:
    """The run that a measurement is of; empty for other jobs."""
    return job.payload.subject if isinstance(job.payload, MeasureJob) else ""


Body = Callable[..., None]


class Asked(NamedTuple):
    """What an engine is to be, for `connect`."""

    folder: Path
    """Of the study or analysis."""
    needs: Callable[[str], dict[str, Resources]]
    """What every job of the plan needs, by id, where it computes on "cpu" or "cuda"."""
    workers: int | None = None
    """Jobs side by side; None: as many as there is room for."""
    threads: int = 1
    """Of a job."""
    probes: Path | None = None
    """Folder of further probe files."""
    address: str = ""
    """What stands behind the colon in `--engine NAME:ADDRESS`."""
    device: str = "auto"
    """auto, cpu, cuda or mps: where jobs compute."""
    kinds: frozenset[str] = frozenset({"tokens", "train", "measure"})
    """Kinds of the jobs."""
    body: Body = execute
    """What is done with a job (another function: benchmarks)."""


class Engine(Protocol):
    """Somebody who does jobs."""

    asked: Asked
    """What it was asked for."""
    about: str
    """One line on where jobs run; empty: here."""
    needs: dict[str, Resources]
    """What every job needs here, by id."""
    known: set[str]
    """Runs whose measurements are best given out next: who waits has just measured them."""
    running: list[Job]
    """Jobs that somebody is doing, as far as known."""
    workers: int
    """Jobs side by side, at most, as far as known."""
    room: bool
    """Whether somebody could take a small job now."""

    def submit(self, job: Job, resources: Resources) -> bool:
        """Have somebody do a job; False where there is no room for one that needs so much."""

    def events(self, timeout: float) -> list[Said]:
        """What was said since it was last asked; waits for it, at most so many seconds."""

    def cancel(self, now: bool = False) -> None:
        """Ask every job to stop after its present step (`now`: end it); each still ends with an event."""

    def close(self) -> None:
        """Let all go. Whatever stood there before stays."""


def names() -> list[str]:
    """Engines there are."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [file.stem for file in files if re.search(r"^def connect\(", file.read_text(encoding="utf-8"), re.MULTILINE)]


def parse(asked: str) -> tuple[str, str]:
    """(name, address) of `--engine NAME[:ADDRESS]`. UserError for an unknown one, and for one that is not installed."""
    name, _, address = asked.partition(":")
    if name not in names():
        raise UserError(f"--engine {asked}: no such engine{suggest(name, names())}")
    if check := getattr(import_module(f"nca_interp.engine.{name}"), "check", None):
        check(address)
    elif address:
        raise UserError(f"--engine {asked}: {name} has no address")
    return name, address


def opened(engine: str, asked: Asked) -> Engine:
    """The engine `NAME[:ADDRESS]`, ready for jobs. UserError where it cannot do them, before anything is written."""
    name, address = parse(engine)
    made: Any = import_module(f"nca_interp.engine.{name}")
    found: Engine = made.connect(asked._replace(address=address))
    return found


def device_asked() -> str:
    """What `--device` has settled for this process."""
    return os.environ.get(DEVICE, "auto")
