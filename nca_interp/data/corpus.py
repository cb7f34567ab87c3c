"""Documents of a text source: local files, Hugging Face datasets, installed packages, generated problems.

A corpus is read once, lazily, in a fixed order; what it counted on the way is its provenance.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nca_interp.base import UserError
from nca_interp.data.specs import TextSpec

MIN_PIECE = 4096
"""A .txt file is cut at blank lines into documents of at least this many characters."""


class Document(NamedTuple):
    """One text, and the key by which it goes to training or validation (equal keys stay together)."""

    text: str
    group: str


class HubPreset(NamedTuple):
    """Where a well-known corpus lies on the Hugging Face hub."""

    dataset: str
    config: str | None
    column: str


HUB_PRESETS = {
    "c4": HubPreset("allenai/c4", "en", "text"),
    "openwebtext": HubPreset("Skylion007/openwebtext", None, "text"),
    "openwebmath": HubPreset("open-web-math/open-web-math", None, "text"),
    "codeparrot": HubPreset("codeparrot/codeparrot-clean", None, "content"),
}


class Corpus:
    """Iterate for the documents; `description` says what they are, `provenance` grows while they are read."""

    def __init__(self, spec: TextSpec) -> None:
        self.spec = spec
        self.provenance: dict[str, Any] = {}
        scheme, _, rest = spec.source.partition(":")
        if scheme == "site":
            from nca_interp.data.site import describe

            self.description = describe(rest)
        elif scheme == "arithmetic":
            self.description = "generated worked arithmetic problems, step by step"
        else:
            self.description = f"text of {spec.source}"

    def __iter__(self) -> Iterator[Document]:
        scheme, _, rest = self.spec.source.partition(":")
        if scheme == "site":
            from nca_interp.data.site import site_documents

            return site_documents(rest, self.provenance)
        if scheme == "files":
            return self._files(rest)
        if scheme == "hf":
            return self._hub(rest)
        from nca_interp.data.arithmetic import worked_documents

        return (Document(text, text) for text in worked_documents(self.spec.arithmetic))

    def _files(self, patterns: str) -> Iterator[Document]:
        paths = match_files(patterns)
        self.provenance["files"] = [str(p) for p in paths]
        for path in paths:
            for text in read_texts(path, self.spec.column or "text"):
                yield Document(text, text)

    def _hub(self, name: str) -> Iterator[Document]:
        preset = HUB_PRESETS.get(name)
        if preset is None:
            dataset, _, config = name.partition(":")
            preset = HubPreset(dataset, config or None, "text")
        column = self.spec.column or preset.column
        self.provenance["dataset"] = {
            "id": preset.dataset,
            "config": preset.config,
            "split": self.spec.split,
            "column": column,
        }
        for row in _stream(self.spec, preset):
            text = row.get(column)
            if not isinstance(text, str):
                known = ", ".join(sorted(k for k, v in row.items() if isinstance(v, str)))
                raise UserError(
                    f"column: {column!r} of {self.spec.source} holds no text; text columns: {known or 'none'}"
                )
            yield Document(text, text)


def _stream(spec: TextSpec, preset: HubPreset) -> Iterator[dict[str, Any]]:
    import datasets

    try:
        rows = datasets.load_dataset(preset.dataset, preset.config, split=spec.split, streaming=True)
        yield from rows
    except UserError:
        raise
    except Exception as error:  # datasets raises many kinds for: offline, unknown name, config or split, damaged file
        cause = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"source: {spec.source!r} (dataset {preset.dataset}, config {preset.config}, split {spec.split}) cannot be "
            f"read: {cause}; check the name and the network, or use files:<glob> or site:<corpus>"
        ) from None


def match_files(patterns: str) -> list[Path]:
    """Files of comma-separated globs, sorted, each once. UserError if a glob matches nothing, or another kind of file."""
    paths: set[Path] = set()
    for pattern in patterns.split(","):
        found = [Path(p) for p in glob.glob(str(Path(pattern.strip()).expanduser()), recursive=True)]
        found = [p for p in found if p.is_file()]
        if not found:
            raise UserError(f"source: files:{pattern} matches no file (working directory {Path.cwd()})")
        paths.update(found)
    for path in paths:
        if path.suffix not in (".txt", ".jsonl", ".parquet"):
            raise UserError(f"source: {path} is of kind {path.suffix!r}; legal: .txt, .jsonl, .parquet")
    return sorted(paths)


def read_texts(path: Path, column: str) -> Iterator[str]:
    """Texts of one file: pieces of a .txt, `column` of every record of a .jsonl or .parquet."""
    if path.suffix == ".txt":
        yield from pieces(decode(path, path.read_bytes()))
        return
    for number, record in enumerate(read_records(path, None if path.suffix == ".jsonl" else [column]), 1):
        text = record.get(column)
        if not isinstance(text, str):
            raise UserError(f"{path}: record {number} has no text in column {column!r}; columns: {', '.join(record)}")
        yield text


def read_records(path: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Records of a .jsonl (blank lines skipped) or .parquet file."""
    if path.suffix == ".parquet":
        yield from _parquet(path, columns)
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(decode(path, line, f" (line {number})"))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}: line {number} is not JSON ({error})") from None
            if not isinstance(record, dict):
                raise UserError(f"{path}: line {number} is not a JSON object")
            yield record


def _parquet(path: Path, columns: list[str] | None) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            missing = [c for c in columns or [] if c not in file.schema_arrow.names]
            if missing:
                raise UserError(f"{path}: no column {missing[0]!r}; columns: {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(1024, columns=columns):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise UserError(f"{path}: not readable as parquet ({error})") from None


def decode(path: Path, data: bytes, where: str = "") -> str:
    """UTF-8 text of `data`; UserError naming the file and the first bad byte."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}{where}") from None


def pieces(text: str) -> Iterator[str]:
    """Cut a text at blank lines into documents of at least MIN_PIECE characters (the last may be shorter)."""
    start = 0
    while start < len(text):
        cut = text.find("\n\n", start + MIN_PIECE)
        end = len(text) if cut < 0 else cut + 2
        yield text[start:end]
        start = end
