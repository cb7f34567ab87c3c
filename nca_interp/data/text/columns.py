"""The text of a record by the dotted path of its column: `text`, `text.content`, `messages.0.content`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from nca_interp.base import UserError

SHOWN = 20
"""Columns that a message lists."""


def pick(record: dict[str, Any], column: str) -> Any:
    """The value at a path; null where something on the way is null or a list is shorter. KeyError where it is not there.

    A column of just that name goes before a path.
    """
    if column in record:
        return record[column]
    value: Any = record
    for part in column.split("."):
        if value is None:
            return None
        if isinstance(value, list) and part.isdigit():
            value = value[int(part)] if int(part) < len(value) else None
        elif isinstance(value, dict):
            value = value[part]
        else:
            raise KeyError(part)
    return value


def root(names: Iterable[str], column: str) -> str | None:
    """The column of a table that a path begins with: the name itself, else the longest; None if there is none."""
    begun = [name for name in names if column == name or column.startswith(f"{name}.")]
    return max(begun, key=len, default=None)


def text_of(record: dict[str, Any], column: str, where: Callable[[], str]) -> str | None:
    """The text at a path, None where it is null; UserError (with `where`, and the paths that hold text) for all else."""
    try:
        value = pick(record, column)
    except KeyError:
        value = record
    if value is None or isinstance(value, str):
        return value
    known = list(islice(text_paths(record), SHOWN))
    columns = ", ".join(known) if known else f"{', '.join(islice(record, SHOWN))} (none holds text)"
    raise UserError(f"{where()} has no text in column {column!r}; columns: {columns}")


def text_paths(value: Any, path: str = "") -> Iterator[str]:
    """Paths of all texts in a record; of lists the first item stands for the others."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from text_paths(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and value:
        yield from text_paths(value[0], f"{path}.0")


def valid(text: str) -> str:
    """The text with each lone surrogate, which JSON can hold and UTF-8 cannot, replaced by "?"."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
