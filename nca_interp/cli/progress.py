"""Following a plan: a live table on a terminal, one plain line every half minute elsewhere. Read from the runs' own files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from nca_interp.cli.status import BoardReader, describe, headline, render
from nca_interp.engine.plan import Job, Plan
from nca_interp.store import StudyDir

PLAIN_SECONDS = 30.0
TERMINAL_SECONDS = 0.5
KINDS = {"tokens": "token files", "train": "training runs", "measure": "measurements"}


class Follow:
    """Shows the state of a plan; `event` and `tick` are what the runner calls."""

    def __init__(self, study: StudyDir, plan: Plan, console: Console) -> None:
        self.console = console
        self.board = BoardReader(study, plan.jobs)
        self.total = {kind: sum(job.kind == kind for job in plan.jobs) for kind in KINDS}
        self.finished = dict.fromkeys(KINDS, 0)
        self.running: list[Job] = []
        self.begin = time.monotonic()
        self.shown_at = self.begin
        self.live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[Follow]:
        """Draw while the block runs."""
        if not self.console.is_terminal:
            self._line()
            yield self
            return
        with Live(self._picture(), console=self.console, auto_refresh=False) as self.live:
            try:
                yield self
            finally:
                self.live.update(self._picture(), refresh=True)

    def event(self, what: str, job: Job, message: str) -> None:
        """A job started, ended, was skipped, waits for another process, or has something to say."""
        if what in ("done", "skipped", "failed", "blocked"):
            self.finished[job.kind] += 1
        if what in ("failed", "waiting", "note"):
            text = message.splitlines()[-1] if message else ""
            self.console.print(f"{what}: {job.id}: {text}", markup=False, highlight=False, soft_wrap=True)

    def tick(self, running: list[Job]) -> None:
        """Refresh what the running jobs have reached."""
        self.running = running
        pause = PLAIN_SECONDS if self.live is None else TERMINAL_SECONDS
        if time.monotonic() - self.shown_at < pause:
            return
        if self.live is None:
            self._line()
        else:
            self.live.update(self._picture(), refresh=True)
        self.shown_at = time.monotonic()

    def _done(self) -> str:
        return ", ".join(f"{KINDS[kind]} {self.finished[kind]}/{n}" for kind, n in self.total.items() if n)

    def _others(self) -> list[str]:
        return [job.id for job in self.running if job.kind != "train"]

    def _line(self) -> None:
        parts = [f"{time.monotonic() - self.begin:5.0f} s  {self._done()}"]
        if self.total["train"]:
            board = self.board.read()
            parts += [headline(board), *(describe(row) for row in board.running())]
        self.console.print("; ".join(parts + self._others()), markup=False, highlight=False, soft_wrap=True)

    def _picture(self) -> Group:
        parts = [render(self.board.read())] if self.total["train"] else []
        return Group(*parts, Text("; ".join([self._done(), *self._others()])))
