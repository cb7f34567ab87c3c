"""Look at a study or an analysis while other processes work on it: read-only, from its files, whatever engine runs the jobs."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nca_interp.cli.status import STYLES, Board, BoardReader, describe, headline, render
from nca_interp.engine.journal import Journals, Row
from nca_interp.engine.plan import make_plan
from nca_interp.readers import check_object
from nca_interp.store import AnalysisDir, StudyDir

TERMINAL_SECONDS, PLAIN_SECONDS = 1.0, 30.0
BUSY, LOST = ("running", "waiting", "retried"), ("failed", "stopped", "lost")
"""States of jobs that somebody is at, and of those that need attention."""


class Watched(NamedTuple):
    """What is there to see."""

    board: Board
    """Training runs."""
    jobs: list[Row]
    """All jobs that a journal knows, of any engine and machine."""

    @property
    def finished(self) -> bool:
        """Whether nobody is at anything, and no run is to come."""
        return self.board.finished and not any(job.state in BUSY for job in self.jobs)


class Reader:
    """Reads it again and again."""

    def __init__(self, runs: BoardReader, journals: Journals) -> None:
        self.runs, self.journals = runs, journals

    def read(self) -> Watched:
        """As it is now."""
        return Watched(self.runs.read(), self.journals.rows())


def reader(folder: Path) -> Reader:
    """A reader of the study or analysis in `folder`; UserError if there is none."""
    if AnalysisDir(folder).collection.is_file():
        return Reader(BoardReader(StudyDir(folder), []), Journals(folder))
    directory = StudyDir.open(folder)
    study = directory.study()
    precision = check_object(directory.config, directory.read_provenance(), "", {"precision": str})["precision"]
    return Reader(BoardReader(directory, make_plan(study, precision, analyze=False).jobs), Journals(folder))


def as_json(folder: Path, watched: Watched) -> str:
    """What is there to see, for other programs."""
    board = watched.board
    return json.dumps(
        {
            "study": str(folder),
            "finished": watched.finished,
            "remaining_seconds": board.remaining_seconds,
            "runs": [row._asdict() for row in board.rows],
            "jobs": [row._asdict() for row in watched.jobs],
        },
        indent=1,
    )


def watch(folder: Path, console: Console, once: bool, json_: bool) -> None:
    """Show it until every run is finished and nobody is at anything: live on a terminal, one line every 30 s elsewhere; or only once."""
    source = reader(folder)
    found = source.read()
    if json_:
        print(as_json(folder, found))
    elif once:
        console.print(picture(found))
    elif console.is_terminal:
        with Live(picture(found), console=console, auto_refresh=False) as live:
            while not found.finished:
                time.sleep(TERMINAL_SECONDS)
                found = source.read()
                live.update(picture(found), refresh=True)
    else:
        print(plain(found), flush=True)
        while not found.finished:
            time.sleep(PLAIN_SECONDS)
            found = source.read()
            print(plain(found), flush=True)


def picture(watched: Watched) -> RenderableType:
    """All of it for a terminal."""
    parts: list[RenderableType] = [render(watched.board)] if watched.board.rows else []
    if busy := [job for job in watched.jobs if job.state in BUSY]:
        table = Table("job", "state", "told by", "what", box=None, padding=(0, 2, 0, 0))
        for job in sorted(busy):
            share = "" if job.share is None else f"{job.share:.0%} "
            table.add_row(job.job, job.state, job.who, Text(share + _first(job.message)))
        parts.append(table)
    trained = {row.run for row in watched.board.rows}  # whose own record says more
    for job in sorted(job for job in watched.jobs if job.state in LOST):
        if job.job.removeprefix("train:") not in trained:
            parts.append(
                Text(f"{job.job} {job.state}: {_first(job.message) or job.who}", style=STYLES.get(job.state, "red"))
            )
    return Group(*parts, Text(_counts(watched.jobs))) if watched.jobs else Group(*parts)


def plain(watched: Watched) -> str:
    """All of it in one line."""
    runs = [headline(watched.board), *(describe(row) for row in watched.board.running())] if watched.board.rows else []
    return "; ".join([*runs, *([_counts(watched.jobs)] if watched.jobs else [])])


def _counts(jobs: list[Row]) -> str:
    states = Counter("done" if job.state == "skipped" else job.state for job in jobs)
    who = {job.who for job in jobs if job.state in BUSY}
    by = f" by {len(who)} process{'es' * (len(who) > 1)}" if who else ""
    return f"jobs: {', '.join(f'{n} {state}' for state, n in sorted(states.items()))}{by}"


def _first(text: str) -> str:
    return text.splitlines()[0] if text else ""
