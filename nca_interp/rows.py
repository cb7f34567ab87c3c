"""Rows of a table, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def each(frame: pd.DataFrame) -> Iterator[Any]:
    """Rows as named tuples, whose fields have the types of the columns, which pandas cannot tell a type checker."""
    return iter(frame.itertuples())
