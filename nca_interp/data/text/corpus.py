"""Documents of a text source: local files, Hugging Face datasets, installed packages, generated problems.

A corpus is a sequence of streams that can be read alone (`files.Stream`), so that several processes share the work, and
a canonical order of documents (`lanes`) that depends on neither their number nor where reading was broken off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from nca_interp.data.specs import TextSpec
from nca_interp.data.text import files
from nca_interp.data.text.columns import valid
from nca_interp.data.text.files import file_streams, is_long, match_files, read_stream
from nca_interp.data.text.inputs import folder_files, record, state
from nca_interp.data.text.raw import Stream, file_kind

LANES = 16
"""Streams of unknown length read side by side, a chunk of each in turn. Changing it changes the order of documents."""
CHUNK_CHARACTERS = 2_000_000
"""Such a stream is read in chunks of this many characters. Changing it changes the order of documents."""
SITE_FILES, PROBLEMS = 50, 2000
"""Source files and generated problems of a stream."""


class Document(NamedTuple):
    """One text, and the key by which it goes to training or validation (equal keys stay together)."""

    text: str
    group: str


class Cursor(NamedTuple):
    """A place in a corpus: `skip` documents into stream number `stream`."""

    stream: int
    skip: int


class Corpus:
    """Iterate for the documents in canonical order; `description` says what they are, `provenance` where they come from.

    `plan` is what another Corpus of the same specification found (`corpus.plan`); null looks at the source again. Raises
    UserError for a source that does not exist, is empty, binary or of an unknown kind.
    """

    def __init__(self, spec: TextSpec, plan: dict[str, Any] | None = None) -> None:
        self.spec = spec
        self.scheme, _, self.rest = spec.source.partition(":")
        self._plan = plan
        self._site: Any = None
        self._hub: Any = None
        self.skipped = 0
        """Source files passed over because they are not UTF-8 (site: only)."""
        if self.scheme == "site":
            from nca_interp.data.text.installed import describe

            self.description = describe(self.rest)
        elif self.scheme == "arithmetic":
            self.description = "generated worked arithmetic problems, step by step"
        else:
            self.description = f"text of {spec.source}"

    @property
    def plan(self) -> dict[str, Any]:
        """JSON: `streams` (null: without end), their `lanes`, `chunk`, `provenance`, the `inputs` that must not change."""
        if self._plan is None:
            self._plan = self._look() | {"chunk": CHUNK_CHARACTERS}
        return self._plan

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the documents come from."""
        return self.plan["provenance"] | ({"not_utf8": self.skipped} if self.scheme == "site" else {})

    @property
    def lanes(self) -> int | None:
        """Streams that are read in turns, a chunk of each; null: streams are short and read whole, one after the other."""
        return self.plan["lanes"]

    def _look(self) -> dict[str, Any]:
        if self.scheme == "arithmetic":
            return {"streams": None, "lanes": None, "provenance": {}, "inputs": []}
        if self.scheme == "hf":
            from nca_interp.data.text.hub import HubDataset

            self._hub = HubDataset(self.spec)
            found = self._hub.found
            streams = [[found["id"], file, file + 1] for file in range(found["files"])]
            inputs = state(folder_files(found["id"]))
            return {"streams": streams, "lanes": LANES, "provenance": {"dataset": found}, "inputs": inputs}
        if self.scheme == "site":
            from nca_interp.data.text.installed import site_files

            self._site = site_files(self.rest)
            count = len(self._site.files)
            ranges = [[self.rest, at, min(at + SITE_FILES, count)] for at in range(0, count, SITE_FILES)]
            provenance = {"packages": self._site.packages, "missing": self._site.missing}
            return {"streams": ranges, "lanes": None, "provenance": provenance, "inputs": [self._site.packages]}
        paths = match_files(self.rest)
        inputs = state(paths)
        parts = file_streams(paths, self.spec.column or "text")
        lanes = LANES if any(map(is_long, parts)) else None
        return {"streams": [list(part) for part in parts], "lanes": lanes, "provenance": {}, "inputs": inputs}

    def __contains__(self, stream: int) -> bool:
        return self.plan["streams"] is None or stream < len(self.plan["streams"])

    def read(self, at: Cursor) -> Iterator[Document]:
        """Documents of one stream, from a place in it to its end; a text that is null is an empty one."""
        if self.scheme == "arithmetic":
            from nca_interp.data.text.arithmetic import worked_document

            numbers = range(at.stream * PROBLEMS + at.skip, (at.stream + 1) * PROBLEMS)
            return (Document(text, text) for text in (worked_document(self.spec.arithmetic, n) for n in numbers))
        stream = Stream(*self.plan["streams"][at.stream])
        if self.scheme == "site":
            return islice(self._read_site(stream), at.skip, None)
        if self.scheme == "hf":
            from nca_interp.data.text.hub import HubDataset

            self._hub = self._hub or HubDataset(self.spec, self.plan["provenance"]["dataset"])
            found = self._hub.texts(stream.start, at.skip)
        else:
            found = islice(read_stream(stream, self.spec.column or "text"), at.skip, None)
        return (Document(text, text) for text in (valid(text or "") for text in found))

    def _read_site(self, stream: Stream) -> Iterator[Document]:
        from nca_interp.data.text.installed import read_file, site_files

        self._site = self._site or site_files(self.rest)
        for name, path in self._site.files[stream.start : stream.stop]:
            texts = read_file(self.rest, path)
            self.skipped += texts is None
            for text in texts or ():
                yield Document(text, name)

    def __iter__(self) -> Iterator[Document]:
        for chunk in in_turns(self, start(self)):
            yield from chunk

    def inputs_read(self, until: Sequence[Cursor]) -> list[dict[str, Any]]:
        """For provenance, the local files with what was read of them before the cursors (`inputs.record`).

        Of a plain file that was read in part, the beginning up to there; of a folder of `datasets`, everything. Raises
        UserError if a file has changed meanwhile.
        """
        inputs, streams = self.plan["inputs"], self.plan["streams"]
        if self.scheme == "hf":
            return record(inputs, {name: size for name, size, _ in inputs})
        if self.scheme != "files":
            return []
        step = self.lanes or 1
        unread = {s for c in until for s in range(c.stream + (c.skip > 0), len(streams), step)}
        ends: dict[str, int] = {}
        for number, (name, _, stop) in enumerate(streams):
            if number not in unread:
                plain = stop and file_kind(Path(name))[0] != ".parquet"
                size = Path(name).stat().st_size
                # the last document of a range may end in the next
                ends[name] = max(ends.get(name, 0), min(stop + files.RANGE_BYTES, size) if plain else size)
        return record(inputs, ends)


