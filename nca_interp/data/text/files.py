"""Local text files: which of their parts can be read alone, and the texts in them. Errors name the file and the place."""

from __future__ import annotations

import bz2
import codecs
import glob
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from nca_interp.base import UserError

TEXT_FILES = (".txt", ".jsonl", ".json", ".parquet")
"""Kinds of text files; .json holds one record a line, like .jsonl."""
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""May follow .txt, .jsonl and .json."""
RANGE_BYTES = 4_000_000
"""An uncompressed .txt or .jsonl file is read in ranges of this many bytes. Changing it changes the documents of .txt."""
MIN_PIECE, MAX_PIECE = 4096, 65_536
"""A .txt file is cut into documents of at least and at most this many bytes (the last of a range may be shorter)."""


class Stream(NamedTuple):
    """A part of a corpus that can be read without the others."""

    name: str
    """File, or shard of a dataset."""
    start: int
    """First byte (plain files), row group (.parquet), problem or file number."""
    stop: int
    """One behind the last; 0: all of it."""


def match_files(patterns: str) -> list[Path]:
    """Files of comma-separated globs, sorted, each once. UserError if a glob matches nothing, or another kind of file."""
    paths: set[Path] = set()
    for pattern in patterns.split(","):
        found = [Path(p) for p in glob.glob(str(Path(pattern.strip()).expanduser()), recursive=True)]
        files = [p for p in found if p.is_file()]
        if not files:
            folder = f"; it is a folder: try files:{pattern.strip().rstrip('/')}/**/*.txt" if found else ""
            raise UserError(f"source: files:{pattern} matches no file (working directory {Path.cwd()}){folder}")
        paths.update(files)
    for path in paths:
        form, compression = file_kind(path)
        if form not in TEXT_FILES or (compression and form == ".parquet"):
            kinds = f"{', '.join(TEXT_FILES)}; .txt and .jsonl also with {', '.join(COMPRESSED)}"
            raise UserError(f"source: {path} is of kind {form + compression!r}; legal: {kinds}")
    return sorted(paths)


def file_kind(path: Path) -> tuple[str, str]:
    """(.txt | .jsonl | .parquet | another suffix, suffix of the compression or "")."""
    compression = path.suffix if path.suffix in COMPRESSED else ""
    return (path.with_suffix("") if compression else path).suffix, compression


def file_streams(paths: list[Path], column: str) -> list[Stream]:
    """Parts of the files in order. The first text of every file is read, so that a wrong kind of file is found at once."""
    streams = []
    for path in paths:
        form, compression = file_kind(path)
        if form == ".parquet":
            with _parquet_file(path, column) as file:
                found = [Stream(str(path), group, group + 1) for group in range(file.num_row_groups)]
        elif compression:
            found = [Stream(str(path), 0, 0)]
        else:
            size = path.stat().st_size
            found = [Stream(str(path), at, min(at + RANGE_BYTES, size)) for at in range(0, size, RANGE_BYTES)]
        if found:
            next(read_stream(found[0], column), None)
        streams += found
    return streams


def read_stream(stream: Stream, column: str) -> Iterator[str]:
    """Texts of one part: pieces of a .txt, `column` of every record of a .jsonl or .parquet."""
    path = Path(stream.name)
    form, _ = file_kind(path)
    if form == ".txt":
        for offset, piece in _pieces(path, stream):
            yield decode(path, piece if offset else piece.removeprefix(codecs.BOM_UTF8), offset)
    elif form == ".parquet":
        yield from _parquet_texts(path, stream, column)
    else:
        for number, record in _records(path, stream):
            text = record.get(column)
            if not isinstance(text, str):
                raise UserError(
                    f"{path}: {_line(path, stream, number)} has no text in column {column!r}; columns: {', '.join(record)}"
                )
            yield text


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a .jsonl (blank lines skipped) or .parquet file, all columns."""
    if file_kind(path)[0] != ".parquet":
        yield from (record for _, record in _records(path, Stream(str(path), 0, 0)))
        return
    with _parquet_file(path) as file:
        for batch in file.iter_batches(1024):
            yield from batch.to_pylist()


def _records(path: Path, stream: Stream) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line of the part, counted from 1; record)."""
    for number, (offset, line) in enumerate(_lines(path, stream), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(decode(path, line, offset, lambda n=number: f" ({_line(path, stream, n)})"))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: {_line(path, stream, number)} is not JSON ({error})") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}: {_line(path, stream, number)} is not a JSON object; one object a line is legal")
        yield number, record


def _lines(path: Path, stream: Stream) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of the lines that start inside the range."""
    with _opened(path) as file:
        offset = stream.start
        if offset:
            file.seek(offset - 1)
            offset += len(file.readline()) - 1
        while not stream.stop or offset < stream.stop:
            line = file.readline()
            if not line:
                return
            yield offset, line.removeprefix(codecs.BOM_UTF8) if offset == 0 else line
            offset += len(line)


