"""What commands print: one message, a table, a text."""

from __future__ import annotations

import sys
from typing import NoReturn

WIDTH = 80
"""Columns of a terminal that text is wrapped for."""


def fail(message: str, code: int) -> NoReturn:
    """Print one message on stderr and leave."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


def print_table(title: str, columns: list[str], rows: list[list[str]], left: tuple[str, ...] = ()) -> None:
    """A table for 80 columns; the first column, what rows are of, and headings are never cut. `left`: columns of text."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    tall = any("\n" in name for name in columns)
    for index, name in enumerate(columns):
        text = index == 0 or name in left
        table.add_column(
            name,
            justify="left" if text else "right",
            vertical="bottom" if tall else "top",
            no_wrap=name not in left,
        )
    for row in rows:
        table.add_row(*row)
    print(title)
    Console().print(table)


def print_about(text: str) -> None:
    """Print what a recipe says of itself, its paragraphs wrapped, and an empty line."""
    import textwrap

    for paragraph in text.split("\n\n"):
        print(
            textwrap.fill(" ".join(paragraph.split()), WIDTH, break_long_words=False, break_on_hyphens=False),
            end="\n\n",
        )
