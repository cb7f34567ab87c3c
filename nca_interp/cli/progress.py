"""Following a plan: a live table on a terminal, one plain line every half minute elsewhere. Read from the runs' own files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from nca_interp.base import duration
from nca_interp.cli.status import BoardReader, describe, headline, render
from nca_interp.engine.graph import Job, Plan
from nca_interp.store import AnalysisDir, StudyDir

PLAIN_SECONDS = 30.0
TERMINAL_SECONDS = 0.5
STEP_SECONDS = 5.0
TOLD_BY = 0.1
"""Share of what is left that must be done before it is said how long that takes."""
KEPT_SECONDS, KEPT_SHARE = 3.0, 0.1
"""A measurement that ended within so many seconds, and within this share of its estimate, was kept from an earlier call."""
KINDS = {"tokens": "token files", "train": "training runs", "measure": "measurements"}


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Show what is being done, as the block says it: a changing line on a terminal, elsewhere a line every few seconds."""
    console, begin = Console(stderr=True), time.monotonic()
    if console.is_terminal:
        with console.status("") as status:
            yield lambda what: status.update(Text(what))
        return
    shown_at = begin

    def say(what: str) -> None:
        nonlocal shown_at
        now = time.monotonic()
        if now - shown_at >= STEP_SECONDS:
            console.print(f"{now - begin:5.0f} s  {what}", markup=False, highlight=False, soft_wrap=True)
            shown_at = now

    yield say


class Follow:
    """Shows the state of a plan; `event` and `tick` are what the runner calls."""

    def __init__(self, folder: AnalysisDir, plan: Plan, console: Console) -> None:
        self.console = console
        self.board = BoardReader(StudyDir(folder.path), plan.jobs)
        self.total = {kind: sum(job.kind == kind for job in plan.jobs) for kind in KINDS}
        self.finished = dict.fromkeys(KINDS, 0)
        self.running: list[Job] = []
        self.doing: dict[str, tuple[float, str]] = {}
        self.left = sum(job.cost for job in plan.jobs if job.kind == "measure")
        self.spent = 0.0
        self.kept_seconds = 0.0
        self.opened: tuple[float, float] | None = None
        """Seconds until the first sign of what is measured, and what was done by then: libraries and weights were read, which says
        nothing of the rest."""
        self.begin = time.monotonic()
        self.started: dict[str, float] = {}
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
        if what == "share":
            share, _, doing = message.partition(":")
            self.doing[job.id] = (float(share) if share else 0.0, doing)
            if share and self.opened is None:
                self.opened = self._seconds(), float(share) * job.cost
            return
        if what == "start":
            self.started[job.id] = time.monotonic()
        if what in ("done", "skipped", "failed", "blocked"):
            self.finished[job.kind] += 1
            self.doing.pop(job.id, None)
            if what == "done" and job.kind == "measure":
                self._measured(job)
            self.left -= job.cost if job.kind == "measure" else 0.0
        if what in ("failed", "waiting", "retried", "note"):
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
        named = [job for job in self.running if job.kind != "train"]
        return [
            f"{job.id} ({self.doing[job.id][1]})" if job.id in self.doing else job.id for job in named
        ] + self._time_left()

    def _measured(self, job: Job) -> None:
        """Count one that has ended: one that took next to nothing was there already, and says nothing of the others."""
        took = time.monotonic() - self.started.get(job.id, self.begin)
        if not job.cost or took < min(KEPT_SECONDS, KEPT_SHARE * job.cost):
            self.kept_seconds += took
        else:
            self.spent += job.cost
            self.opened = self.opened or (0.0, 0.0)

    def _seconds(self) -> float:
        """Since the beginning, without what was kept."""
        return time.monotonic() - self.begin - self.kept_seconds

    def _time_left(self) -> list[str]:
        """Of measurements, from what was done since the first sign of them and how long that took; nothing while it is too small a part
        of what is left to tell by."""
        opening, before = self.opened or (0.0, 0.0)
        under_way = sum(self.doing[job.id][0] * job.cost for job in self.running if job.id in self.doing)
        known, left = self.spent + under_way - before, self.left - under_way
        if self.total["train"] or known < TOLD_BY * left or known <= 0:
            return []
        seconds = (self._seconds() - opening) * left / known
        return [f"about {duration(max(seconds, 0.0))} left"]

    def _line(self) -> None:
        parts = [f"{time.monotonic() - self.begin:5.0f} s  {self._done()}"]
        if self.total["train"]:
            board = self.board.read()
            parts += [headline(board), *(describe(row) for row in board.running())]
        self.console.print("; ".join(parts + self._others()), markup=False, highlight=False, soft_wrap=True)

    def _picture(self) -> Group:
        parts = [render(self.board.read())] if self.total["train"] else []
        return Group(*parts, Text("; ".join([self._done(), *self._others()])))