def _line(path: Path, stream: Stream, number: int) -> str:
    """Name of line `number` of a part, counted in the whole file (slow: for errors only)."""
    with _opened(path) as file:
        left, before = stream.start, 0
        while left:
            block = file.read(min(left, 1 << 20))
            before += block.count(b"\n")
            left -= len(block)
        started = not stream.start or block.endswith(b"\n")
    return f"line {before + number + (not started)}"


def _pieces(path: Path, stream: Stream) -> Iterator[tuple[int, bytes]]:
    """(offset, document) of a .txt range, which goes from the first cut behind its start to the first behind its end."""
    with _opened(path) as file:
        if not stream.stop:
            yield from pieces(file)
            return
        file.seek(stream.start)
        length = stream.stop - stream.start
        data = file.read(length + MAX_PIECE)
        start = _border(data[:MAX_PIECE]) if stream.start else 0
        stop = length + _border(data[length:])
        for offset, piece in pieces(io.BytesIO(data[start:stop])):
            yield stream.start + start + offset, piece


def _border(window: bytes) -> int:
    """Where two ranges of a file part, from the MAX_PIECE bytes behind the nominal border (fewer at the file's end)."""
    return cut(window, 0, len(window), final=len(window) < MAX_PIECE)


def pieces(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of documents: a text cut at blank lines, where none comes at a line, a space or a character."""
    data, at, offset = b"", 0, 0
    while True:
        if len(data) - at < 2 * MAX_PIECE:
            data, at = data[at:] + file.read(1 << 20), 0
        if at == len(data):
            return
        limit = min(at + MAX_PIECE, len(data))
        end = cut(data, min(at + MIN_PIECE, limit), limit, final=limit == len(data))
        yield offset, data[at:end]
        offset += end - at
        at = end


def cut(data: bytes, at: int, limit: int, final: bool) -> int:
    """Where a document may end: behind the first blank line in data[at:limit]; without one at `limit` if that is the end
    of the text (`final`), else behind the last line there, the last space, or before the last character."""
    blank = [i + len(mark) for mark in (b"\n\n", b"\n\r\n") if (i := data.find(mark, at, limit)) >= 0]
    if blank or final:
        return min(blank, default=limit)
    for mark in (b"\n", b" "):
        if (found := data.rfind(mark, at, limit)) >= 0:
            return found + 1
    last = limit - 1
    while last > at and data[last] & 0xC0 == 0x80:
        last -= 1
    return last if last > at else limit


def decode(path: Path, data: bytes, offset: int = 0, where: Any = lambda: "") -> str:
    """UTF-8 text of the bytes at `offset` of a file; UserError naming the file and the first bad byte."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8: byte 0x{data[error.start]:02x} at offset {offset + error.start}{where()}; "
            "convert it first, e.g. with iconv"
        ) from None
    if "\0" in text:
        raise UserError(f"{path}: a binary file: NUL at offset {offset + data.index(0)}{where()}; text is needed")
    return text


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed."""
    compression = path.suffix if path.suffix in COMPRESSED else ""
    try:
        with open(path, "rb") as raw:
            if compression == ".gz":
                yield cast(BinaryIO, gzip.GzipFile(fileobj=raw))
            elif compression == ".bz2":
                yield cast(BinaryIO, bz2.BZ2File(raw))
            elif compression == ".xz":
                yield cast(BinaryIO, lzma.LZMAFile(raw))  # noqa: SIM115  ends with `raw`
            elif compression == ".zst":
                import pyarrow as pa

                yield cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(raw, "zstd"), 1 << 20))
            else:
                yield raw
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if compression and not isinstance(error, (FileNotFoundError, PermissionError)):
            raise UserError(f"{path}: damaged, or not {compression} ({' '.join(str(error).split())})") from None
        raise UserError(f"{path}: cannot be read ({error})") from None


@contextmanager
def _parquet_file(path: Path, column: str | None = None) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if column is not None and column not in names:
                raise UserError(f"{path}: no column {column!r}; columns: {', '.join(names)}")
            yield file
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as parquet ({' '.join(str(error).split())})") from None


def _parquet_texts(path: Path, stream: Stream, column: str) -> Iterator[str]:
    with _parquet_file(path, column) as file:
        groups = range(stream.start, stream.stop)
        number = sum(file.metadata.row_group(group).num_rows for group in range(stream.start))
        for batch in file.iter_batches(1024, row_groups=list(groups), columns=[column]):
            for text in batch.column(0).to_pylist():
                number += 1
                if not isinstance(text, str):
                    raise UserError(f"{path}: record {number} has no text in column {column!r}")
                yield text