def start(corpus: Corpus) -> list[Cursor]:
    """Cursors of the lanes before the first document."""
    return [Cursor(lane, 0) for lane in range(corpus.lanes or 1) if lane in corpus]


class Lane:
    """Every `step`-th stream of a corpus, from a cursor on, in chunks; `cursor` is the place behind the last chunk."""

    def __init__(self, corpus: Corpus, cursor: Cursor, step: int) -> None:
        self.corpus, self.cursor, self.step = corpus, cursor, step
        self._rows: Iterator[Document] | None = None

    def take(self) -> list[Document] | None:
        """The next chunk (a short stream as a whole, if empty as an empty one); None at the end of the lane."""
        chunk: list[Document] = []
        size, long, limit = 0, self.corpus.lanes is not None, self.corpus.plan["chunk"]
        while self.cursor.stream in self.corpus:
            if self._rows is None:
                self._rows = self.corpus.read(self.cursor)
            for document in self._rows:
                chunk.append(document)
                size += len(document.text)
                if long and size >= limit:
                    self.cursor = Cursor(self.cursor.stream, self.cursor.skip + len(chunk))
                    return chunk
            self.cursor, self._rows = Cursor(self.cursor.stream + self.step, 0), None
            if chunk or not long:
                return chunk
        return None


def in_turns(corpus: Corpus, cursors: Sequence[Cursor]) -> Iterator[list[Document]]:
    """Chunks of documents in canonical order from the cursors on: one of each lane in turn, ended lanes left out."""
    turn = deque(Lane(corpus, cursor, corpus.lanes or 1) for cursor in cursors)
    while turn:
        lane = turn.popleft()
        if (chunk := lane.take()) is not None:
            turn.append(lane)
            yield chunk
