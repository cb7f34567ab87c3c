"""Local files that tokens are made of: recorded with what was read of them, and compared with it before tokens are reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nca_interp.base import UserError
from nca_interp.data.text.files import globbed
from nca_interp.data.text.hub import dataset_of

State = list[list[Any]]
"""[path, bytes, time of change in ns] of every file."""


def state(paths: Iterable[Path]) -> State:
    """Sizes and times of files, which tell in no time that one has changed."""
    found = ((path, path.stat()) for path in paths)
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in found]


def source_files(spec: dict[str, Any]) -> list[Path]:
    """Local files that a specification (text, question-answer pairs) names, whatever their kind, sorted."""
    found: set[Path] = set()
    for source in filter(None, (spec.get("source"), spec.get("test_source"))):
        scheme, _, rest = source.partition(":")
        if scheme == "files":
            found |= globbed(rest)
        elif scheme == "hf":
            found |= set(folder_files(dataset_of(source)))
    return sorted(found)


def folder_files(name: str) -> list[Path]:
    """Files in a folder, hidden ones left out; a file itself; of a name that is neither, none."""
    folder = Path(name).expanduser()
    inside = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
    hidden = [any(part.startswith(".") for part in path.relative_to(folder).parts) for path in inside]
    return [path for path, skip in zip(inside, hidden, strict=True) if path.is_file() and not skip]


def tokenizer_files(spec: dict[str, Any]) -> list[Path]:
    """Local files of a named tokenizer."""
    name = (spec.get("tokenizer") or {}).get("name")
    return folder_files(name) if name else []


def record(before: State, read: dict[str, int]) -> list[dict[str, Any]]:
    """For provenance: each file of `before` with the SHA-256 of its first `read` bytes (of a file not read: 0 of them).

    Raises UserError if a file that was read has changed since.
    """
    for name, size, changed in before:
        if name in read and state([Path(name)]) != [[name, size, changed]]:
            raise UserError(f"{name}: changed while it was being read; run the same command again")
    return [
        {"path": name, "size": size, "mtime_ns": changed, "bytes": read.get(name, 0),
         "sha256": sha256_start(Path(name), read.get(name, 0))}
        for name, size, changed in before
    ]  # fmt: skip


def sha256_start(path: Path, length: int) -> str:
    """SHA-256 of the first `length` bytes of a file."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while length and (block := file.read(min(length, 1 << 20))):
            found.update(block)
            length -= len(block)
    return found.hexdigest()


def touched(meta: dict[str, Any]) -> bool:
    """Whether a file that the tokens of a meta.json were made of may have changed, by names, sizes and times."""
    found, spec = meta["provenance"], meta["spec"]
    files = found.get("files", [])
    now = state(source_files(spec))
    then = [[f["path"], f.get("size"), f.get("mtime_ns")] for f in files]
    tokenizer = state(tokenizer_files(spec))
    return bool(files and now and now != then) or bool(
        tokenizer and tokenizer != found.get("tokenizer_files", tokenizer)
    )


def check(directory: Path, meta: dict[str, Any]) -> None:
    """UserError where files that the tokens in `directory` were made of are there, but no longer those that they were.

    Files of which none is there any more, and a tokenizer that is not, leave the tokens as good as they were.
    """
    if changes := list(_changes(directory, meta)):
        raise UserError(
            "\n".join(changes)
            + f"\nput it back as it was, or make the tokens of the new state in another place (another "
            f"--out); {directory} was left as it is"
        )


def _changes(directory: Path, meta: dict[str, Any]) -> Iterator[str]:
    spec, files = meta["spec"], meta["provenance"].get("files", [])
    now = {str(path) for path in source_files(spec)}
    if not touched(meta):
        return
    for file in files:
        path, whole = Path(file["path"]), file["bytes"] == file.get("size")
        if not path.is_file():
            continue
        if (whole and path.stat().st_size != file["size"]) or sha256_start(path, file["bytes"]) != file["sha256"]:
            yield f"{path}: has changed since {directory} was made of it"
    then = {file["path"] for file in files}
    if now and all("size" in file for file in files):
        yield from (
            f"{name}: is new in {spec['source']} since {directory} was made of it" for name in sorted(now - then)
        )
        yield from (f"{name}: {directory} was made of it, and it is gone" for name in sorted(then - now))
    tokenizer = tokenizer_files(spec)
    if (
        tokenizer
        and state(tokenizer) != meta["provenance"].get("tokenizer_files")
        and _other_tokenizer(directory, meta)
    ):
        yield f"tokenizer {spec['tokenizer']['name']}: has changed since {directory} was made with it"


def _other_tokenizer(directory: Path, meta: dict[str, Any]) -> bool:
    """Whether the tokenizer that the specification names is no longer the one that the tokens were made with."""
    from nca_interp.data.specs import TokenizerSpec
    from nca_interp.data.text.documents import make_tokenizer

    tokenizer, end, _, _ = make_tokenizer(TokenizerSpec.model_validate(meta["spec"]["tokenizer"]), ())
    kept = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    return json.loads(tokenizer.to_str()) != kept or end != meta["end_id"]
