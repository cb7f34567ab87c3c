"""Records of local files: JSON lines, JSON arrays, .csv, .tsv, .parquet, .arrow. Errors name the file and the record."""

from __future__ import annotations

import codecs
import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from nca_interp.base import UserError
from nca_interp.data.text.columns import root
from nca_interp.data.text.raw import BINARY, Stream, decode, file_kind, line_name, lines, opened

BATCH_ROWS, BATCH_BYTES = 1024, 16_000_000
"""Rows of a table that are made Python objects at a time, at most, and the bytes of them that are aimed at."""
SPACE = " \t\r\n\ufeff"

Records = Iterator[tuple[int, dict[str, Any]]]
"""(number for `place`, record)."""


def in_ranges(path: Path) -> bool:
    """Whether the lines of a file of records are records that can be read alone."""
    return file_kind(path) in ((".jsonl", ""), (".ndjson", ""), (".json", "")) and not is_array(path)


def is_array(path: Path) -> bool:
    """Whether a JSON file holds one array instead of a record a line."""
    with opened(path) as file:
        start = file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
        while not start.strip() and (more := file.read(4096)):
            start = more
    return start.lstrip().startswith(b"[")


def records(path: Path, stream: Stream, column: str | None = None) -> Records:
    """Records of one part of a file; of a table (.parquet, .arrow) only what `column` needs of them."""
    form = file_kind(path)[0]
    if form == ".parquet":
        yield from _parquet(path, stream, column)
    elif form == ".arrow":
        yield from _arrow(path, column)
    elif form in (".csv", ".tsv"):
        yield from _csv(path, "," if form == ".csv" else "\t", column)
    elif not stream.stop and is_array(path):
        yield from _array(path)
    else:
        yield from _json_lines(path, stream)


def place(path: Path, stream: Stream, number: int) -> str:
    """How a message names a record (slow: for errors only)."""
    form = file_kind(path)[0]
    if form in BINARY or (form not in (".csv", ".tsv") and not stream.stop and is_array(path)):
        return f"record {number}"
    return line_name(path, stream, number)


def _json_lines(path: Path, stream: Stream) -> Records:
    for number, (offset, line) in enumerate(lines(path, stream), 1):
        if not line.strip():
            continue
        text = decode(path, line, offset, lambda n=number: f" ({line_name(path, stream, n)})")
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            whole = "; a .json holds an array of objects, or one object a line" if file_kind(path)[0] == ".json" else ""
            raise UserError(f"{path}: {line_name(path, stream, number)} is not JSON ({_cause(error)}){whole}") from None
        if not isinstance(record, dict):
            raise UserError(
                f"{path}: {line_name(path, stream, number)} is not a JSON object; one object a line is legal"
            )
        if number == 1 and offset == 0 and file_kind(path)[0] == ".json":
            _refuse_wrapped(path, record)
        yield number, record


def _refuse_wrapped(path: Path, record: dict[str, Any]) -> None:
    """UserError where the file is one object and the records are a list in it: read as a record it would be one document."""
    held = [
        k for k, v in record.items() if isinstance(v, list) and len(v) > 1 and all(isinstance(one, dict) for one in v)
    ]
    if held and sum(1 for _, line in islice(lines(path, Stream(str(path), 0, 0)), 8) if line.strip()) == 1:
        raise UserError(
            f"{path}: one JSON object, which holds its records in {held[0]!r}; write them as an array of their own, e.g. "
            f"jq '.[\"{held[0]}\"]' {path.name} > records.json"
        )


def _array(path: Path) -> Records:
    """Objects of one JSON array, read a part at a time."""
    with opened(path) as file:
        text, number = _Growing(path, file), 0
        text.peek()
        text.at += 1
        mark = text.peek()
        while mark != "]":
            number += 1
            record = text.value(number)
            if not isinstance(record, dict):
                raise UserError(f"{path}: record {number} is not a JSON object; an array of objects is legal")
            yield number, record
            mark = text.peek()
            if mark not in ("]", ","):
                found = f"{mark!r}, not a comma, follows" if mark else "the file ends, cut off,"
                raise UserError(f"{path}: not a JSON array: {found} behind record {number}")
            if mark == ",":
                text.at += 1
                text.peek()
        text.at += 1
        if text.peek():
            raise UserError(f"{path}: something follows the JSON array, behind record {number}")


