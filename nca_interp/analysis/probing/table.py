"""The tidy table of probes: its columns and types, and how it is written (CSV or parquet, with provenance) and read."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pandas as pd

from nca_interp.analysis.records import CHECKPOINT
from nca_interp.base import UserError
from nca_interp.store import disk_errors, write_json, write_text

COLUMNS = [*CHECKPOINT, "probe", "layer", "head", "value", "chance", "null_95", "hit", "sd", "unit", "n"]
_INTEGERS = ("seed", "step", "tokens", "layer", "head", "hit", "n")
_NUMBERS = (*_INTEGERS, "value", "chance", "null_95", "sd")
SUFFIXES = (".csv", ".parquet")


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a data frame with the columns, order and types of the probes table."""
    return _typed(pd.DataFrame(rows, columns=COLUMNS))


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    for column in COLUMNS:
        if column in _INTEGERS:
            frame[column] = pd.to_numeric(frame[column]).astype("Int64")
        elif column in _NUMBERS:
            frame[column] = pd.to_numeric(frame[column]).astype(float)
        else:
            frame[column] = frame[column].astype(object).where(frame[column].notna(), "")
    return frame


def check_suffix(path: Path | None) -> None:
    """UserError for a --table that `save` does not write."""
    if path is not None and path.suffix not in SUFFIXES:
        raise UserError(f"--table {path}: unknown kind of table {path.suffix!r}; legal: {', '.join(SUFFIXES)}")


def save(frame: pd.DataFrame, path: Path) -> list[Path]:
    """Write what `analyze` returned as .csv (provenance beside it as .json) or .parquet (provenance inside, as
    `attrs` that pandas reads back, and beside it); returns the files. UserError for another suffix."""
    beside = path.with_suffix(".json")
    if path.suffix == ".csv":
        write_table(path, frame)
    elif path.suffix == ".parquet":
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
        try:
            with disk_errors(path):
                frame.to_parquet(temporary, index=False)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    else:
        raise UserError(f"{path}: unknown kind of table {path.suffix!r}; legal: {', '.join(SUFFIXES)}")
    write_json(beside, frame.attrs)
    return [path, beside]


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV, atomically; floats keep all their digits."""
    buffer = io.StringIO()
    frame.to_csv(buffer, index=False, lineterminator="\n")
    write_text(path, buffer.getvalue())


def read_table(path: Path) -> pd.DataFrame:
    """Read what `write_table` wrote of a probes table; UserError if it is damaged."""
    try:
        # every cell as text first: a regime may be called "nan", and Python's own float() reads back what was written
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)[COLUMNS]
        for column in _NUMBERS:
            frame[column] = [float(cell) if cell else None for cell in frame[column]]
        return _typed(frame)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not readable as a table of probes ({error}); delete it and analyse again") from None
