"""Where a command may write: a new name, or over what this program wrote there itself; never into what it reads.

How a file or folder is known to be ours is one of the functions below: by its first line, by its record, by the hash that
stands beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nca_interp.base import UserError
from nca_interp.files import refuse_unwritable, sha256_file

Mine = Callable[[Path], bool]
LONGEST_NAME = 255 - len(".tmp-old--0123456789")
"""Bytes of the name of an output, which is written under a longer one and then renamed."""
LONGEST_PATH = 4095 - 255
"""Bytes of its path, inside which there are files of ours."""


def check_output(
    option: str, path: Path, what: str, mine: Mine, *, reads: Iterable[Path | None] = (), also: Iterable[Path | None] = ()
) -> None:  # fmt: skip
    """UserError unless a `what` may be written to `path`, the value of `option`. Changes nothing.

    It may where nothing is, and where `mine` knows it as one that this program wrote. `reads`: what the command reads;
    neither it nor a place inside it may be written. `also`: what the command writes besides.
    """

    def refuse(reason: str, remedy: str = "choose another name") -> None:
        raise UserError(f"{option} {path}: {reason}; {remedy}; nothing was changed")

    target = path.absolute()
    if long := [name for name in target.parts if len(os.fsencode(name)) > LONGEST_NAME]:
        raise UserError(f"{option} ...{long[0][:60]}...: the name is too long; legal: {LONGEST_NAME} bytes")
    if len(os.fsencode(target)) > LONGEST_PATH:
        raise UserError(f"{option} {str(path)[:60]}...: the path is too long; legal: {LONGEST_PATH} bytes")
    target = path.resolve()
    for source in (source for source in reads if source is not None and source.exists()):
        if target == source.resolve() or (source.is_dir() and target.is_relative_to(source.resolve())):
            refuse(f"lies in {source}, which this command reads" if source.is_dir() else "this command reads it")
    if target in {other.resolve() for other in also if other is not None}:
        refuse("this command writes something else there too")
    there = next(parent for parent in target.parents if os.path.lexists(parent))
    if not there.is_dir():
        refuse(f"{there} is no folder")
    if not os.path.lexists(path) or mine(path):
        refuse_unwritable(option, path if path.is_dir() else path.parent)
    else:
        folder = path.is_dir()
        known = "not empty and no" if folder else "is there already and no"
        refuse(f"{known} {what}", "choose another folder" if folder else "choose another name")


def begins(text: str) -> Mine:
    """A file that begins so."""
    wanted = text.encode()

    def mine(path: Path) -> bool:
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            return file.read(len(wanted)) == wanted

    return mine


def records(*keys: str) -> Mine:
    """A JSON object with at least these keys."""
    return lambda path: set(keys) <= _object(path).keys()


def holds(record: str, *keys: str) -> Mine:
    """A folder that is empty, or holds a `record` with at least these keys."""
    known = records(*keys)
    return lambda path: path.is_dir() and (not any(path.iterdir()) or known(path / record))


def _object(path: Path) -> dict[str, Any]:
    """The JSON object of a file; an empty one where it holds none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def twin(path: Path) -> Path:
    """The JSON file beside a table, which knows it by its hash (`certificate`)."""
    return path.with_suffix(".json")


def certificate(path: Path, sha256: str) -> dict[str, Any]:
    """What the twin of a table says of it: name, hash, and the hash of the one that it replaces, should that be there still."""
    return {"file": path.name, "sha256": sha256, "replaces": sha256_file(path) if path.is_file() else None}


def certified(path: Path) -> bool:
    """A table that its twin knows; or the twin, where the table is not there."""
    said = _object(twin(path)).get("table")
    if not isinstance(said, dict) or said.get("file") != path.name:
        return False
    return not path.exists() or (path.is_file() and sha256_file(path) in (said.get("sha256"), said.get("replaces")))


def check_table(option: str, path: Path, reads: Iterable[Path | None] = ()) -> None:
    """UserError unless a table and its twin may be written (`check_output`)."""
    for file in (path, twin(path)):
        check_output(
            option, file, f"table that this program wrote to {path.name}", lambda _: certified(path), reads=reads
        )
