"""Measurements that are kept on disk: a table beside what it was made from, read back only where that is still the same."""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.base import UserError
from nca_interp.files import write_bytes
from nca_interp.readers import read_object
from nca_interp.store import sha256_file, write_record


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV, atomically; floats keep all their digits."""
    write_bytes(path, csv_bytes(frame))


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """A table as CSV."""
    return frame.to_csv(index=False, lineterminator="\n").encode()


def keep(path: Path, frame: pd.DataFrame, made_from: dict[str, Any]) -> None:
    """Write a table as CSV, and beside it as JSON its hash, its `attrs` and what it was `made_from` (hashes, arguments)."""
    write_table(path, frame)
    said = {"made_from": made_from, "attrs": frame.attrs, "sha256": sha256_file(path)}
    write_record(path.with_suffix(".json"), said)


def kept(
    path: Path, made_from: dict[str, Any], *, numbers: Collection[str], integers: Collection[str] = ()
) -> pd.DataFrame | None:
    """What `keep` wrote, with its `attrs`; None where there is nothing, it was made from something else, or is damaged.

    Columns of `numbers` come back as floats bit by bit, of `integers` as whole numbers, all others as text.
    """
    if lost(path):
        return None
    try:
        said = read_object(path.with_suffix(".json"), made_from=dict, attrs=dict)
        if said["made_from"] != made_from:
            return None
        frame = read_typed(path, (*numbers, *integers))
        for column in integers:
            values = frame[column]
            frame[column] = values.astype("Int64") if values.isna().any() else values.astype("int64")
        frame.attrs = said["attrs"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return frame


def read_typed(source: Path | io.BytesIO, numbers: Collection[str]) -> pd.DataFrame:
    """A CSV table whose columns `numbers` are floats, bit by bit as they were written (an empty cell: NaN), all others text: a
    regime may be called "nan". KeyError for one that is missing, ValueError for what is no number."""
    names = dict.fromkeys(numbers, object)
    frame = pd.read_csv(source, dtype=defaultdict(lambda: str, names), keep_default_na=False)
    for name in names:
        cells = frame[name].to_numpy(dtype=object)
        # Python's own float(), as NumPy calls it, reads back what was written
        frame[name] = np.where(cells == "", "nan", cells).astype(float)
    return frame


def lost(path: Path) -> str | None:
    """What is wrong with a kept table or what stands beside it; None if both are whole.

    A table without a hash beside it is one of an earlier version.
    """
    beside = path.with_suffix(".json")
    for file in (path, beside):
        if not file.is_file():
            return f"{file}: no such file"
    try:
        said = read_object(beside)
    except UserError as error:
        return str(error)
    if (wanted := said.get("sha256")) is not None and sha256_file(path) != wanted:
        return f"{path}: altered since it was written (SHA-256 differs)"
    return None


@lru_cache
def code_hash(files: tuple[str, ...]) -> str:
    """Hash of files of this package, relative to this folder."""
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in files)).hexdigest()
