"""Measurements that are kept on disk: a table beside what it was made from, read back only where that is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from nca_interp.base import UserError
from nca_interp.files import write_bytes
from nca_interp.store import read_json, write_json


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV, atomically; floats keep all their digits."""
    write_bytes(path, csv_bytes(frame))


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """A table as CSV."""
    return frame.to_csv(index=False, lineterminator="\n").encode()


def keep(path: Path, frame: pd.DataFrame, made_from: dict[str, Any]) -> None:
    """Write a table as CSV, and beside it as JSON its `attrs` and what it was `made_from` (hashes, arguments)."""
    write_table(path, frame)
    write_json(path.with_suffix(".json"), {"made_from": made_from, "attrs": frame.attrs})


def kept(
    path: Path, made_from: dict[str, Any], *, numbers: Collection[str], integers: Collection[str] = ()
) -> pd.DataFrame | None:
    """What `keep` wrote, with its `attrs`; None where there is nothing, it was made from something else, or is damaged.

    Columns of `numbers` come back as floats bit by bit, of `integers` as whole numbers, all others as text.
    """
    beside = path.with_suffix(".json")
    if not (path.is_file() and beside.is_file()):
        return None
    try:
        said = read_json(beside)
        if said["made_from"] != made_from:
            return None
        # every cell as text first: a regime may be called "nan", and Python's own float() reads back what was written
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        for column in (*numbers, *integers):
            values: pd.Series[Any] = pd.Series([float(cell) if cell else None for cell in frame[column]], dtype=float)
            if column in integers:
                values = values.astype("Int64") if values.isna().any() else values.astype("int64")
            frame[column] = values
        frame.attrs = said["attrs"]
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None
    return frame


@lru_cache
def code_hash(files: tuple[str, ...]) -> str:
    """Hash of files of this package, relative to this folder."""
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in files)).hexdigest()
