"""One reader for each kind of file that this program wrote: what is damaged is named, with what is wrong and how to mend it.

A record is a JSON object that carries the SHA-256 of its own content, so that a changed digit is seen as well as a torn
file. Records of earlier versions carry none and are read as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nca_interp.base import UserError, digest
from nca_interp.borders import reason

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Mend = str | Callable[[], str]
"""How to mend a file, or a function that says it: it may take reading another file to know."""
SEAL = "record_sha256"
"""Key of a record's own hash."""
NAMES = {dict: "object", list: "list", str: "text", int: "whole number", float: "number", bool: "truth value"}


def parse_json(text: str | bytes) -> Any:
    """Parsed JSON. ValueError says in a few words what is wrong, also of nesting and numbers too large for Python."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ValueError(str(error).split(";")[0]) from None


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` as a record: with its own SHA-256."""
    return {**value, SEAL: digest(json.loads(json.dumps(value)))}


def read_json(path: Path, mend: Mend = "") -> Any:
    """Parsed JSON, of a record without its hash. UserError names a missing, torn or altered file, and says how to `mend` it."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise damaged(path, "no such file", mend) from None
    except (OSError, ValueError) as error:
        raise damaged(path, f"not readable as JSON ({reason(error)})", mend) from None
    if isinstance(value, dict) and SEAL in value and not _is_whole(value.pop(SEAL), value):
        raise damaged(path, "altered since it was written (its content is not that of its SHA-256)", mend)
    return value


def _is_whole(seal: Any, value: dict[str, Any]) -> bool:
    try:
        return bool(seal == digest(value))
    except ValueError:  # NaN, which is never written
        return False


def read_object(path: Path, mend: Mend = "", **types: type | tuple[type, ...]) -> dict[str, Any]:
    """A JSON object that has every key of `types`, with a value of that type; UserError says what is not so."""
    return check_object(path, read_json(path, mend), mend, types)


def check_object(
    where: Path | str, value: Any, mend: Mend = "", types: Mapping[str, type | tuple[type, ...]] | None = None
) -> dict[str, Any]:
    """`value`, if it is a JSON object as `read_object` wants it."""
    if not isinstance(value, dict):
        raise damaged(where, f"a JSON object is expected, this is {_shown(value)}", mend)
    for key, wanted in (types or {}).items():
        if key not in value:
            raise damaged(where, f"{key} is missing", mend)
        kinds = wanted if isinstance(wanted, tuple) else (wanted,)
        found = value[key]
        # Python's True is an int; JSON's 1 may stand for 1.0
        fits = isinstance(found, (*kinds, int) if float in kinds else kinds)
        if not fits or (isinstance(found, bool) and bool not in kinds):
            names = " or ".join(NAMES.get(kind, "null") for kind in kinds)
            raise damaged(where, f"{key}: {_shown(found)}, expected {names}", mend)
    return value


def read_lines(path: Path, mend: Mend = "", torn: bool = False) -> list[dict[str, Any]]:
    """The JSON objects of a file that holds one a line; UserError names a bad line.

    `torn`: an incomplete last line, as a kill while writing leaves it, is left out.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise damaged(path, f"not readable ({reason(error)})", mend) from None
    if torn and lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    return [_line(f"{path}, line {number}", line, mend) for number, line in enumerate(lines, 1)]


def _line(where: str, line: bytes, mend: Mend) -> dict[str, Any]:
    try:
        return check_object(where, parse_json(line), mend)
    except UserError:
        raise
    except ValueError as error:
        raise damaged(where, f"not readable as JSON ({reason(error)})", mend) from None


def read_cells(path: Path, columns: Sequence[str] | None, mend: Mend = "") -> pd.DataFrame:
    """`columns` of a CSV table (None: all), every cell as text: a regime may be called "nan". UserError says what is wrong."""
    import pandas as pd

    try:
        # the C parser takes quoting that does not end, and lines that are cut, as they come
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, on_bad_lines="error", encoding_errors="strict")
    except Exception as error:  # pandas raises its own and those of its parsers
        raise damaged(path, f"not readable as a table ({reason(error)})", mend) from None
    columns = list(frame.columns) if columns is None else columns
    if missing := [name for name in columns if name not in frame.columns]:
        raise damaged(path, f"column {', '.join(missing)} is missing", mend)
    return frame[list(columns)].fillna("")


def to_numbers(path: Path, name: str, cells: pd.Series[Any], mend: Mend = "") -> list[float | None]:
    """The numbers of a column of text, bit by bit as they were written; an empty cell is None."""
    try:
        return [float(cell) if cell else None for cell in cells]
    except ValueError as error:
        raise damaged(path, f"column {name}: {reason(error)}", mend) from None


def read_arrays(path: Path, mend: Mend = "") -> dict[str, np.ndarray]:
    """All arrays of an .npz file; never unpickles. UserError says what is wrong."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("one array, not an archive of arrays")
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # zip, zlib and NumPy each raise their own
        raise damaged(path, f"not readable as arrays ({reason(error)})", mend) from None


def damaged(where: Path | str, problem: str, mend: Mend = "") -> UserError:
    """The error for a file that is not as it was written."""
    mend = mend if isinstance(mend, str) else mend()
    return UserError(f"{where}: {problem}{'; ' * bool(mend)}{mend}")


def _shown(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 40 else f"{text[:37]}..."
