"""What commands print: one message, a table, a text."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 80
"""Columns of a terminal that text is wrapped for."""


def fail(message: str, code: int) -> NoReturn:
    """Print one message on stderr and leave."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


def print_table(title: str, columns: list[str], rows: list[list[str]], left: tuple[str, ...] = ()) -> None:
    """A table for 80 columns: closer together where it would be wider; where that is not enough it is wider, for nothing is cut.
    `left`: columns of text, which wrap."""
    from rich.console import Console

    if not rows:
        return
    console = Console()
    table = _table(columns, rows, left, 1)
    if _needs(table) > console.width:
        table = _table(columns, rows, left, 0)
    print(title)
    Console(width=max(console.width, _needs(table))).print(table)


def _table(columns: list[str], rows: list[list[str]], left: tuple[str, ...], gap: int) -> Table:
    from rich.box import SIMPLE
    from rich.cells import cell_len
    from rich.table import Table

    table = Table(box=SIMPLE, padding=(0, gap, 0, 0))
    tall = any("\n" in name for name in columns)
    for index, name in enumerate(columns):
        wraps = name in left
        lines = [line for cell in (name, *(row[index] for row in rows)) for line in cell.splitlines()]
        table.add_column(
            name,
            justify="left" if wraps or index == 0 else "right",
            vertical="bottom" if tall else "top",
            no_wrap=not wraps,
            min_width=None if wraps else max(map(cell_len, lines), default=0),
        )
    for row in rows:
        table.add_row(*row)
    return table


def _needs(table: Table) -> int:
    """Columns of a terminal without which something would be cut."""
    from rich.console import Console

    wide = Console(width=10_000)
    return wide.measure(table).minimum


def print_about(text: str) -> None:
    """Print what a recipe says of itself, its paragraphs wrapped, and an empty line."""
    import textwrap

    for paragraph in text.split("\n\n"):
        print(
            textwrap.fill(" ".join(paragraph.split()), WIDTH, break_long_words=False, break_on_hyphens=False),
            end="\n\n",
        )
