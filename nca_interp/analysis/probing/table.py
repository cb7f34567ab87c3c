"""The tidy table of probes: its columns and types, and how it is written (CSV or parquet, with provenance) and read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.cache import csv_bytes, read_typed
from nca_interp.analysis.collection.run import CHECKPOINT
from nca_interp.base import UserError
from nca_interp.files import write_bytes
from nca_interp.outputs import certificate, check_table, twin
from nca_interp.store import write_json

COLUMNS = [*CHECKPOINT, "probe", "layer", "head", "value", "chance", "null_95", "hit", "sd", "unit", "n"]
_INTEGERS = ("seed", "step", "tokens", "layer", "head", "hit", "n")
_NUMBERS = (*_INTEGERS, "value", "chance", "null_95", "sd")
SUFFIXES = (".csv", ".parquet")


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a data frame with the columns, order and types of the probes table."""
    return _typed(pd.DataFrame(rows, columns=COLUMNS))


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({name: _column(name, frame[name]) for name in COLUMNS}, copy=False)


def _column(name: str, cells: pd.Series) -> pd.Series:
    if name in _INTEGERS:
        return pd.to_numeric(cells).astype("Int64")
    if name in _NUMBERS:
        return pd.to_numeric(cells).astype(float)
    text = cells.to_numpy(dtype=object, copy=True)
    text[cells.isna().to_numpy()] = ""
    return pd.Series(text, cells.index, dtype=object, copy=False)


def check_suffix(path: Path | None) -> None:
    """UserError for a --table that `save` does not write."""
    if path is not None and path.suffix not in SUFFIXES:
        raise UserError(f"--table {path}: unknown kind of table {path.suffix!r}; legal: {', '.join(SUFFIXES)}")


def save(frame: pd.DataFrame, path: Path) -> list[Path]:
    """Write what `analyze` returned as .csv (provenance beside it as .json) or .parquet (provenance inside, as
    `attrs` that pandas reads back, and beside it); returns the files.

    The .json also says the SHA-256 of the table. UserError for another suffix, and where it would replace anything else
    than a table that was written so."""
    check_suffix(path)
    check_table("--table", path)
    content = csv_bytes(frame) if path.suffix == ".csv" else frame.to_parquet(index=False)
    write_json(twin(path), {**frame.attrs, "table": certificate(path, hashlib.sha256(content).hexdigest())})
    write_bytes(path, content)
    return [path, twin(path)]


def read_table(path: Path) -> pd.DataFrame:
    """Read what `write_table` wrote of a probes table; UserError if it is damaged."""
    try:
        return _typed(_parsed(path))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not readable as a table of probes ({error}); delete it and analyse again") from None


def read_tables(paths: Sequence[Path]) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows of several tables one after the other, and for each row the place of its table in `paths`. UserError as `read_table`.

    Parsed at once: a study has hundreds, and most of the time of a small one goes to its beginning.
    """
    texts = [path.read_bytes() for path in paths]
    heads = {text.partition(b"\n")[0] for text in texts}
    rows = np.array([text.count(b"\n") - 1 for text in texts])
    if len(heads) == 1 and all(text.endswith(b"\n") for text in texts):
        whole = b"".join([heads.pop() + b"\n", *(text.partition(b"\n")[2] for text in texts)])
        with suppress(ValueError, KeyError):  # which of them is damaged shows below
            frame = _parsed(io.BytesIO(whole))
            if len(frame) == rows.sum():  # else a text has several lines
                return _typed(frame), np.repeat(np.arange(len(paths)), rows)
    frames = [read_table(path) for path in paths]
    whole_frame = pd.concat(frames, ignore_index=True) if frames else table([])
    return whole_frame, np.repeat(np.arange(len(paths)), [len(frame) for frame in frames])


def _parsed(source: Path | io.BytesIO) -> pd.DataFrame:
    return read_typed(source, _NUMBERS)[COLUMNS]
