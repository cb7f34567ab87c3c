"""Where a plain text file is cut into documents, and into ranges that are read alone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nca_interp.data.text.raw import Stream, opened

MIN_PIECE, MAX_PIECE = 4096, 65_536
"""Text without separators is cut into documents of at least and at most this many bytes (the last of a range may be
shorter)."""
SEPARATOR = b"<|endoftext|>"
"""Stands between the documents of a plain text file, as in TinyStories; it belongs to none."""


def range_pieces(path: Path, stream: Stream) -> Iterator[tuple[int, bytes]]:
    """(offset, document) of a range, which goes from the first cut behind its start to the first behind its end."""
    with opened(path) as file:
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
    if (found := window.find(SEPARATOR)) >= 0:
        rest = window[found + len(SEPARATOR) :]
        return len(window) - len(rest.lstrip(b"\r\n"))
    return len(window) if len(window) < MAX_PIECE else cut(window, 0, len(window), final=False)


def pieces(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of documents: a text cut at separators, where none comes at blank lines, else at a line, a space or
    a character. A separator goes with the line ends around it."""
    data, at, offset, behind = b"", 0, 0, False
    while True:
        if len(data) - at < 2 * MAX_PIECE:
            data, at = data[at:] + file.read(1 << 20), 0
        if at == len(data):
            return
        limit = min(at + MAX_PIECE, len(data))
        found = data.find(SEPARATOR, at, limit + len(SEPARATOR))
        final = limit == len(data)
        if found >= 0:
            end = found
        else:  # behind a separator, the rest of the text is a document as well
            end = limit if behind and final else cut(data, min(at + MIN_PIECE, limit), limit, final)
        piece = data[at:end]
        lead = len(piece) - len(piece.lstrip(b"\r\n")) if behind else 0
        piece = piece[lead:].rstrip(b"\r\n") if found >= 0 else piece[lead:]
        if piece:
            yield offset + lead, piece
        behind = found >= 0
        step = end + len(SEPARATOR) * behind - at
        offset, at = offset + step, at + step


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
