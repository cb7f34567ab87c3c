"""What became of every job, in a file a process: jobs/<host>-<process>.jsonl in the folder of a study or analysis.

For people and `watch` only: no decision of an engine reads it, results are known from their own files. Each process appends to a file of
its own and keeps it locked while it lives, so that a shared folder needs no appending from two machines, and who is gone shows.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from nca_interp.files import is_held

FOLDER = "jobs"
SHARE_SECONDS = 5.0
"""Between two lines on how far a job is."""
ENDS = ("done", "skipped", "failed", "stopped", "blocked")


class Row(NamedTuple):
    """A job as the journals have it."""

    job: str
    state: str
    """running, waiting, retried, done, skipped, failed, stopped, blocked; lost: who did it is gone."""
    who: str
    """Host and process that tell."""
    time: float
    """Of the last line, seconds since the epoch (for reading only)."""
    message: str = ""
    share: float | None = None
    """Of it that is done, where it says so."""


class Journal:
    """The file of this process; writing never fails, for it decides nothing."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FOLDER / f"{platform.node() or 'host'}-{os.getpid()}.jsonl"
        self._file: IO[str] | None = None
        self._shared: dict[str, float] = {}

    @classmethod
    @contextmanager
    def begun(cls, folder: Path) -> Iterator[Journal]:
        """A journal, locked while the block runs."""
        journal = cls(folder)
        try:
            yield journal
        finally:
            journal.close()

    def add(self, what: str, job: str, message: str = "") -> None:
        """Write one line."""
        now = time.monotonic()
        if what == "share":
            if now - self._shared.get(job, -SHARE_SECONDS) < SHARE_SECONDS:
                return
            self._shared[job] = now
        elif what in ENDS:
            self._shared.pop(job, None)
        with suppress(OSError, ValueError):
            if self._file is None:
                self._open()
            assert self._file is not None
            row = {"time": round(time.time(), 1), "what": what, "job": job} | ({"message": message} if message else {})
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Let it go."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _open(self) -> None:
        import fcntl

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  lives as long as the process
        with suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Journals:
    """Reads all journals of a folder again and again, each line once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._read: dict[Path, int] = {}
        self._rows: dict[Path, dict[str, Row]] = {}

    def fresh(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Whole lines that were written since it was last asked."""
        for path in sorted(self._folder.glob("*.jsonl")):
            with suppress(OSError), open(path, "rb") as file:
                begin = self._read.get(path, 0)
                if os.fstat(file.fileno()).st_size <= begin:
                    continue
                file.seek(begin)
                text = file.read()
                text = text[: text.rfind(b"\n") + 1]
                self._read[path] = begin + len(text)
                for line in text.splitlines():
                    with suppress(ValueError):
                        row = json.loads(line)
                        if isinstance(row, dict) and {"what", "job", "time"} <= row.keys():
                            yield path, row

    def rows(self) -> list[Row]:
        """Every job as it stands: what a living process says of it goes before what one says that is gone, the last word before others."""
        for path, line in self.fresh():
            known = self._rows.setdefault(path, {})
            known[str(line["job"])] = _follow(known.get(str(line["job"])), line, path.stem)
        best: dict[str, tuple[tuple[bool, bool, float], Row]] = {}
        for path, known in self._rows.items():
            live = is_held(path) is not False
            for job, row in known.items():
                state = row.state if live or row.state in ENDS else "lost"
                rank = (state in ("done", "skipped"), live and state not in ENDS, row.time)
                if job not in best or rank > best[job][0]:
                    best[job] = rank, row._replace(state=state)
        return [row for _, row in best.values()]


def _follow(before: Row | None, line: dict[str, Any], who: str) -> Row:
    what, message, when = str(line["what"]), str(line.get("message", "")), float(line["time"])
    job = str(line["job"])
    if what == "share":
        share, _, doing = message.partition(":")
        return Row(job, "running", who, when, doing, float(share) if share else None)
    if what == "note":
        state, share_ = (before.state, before.share) if before else ("running", None)
        return Row(job, state, who, when, message, share_)
    return Row(job, "running" if what == "start" else what, who, when, message)
