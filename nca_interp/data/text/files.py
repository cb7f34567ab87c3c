"""Local text files: which of their parts can be read alone, and the texts in them. Errors name the file and the place."""

from __future__ import annotations

import codecs
import glob
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from nca_interp.base import UserError
from nca_interp.data.text.columns import text_of, valid
from nca_interp.data.text.cuts import pieces as pieces
from nca_interp.data.text.cuts import range_pieces
from nca_interp.data.text.hub import saved_dataset
from nca_interp.data.text.raw import COMPRESSED as COMPRESSED
from nca_interp.data.text.raw import PLAIN, Stream, check_kind, decode, file_kind
from nca_interp.data.text.raw import TEXT_FILES as TEXT_FILES
from nca_interp.data.text.records import in_ranges, parquet_file, place, records

LOOKED_AT = 10_000
"""Entries of a folder that are looked at to say what is in it."""
RANGE_BYTES = 4_000_000
"""Plain text and JSON lines are read in ranges of this many bytes. Changing it changes the documents of plain text."""


def match_files(patterns: str) -> list[Path]:
    """Files of comma-separated globs, sorted, each once. UserError if a glob matches nothing, or another kind of file."""
    paths: set[Path] = set()
    for pattern in patterns.split(","):
        if not pattern.strip():
            raise UserError(f"source: files:{patterns} names nothing on one side of a comma")
        files = globbed(pattern)
        if not files:
            folder = Path(pattern.strip()).expanduser()
            hint = f"; it is a folder: {way_into(folder)}" if folder.is_dir() else ""
            raise UserError(f"source: files:{pattern} matches no file (working directory {Path.cwd()}){hint}")
        paths.update(files)
    for path in paths:
        check_kind(path)
    return sorted(paths)


def way_into(folder: Path) -> str:
    """The source that reads what lies in a folder: a saved dataset, else its first kind of files, spelled as they are."""
    if saved_dataset(folder):
        return f"for the dataset saved there: hf:{folder}"
    some = (
        path for path in islice(folder.rglob("*"), LOOKED_AT) if file_kind(path)[0] in TEXT_FILES and path.is_file()
    )
    kinds = sorted({path.name[-len("".join(file_kind(path))) :] for path in some})
    more = f" (there are {', '.join(kinds)})" if kinds[1:] else ""
    return f"for text in it: files:{folder}/**/*{kinds[0] if kinds else '.txt'}{more}"


def globbed(patterns: str) -> set[Path]:
    """Files of comma-separated globs, of any kind."""
    found = (glob.glob(str(Path(p.strip()).expanduser()), recursive=True) for p in patterns.split(","))
    return {path for names in found for path in map(Path, names) if path.is_file()}


def file_streams(paths: list[Path], column: str) -> list[Stream]:
    """Parts of the files in order. The first text of every file is read, so that a wrong kind of file is found at once."""
    streams = []
    for path in paths:
        found = list(_parts(path, column))
        if found:
            next(read_stream(found[0], column), None)
        streams += found
    return streams


def _parts(path: Path, column: str) -> Iterator[Stream]:
    form, compression = file_kind(path)
    size = path.stat().st_size
    if form == ".parquet":
        with parquet_file(path, column) as file:
            yield from (Stream(str(path), group, group + 1) for group in range(file.num_row_groups))
    elif size and ((form in PLAIN and not compression) or in_ranges(path)):
        yield from (Stream(str(path), at, min(at + RANGE_BYTES, size)) for at in range(0, size, RANGE_BYTES))
    elif size:
        yield Stream(str(path), 0, 0)


def is_long(stream: Stream) -> bool:
    """Whether a part of a file may be of any length."""
    return not stream.stop or file_kind(Path(stream.name))[0] == ".parquet"


def read_stream(stream: Stream, column: str) -> Iterator[str | None]:
    """Texts of one part: documents of plain text, else `column` of every record (None where it is null)."""
    path = Path(stream.name)
    if file_kind(path)[0] in PLAIN:
        for offset, piece in range_pieces(path, stream):
            yield decode(path, piece if offset else piece.removeprefix(codecs.BOM_UTF8), offset)
        return
    for number, record in records(path, stream, column):
        yield text_of(record, column, partial(_where, path, stream, number))


def _where(path: Path, stream: Stream, number: int) -> str:
    return f"{path}: {place(path, stream, number)}"


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a file of any kind but plain text, all columns, their texts `valid`; blank lines are skipped."""
    for _, record in records(path, Stream(str(path), 0, 0)):
        yield {name: valid(value) if isinstance(value, str) else value for name, value in record.items()}
