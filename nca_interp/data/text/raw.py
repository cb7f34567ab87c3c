"""Bytes of local files: what kind a file is, its bytes without compression, its text. Errors name the file and the place."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from nca_interp.base import UserError

PLAIN = (".txt", ".md")
"""Kinds that are cut into documents."""
RECORDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
"""Kinds of text that hold records."""
BINARY = (".parquet", ".arrow")
"""Kinds that have a compression of their own."""
TEXT_FILES = (*PLAIN, *RECORDS, *BINARY)
"""Kinds of files that are read, in upper case too."""
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""May follow every kind but .parquet and .arrow."""
BYTE_ORDER_MARKS = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"))


class Stream(NamedTuple):
    """A part of a corpus that can be read without the others."""

    name: str
    """File, or shard of a dataset."""
    start: int
    """First byte (plain files), row group (.parquet), problem or file number."""
    stop: int
    """One behind the last; 0: all of it."""


def file_kind(path: Path) -> tuple[str, str]:
    """(suffix that says the kind, suffix of the compression or ""), both in lower case."""
    last = path.suffix.lower()
    compression = last if last in COMPRESSED else ""
    return (path.with_suffix("").suffix.lower() if compression else last), compression


def check_kind(path: Path) -> None:
    """UserError for a file of a kind that is not read, with the way that works where there is one."""
    form, compression = file_kind(path)
    if form in TEXT_FILES and not (compression and form in BINARY):
        return
    other = (".zip", ".tar", ".tgz", ".7z", ".rar", ".lz4", ".lzma")
    if form in other or form in BINARY:
        raise UserError(f"source: {path} is of kind {form + compression!r}: unpack it, then name what was in it")
    kinds = f"{', '.join(TEXT_FILES)}; all but {' and '.join(BINARY)} also with {', '.join(COMPRESSED)}"
    raise UserError(
        f"source: {path} is of kind {form + compression!r}; legal: {kinds}; plain text of another name: rename it to .txt"
    )


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed."""
    compression = file_kind(path)[1]
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


def lines(path: Path, stream: Stream) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of the lines that start inside the range, without the byte order mark of UTF-8."""
    with opened(path) as file:
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


def line_name(path: Path, stream: Stream, number: int) -> str:
    """Name of line `number` of a part, counted in the whole file (slow: for errors only)."""
    with opened(path) as file:
        left, before = stream.start, 0
        while left:
            block = file.read(min(left, 1 << 20))
            before += block.count(b"\n")
            left -= len(block)
        started = not stream.start or block.endswith(b"\n")
    return f"line {before + number + (not started)}"


def decode(path: Path, data: bytes, offset: int = 0, where: Any = lambda: "") -> str:
    """UTF-8 text of the bytes at `offset` of a file; UserError naming the file, the first bad byte and what to do."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        marked = [name for mark, name in BYTE_ORDER_MARKS if offset == 0 and data.startswith(mark)]
        byte = f"byte 0x{data[error.start]:02x} at offset {offset + error.start}{where()}"
        if marked:
            raise UserError(f"{path}: not UTF-8 but {marked[0]} ({byte}); {_convert(path, marked[0])}") from None
        raise UserError(f"{path}: not UTF-8: {byte}; if it is Latin-1, {_convert(path, 'LATIN1')}") from None
    if "\0" in text:
        raise UserError(
            f"{path}: a binary file, or UTF-16: NUL at offset {offset + data.index(0)}{where()}; text in UTF-8 is needed"
        )
    return text


def _convert(path: Path, encoding: str) -> str:
    unpack = " (after unpacking it)" if file_kind(path)[1] else ""
    return f"convert it{unpack}: iconv -f {encoding} -t UTF-8 {path.name} > utf8-{path.name}"
