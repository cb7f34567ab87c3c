"""metrics.jsonl of a run: one JSON object a logged step. A torn last line is normal after a kill; anything else is damage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nca_interp.base import UserError
from nca_interp.readers import check_object, damaged, parse_json, read_lines

BYTES_A_ROW = 1024
"""Generous length of a line."""
NUMBER: tuple[type, ...] = (float, type(None))
COLUMNS: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "tokens": (int,),
    "event": (str, type(None)),
    "skipped": (bool,),
}
"""Types of the columns that are no NUMBER."""


def read_rows(path: Path, mend: str) -> list[dict[str, Any]]:
    """All whole lines; UserError names a bad one and says how to `mend` it."""
    return [_checked(path, number, row, mend) for number, row in enumerate(read_lines(path, mend, torn=True), 1)]


def last_rows(path: Path, n: int, mend: str = "") -> list[dict[str, Any]]:
    """The last (at most) `n` whole lines, read from the end; UserError names a bad one."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.seek(max(0, size - BYTES_A_ROW * (n + 1)))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return []
    if start:
        del lines[:1]  # it begins in its middle
    rows = []
    for back, line in enumerate(reversed(lines[-n:])):
        try:
            rows.append(_checked(path, -1 - back, parse_json(line), mend))
        except UserError:
            raise
        except ValueError as error:
            raise damaged(_where(path, -1 - back), f"not readable as JSON ({error})", mend) from None
    return rows[::-1]


def _checked(path: Path, number: int, row: Any, mend: str) -> dict[str, Any]:
    kinds = {key: COLUMNS.get(key, NUMBER) for key in row} if isinstance(row, dict) else {}
    return check_object(_where(path, number), row, mend, {"step": (int,), **kinds})


def _where(path: Path, number: int) -> str:
    """A line, counted from 1, or from the end if `number` is negative."""
    return f"{path}, line {number}" if number > 0 else f"{path}, line {-number} from the end"
