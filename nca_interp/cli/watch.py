"""Look at a study while other processes train it: read-only, from its files."""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

from nca_interp.cli.status import Board, BoardReader, describe, headline, render
from nca_interp.engine.plan import make_plan
from nca_interp.readers import check_object
from nca_interp.store import StudyDir

TERMINAL_SECONDS, PLAIN_SECONDS = 1.0, 30.0


def reader(folder: Path) -> BoardReader:
    """A reader of the study in `folder`; UserError if there is none."""
    directory = StudyDir.open(folder)
    study = directory.study()
    precision = check_object(directory.config, directory.read_provenance(), "", {"precision": str})["precision"]
    return BoardReader(directory, make_plan(study, precision, analyze=False).jobs)


def as_json(folder: Path, board: Board) -> str:
    """The board for other programs."""
    return json.dumps(
        {
            "study": str(folder),
            "finished": board.finished,
            "remaining_seconds": board.remaining_seconds,
            "runs": [row._asdict() for row in board.rows],
        },
        indent=1,
    )


def watch(folder: Path, console: Console, once: bool, json_: bool) -> None:
    """Show the board until every run is finished: live on a terminal, one line every 30 s elsewhere; or only once."""
    source = reader(folder)
    board = source.read()
    if json_:
        print(as_json(folder, board))
    elif once:
        console.print(render(board))
    elif console.is_terminal:
        with Live(render(board), console=console, auto_refresh=False) as live:
            while not board.finished:
                time.sleep(TERMINAL_SECONDS)
                board = source.read()
                live.update(render(board), refresh=True)
    else:
        print(plain(board), flush=True)
        while not board.finished:
            time.sleep(PLAIN_SECONDS)
            board = source.read()
            print(plain(board), flush=True)


def plain(board: Board) -> str:
    """The board in one line."""
    return "; ".join([headline(board), *(describe(row) for row in board.running())])
