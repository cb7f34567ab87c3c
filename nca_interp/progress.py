"""Following a plan: rich bars on a terminal, one plain line every half minute elsewhere. Read from the runs' own files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from nca_interp.engine.plan import Job, Plan
from nca_interp.store import StudyDir

PLAIN_SECONDS = 30.0


class Follow:
    """Shows the state of a plan; `event` and `tick` are what the runner calls."""

    def __init__(self, study: StudyDir, plan: Plan, console: Console) -> None:
        self.study, self.plan, self.console = study, plan, console
        self.total = {kind: sum(j.kind == kind for j in plan.jobs) for kind in ("tokens", "train", "analyze")}
        self.finished = dict.fromkeys(self.total, 0)
        self.begin = self.last_plain = time.monotonic()
        self.progress: Progress | None = None
        self.bars: dict[str, TaskID] = {}
        self.live: dict[str, TaskID] = {}

    @contextmanager
    def shown(self) -> Iterator[Follow]:
        """Draw while the block runs."""
        if not self.console.is_terminal:
            self._plain()
            yield self
            return
        columns = (
            TextColumn("{task.description:32.32}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, refresh_per_second=4) as self.progress:
            names = {"tokens": "token files", "train": "training runs", "analyze": "analysed runs"}
            for kind, n in self.total.items():
                if n:
                    self.bars[kind] = self.progress.add_task(names[kind], total=n, note="")
            yield self

    def event(self, what: str, job: Job, message: str) -> None:
        """A job started, ended, or was skipped."""
        if what in ("done", "skipped", "failed", "blocked"):
            self.finished[job.kind] += 1
            if self.progress is not None:
                self.progress.advance(self.bars[job.kind])
                if job.id in self.live:
                    self.progress.remove_task(self.live.pop(job.id))
        elif what == "start" and self.progress is not None:
            steps = job.payload.config.steps if job.kind == "train" else 1  # type: ignore[union-attr]
            self.live[job.id] = self.progress.add_task(f"  {job.id}", total=steps, note="")
        if what == "failed":
            self.console.print(
                f"failed: {job.id}: {message.splitlines()[-1] if message else ''}", markup=False, highlight=False
            )

    def tick(self, running: list[Job]) -> None:
        """Refresh what the running jobs have reached."""
        if self.progress is not None:
            for job in running:
                row = self._last_row(job)
                if row and job.id in self.live:
                    self.progress.update(self.live[job.id], completed=row["step"], note=_note(row))
        elif time.monotonic() - self.last_plain >= PLAIN_SECONDS:
            self._plain(running)

    def _plain(self, running: list[Job] | None = None) -> None:
        self.last_plain = time.monotonic()
        done = ", ".join(f"{kind} {self.finished[kind]}/{n}" for kind, n in self.total.items() if n)
        parts = [f"{time.monotonic() - self.begin:5.0f} s  {done}"]
        for job in running or []:
            row = self._last_row(job)
            parts.append(f"{job.id}" + (f" step {row['step']} {_note(row)}" if row else ""))
        self.console.print("; ".join(parts), markup=False, highlight=False, soft_wrap=True)

    def _last_row(self, job: Job) -> dict[str, Any] | None:
        return last_row(self.study.run(job.payload.id).metrics) if job.kind == "train" else None  # type: ignore[union-attr]


def last_row(path: Path) -> dict[str, Any] | None:
    """The last complete line of a metrics file, read from its end."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().split(b"\n")[:-1]
        return json.loads(lines[-1]) if lines else None
    except (OSError, ValueError):
        return None


def _note(row: dict[str, Any]) -> str:
    rate = row.get("tokens_per_second")
    return f"loss {row['loss']:.3f}" + (f", {rate:,.0f} tokens/s" if rate else "")
