"""Files of one run in a study (their names: store.py): status, metrics, checkpoints, resumable states."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nca_interp.files import checkpoint_hash as checkpoint_hash
from nca_interp.files import commit_dir as commit_dir
from nca_interp.files import damage as damage
from nca_interp.files import disk_errors as disk_errors
from nca_interp.files import is_held, sweep, sync
from nca_interp.files import read_json as read_json
from nca_interp.files import refuse_unwritable as refuse_unwritable
from nca_interp.files import seal as seal
from nca_interp.files import sha256_file as sha256_file
from nca_interp.files import write_json as write_json
from nca_interp.files import write_record as write_record
from nca_interp.files import write_text as write_text
from nca_interp.metrics import last_rows, read_rows
from nca_interp.readers import Mend, damaged, read_object

STEP = "step-"
STATES = ("running", "done", "stopped", "diverged", "failed")


class RunDir:
    """Files of one run (one stage)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "run.json"
        self.metrics = path / "metrics.jsonl"
        self.status_file = path / "status.json"
        self.checkpoints = path / "checkpoints"
        self.states = path / "state"
        self.inputs = path / "inputs.json"
        self.micro_batch = path / "micro_batch.json"
        self.lock = path / "run.lock"
        self.result = path / "result.json"
        self.validation = path / "validation.json"

    @property
    def id(self) -> str:
        """Name of the run, e.g. `pt.nca.web.s0`."""
        return self.path.name

    def checkpoint(self, step: int) -> Path:
        """Directory of the checkpoint after `step` steps."""
        return self.checkpoints / f"{STEP}{step:08d}"

    def steps(self) -> list[int]:
        """Steps with a committed checkpoint, ascending."""
        return _steps(self.checkpoints)

    def lost(self, checkpoint_steps: Iterable[int], last: int) -> Iterator[str]:
        """One sentence for each thing of the steps up to `last` that is no longer whole (of checkpoints only sizes are compared)."""
        remedy = f"only a new run in place of {self.path} makes it again"
        for step in checkpoint_steps:
            if step <= last and (problem := damage(self.checkpoint(step), quick=True)):
                yield f"{self.checkpoint(step)} is damaged: {problem}; {remedy}"
        if absent := last + 1 - sum(row["step"] <= last for row in self.read_metrics()):
            yield f"{self.metrics} lacks {absent} of the steps 0 to {last}; {remedy}"

    def state(self, step: int) -> Path:
        """Directory of the resumable state after `step` steps."""
        return self.states / f"{STEP}{step:08d}"

    def state_steps(self) -> list[int]:
        """Steps with a resumable state, ascending (whole or not)."""
        return _steps(self.states)

    def prune_states(self, last: int, newest: int, keep: Iterable[int] = ()) -> None:
        """Of the resumable states up to step `last`, keep the `newest` and those of the steps in `keep`; remove all others."""
        steps = [step for step in self.state_steps() if step <= last]
        kept = {*steps[len(steps) - newest :], *(step for step in keep if step <= last)}
        for step in set(self.state_steps()) - kept:
            shutil.rmtree(self.state(step), ignore_errors=True)
        if self.states.is_dir() and not any(self.states.iterdir()):
            self.states.rmdir()

    def status(self) -> dict[str, Any]:
        """`{"state": ..., "step": ..., ...}`; state is `new` before the run began. UserError where it is damaged or lost."""
        if not self.status_file.exists():
            if steps := self.steps():
                problem = f"no such file, though the run has a checkpoint of step {steps[-1]}"
                raise damaged(self.status_file, problem, f"{self.again()} trains this run again from its last state")
            return {"state": "new", "step": 0}
        mend = self._without(self.status_file)
        status = read_object(self.status_file, mend, state=str, step=int)
        if status["state"] not in STATES:
            raise damaged(self.status_file, f"state: {status['state']!r}, legal: {', '.join(STATES)}", mend)
        return status

    def read(self, record: Path) -> dict[str, Any]:
        """The record run.json or inputs.json; UserError says how to go on without it where it is damaged."""
        return read_object(record, self._without(record))

    def again(self) -> str:
        """The command that trains this run."""
        from nca_interp.store import StudyDir

        return StudyDir(self.path.parent.parent).command()

    def _without(self, record: Path) -> Mend:
        return lambda: f"delete this file, and the same command goes on from the last state: {self.again()}"

    def set_status(self, state: str, step: int, **extra: Any) -> None:
        """Record the run's state atomically, with this process and the wall clock (for reading only)."""
        who = {"pid": os.getpid(), "host": platform.node(), "time": round(time.time(), 1)}
        write_record(self.status_file, {"state": state, "step": step, **who, **extra})

    def holder(self) -> str:
        """Who trains the run, as far as its status says."""
        status = self.status()
        return f"process {status['pid']} on {status['host']}" if "host" in status else "another process"

    def is_live(self) -> bool | None:
        """Whether a process trains the run now, by its lock; None where the file system cannot say."""
        return is_held(self.lock)

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with disk_errors(self.metrics), open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def sync_metrics(self) -> None:
        """Bring metrics.jsonl onto the disk, so that no state is ever ahead of its metrics."""
        if self.metrics.exists():
            sync(self.metrics)

    def set_done(self, step: int) -> None:
        """Record that the run ended as planned, with the hash of its metrics, which change no more."""
        self.set_status("done", step, metrics_sha256=sha256_file(self.metrics))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl; an incomplete last line (a kill while writing) is left out. UserError names a bad line."""
        return [] if not self.metrics.exists() else read_rows(self.metrics, self.anew())

    def last_metrics(self, n: int) -> list[dict[str, Any]]:
        """The last (at most) `n` of them, read from the file's end."""
        return last_rows(self.metrics, n, self.anew())

    def check_metrics(self, status: dict[str, Any]) -> None:
        """UserError unless metrics.jsonl of a finished run is what `set_done` recorded (earlier versions did not)."""
        wanted = status.get("metrics_sha256")
        if wanted is None or (self.metrics.is_file() and sha256_file(self.metrics) == wanted):
            return
        self.read_metrics()  # says more, if it can
        what = "altered since the run ended (SHA-256 differs)" if self.metrics.is_file() else "no such file"
        raise damaged(self.metrics, what, self.anew())

    def anew(self) -> str:
        """How to make again what only training makes."""
        return f"to make it again, delete the folder {self.path} and train it anew: {self.again()}"

    def sweep(self) -> None:
        """Remove what a killed process left half-written (call only while holding the run's lock)."""
        for parent in (self.path, self.checkpoints, self.states):
            sweep(parent)


def _steps(folder: Path) -> list[int]:
    names = (p.name.removeprefix(STEP) for p in folder.glob(f"{STEP}*"))
    return sorted(int(name) for name in names if name.isdecimal())