class _Growing:
    """Text of a file, read as far as it is needed; `at` is the place in what is held of it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.text, self.at, self.read = "", 0, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._scan = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """The next character that is no white space, "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in SPACE:
                self.at += 1
            if self.at < len(self.text) or not self._more(1 << 20):
                return self.text[self.at : self.at + 1]

    def value(self, number: int) -> Any:
        """The JSON value that begins here; UserError with its number where it is none."""
        size = 1 << 20
        while True:
            try:
                value, self.at = self._scan(self.text, self.at)
                return value
            except (ValueError, RecursionError) as error:
                # a value that goes on behind the text that is held fails at its end, or in a string
                whole = not isinstance(error, json.JSONDecodeError) or (
                    error.pos < len(self.text) - len("\\uXXXX\\uXXXX")
                    and not error.msg.startswith("Unterminated string")
                )
                if whole or not self._more(size):
                    raise UserError(f"{self.path}: record {number} is not JSON ({_cause(error)})") from None
                size *= 2

    def _more(self, size: int) -> bool:
        block = self.file.read(size)
        begun = self._decoder.getstate()[0]
        try:
            text = self._decoder.decode(block, final=not block)
        except UnicodeDecodeError:
            text = decode(self.path, begun + block, self.read - len(begun))  # raises, naming the byte
        self.text, self.at = self.text[self.at :] + text, 0
        self.read += len(block)
        return bool(block)


def _csv(path: Path, delimiter: str, column: str | None) -> Records:
    csv.field_size_limit(sys.maxsize)
    text = (decode(path, line, offset) for offset, line in lines(path, Stream(str(path), 0, 0)))
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        if column is not None and header.count(column) > 1:
            raise UserError(f"{path}: {header.count(column)} columns are called {column!r}; rename all but one of them")
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(
                    f"{path}: line {reader.line_num} has {len(row)} fields, the header {len(header)} "
                    f"({', '.join(header)[:200]}); a field with {delimiter!r}, quotes or line ends in it stands in double quotes"
                )
            if row:
                yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num} is not {file_kind(path)[0]} ({error})") from None


@contextmanager
def parquet_file(path: Path, column: str | None = None) -> Iterator[Any]:
    """An open .parquet file; UserError where it is none, or has no `column`."""
    import pyarrow.parquet as pq

    with _readable(path), pq.ParquetFile(path) as file:
        _root(path, file.schema_arrow.names, column)
        yield file


def _parquet(path: Path, stream: Stream, column: str | None) -> Records:
    with parquet_file(path, column) as file:
        groups = range(stream.start, stream.stop or file.num_row_groups)
        number = sum(file.metadata.row_group(group).num_rows for group in range(stream.start))
        columns = _root(path, file.schema_arrow.names, column)
        for group in groups:
            size = file.metadata.row_group(group)
            rows = _batch_rows(size.total_byte_size, size.num_rows)
            for batch in file.iter_batches(rows, row_groups=[group], columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record


def _arrow(path: Path, column: str | None) -> Records:
    """Records of a file or a stream of Arrow's own format, which `datasets` writes too."""
    import pyarrow as pa

    number = 0
    with _readable(path), pa.memory_map(str(path)) as file:
        try:
            table = pa.ipc.open_file(file)
            batches = (table.get_batch(index) for index in range(table.num_record_batches))
        except pa.ArrowInvalid:
            file.seek(0)
            table = batches = pa.ipc.open_stream(file)
        columns = _root(path, table.schema.names, column)
        for batch in batches:
            wanted = batch if columns is None else batch.select(columns)
            rows = _batch_rows(wanted.nbytes, wanted.num_rows)
            for at in range(0, wanted.num_rows, rows):
                for record in wanted.slice(at, rows).to_pylist():
                    number += 1
                    yield number, record


def _batch_rows(size: int, rows: int) -> int:
    return min(max(BATCH_BYTES * rows // max(size, 1), 1), BATCH_ROWS)


def _root(path: Path, names: list[str], column: str | None) -> list[str] | None:
    """The column to read for a path; null: all. UserError where a table has none."""
    if column is None:
        return None
    found = root(names, column)
    if found is None:
        raise UserError(f"{path}: no column {column!r}; columns: {', '.join(names)}")
    return [found]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        kind = file_kind(path)[0].removeprefix(".")
        raise UserError(f"{path}: not readable as {kind} ({' '.join(str(error).split())})") from None


def _cause(error: Exception) -> str:
    """Why JSON was not read, in the reader's words but for two that speak of Python."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    return str(error) if isinstance(error, json.JSONDecodeError) else "an integer of more than 4,300 digits"
