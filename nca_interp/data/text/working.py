"""The working folder of a text preparation: what is fixed, what changes, and files that only grow.

state.json is renamed into place after the files are synced; it holds their sizes and hashes. A process that finds it cuts
the files back to that and checks them.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from nca_interp.data.text import inputs
from nca_interp.data.text.cuts import SEPARATOR

FEW = 20
"""With no more documents than this, the split by documents is to blame for a split that is too short."""


class Setup(NamedTuple):
    """What is fixed before the first row: setup.json."""

    identity: str
    """Digest of the request and of the local inputs, the tokenizer's among them (sizes and times)."""
    plan: dict[str, Any]
    """`Corpus.plan`."""
    limit: int
    """`text.split_limit`."""
    end: int
    """Id of the token between documents."""
    vocab: int
    small: bool
    """Whether the head is the whole corpus."""
    tokenizer_files: inputs.State
    """`inputs.state` of a named tokenizer's local files."""
    bos: int | None
    pad: int | None
    """Ids that the tokenizer names; null: none."""


@dataclass
class State:
    """All that changes while a text is prepared: state.json."""

    cursors: list[list[int]]
    """Places of the lanes, in the order of their turn."""
    counted: list[int]
    """Of the validation documents: bytes by `byte_counts`, and how many documents have another number of bytes."""
    documents: int = 0
    duplicates: int = 0
    bytes: int = 0
    skipped: int = 0
    empty: int = 0
    """Documents without text met."""
    inside: int = 0
    """Places inside words at which long documents were cut."""
    split_documents: list[int] = field(default_factory=lambda: [0, 0])
    split_bytes: list[int] = field(default_factory=lambda: [0, 0])
    tokens: list[int] = field(default_factory=lambda: [0, 0])
    """Of each split, met (those beyond the wanted rows are not written)."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Bytes and SHA-256 of train.bin, val.bin and seen.bin."""
    finished: bool = False

    def advice(self, width: int) -> str:
        """What fills a row of `width` tokens in each split where the corpus as it is does not."""
        if self.documents > FEW or sum(self.tokens) < 4 * width:
            return "use a longer corpus, a larger max_bytes or val_fraction, or a shorter context"
        alike = f" ({self.duplicates} more are the same but for white space)" if self.duplicates else ""
        return (
            f"a document goes to one split as a whole, and there are only {self.documents}{alike}: cut them into more, in a "
            f".txt by a line {SEPARATOR.decode()} between parts, else by a record for each part"
        )


class Output:
    """A file that only grows, its hash kept while it is written."""

    def __init__(self, path: Path, committed: dict[str, Any] | None) -> None:
        self.size, self.hash = 0, hashlib.sha256()
        self.file = open(path, "r+b" if committed else "wb")  # noqa: SIM115  closed by close()
        if committed:
            self.cut(committed["bytes"])
            self.trim()
            if self.summary() != committed:
                raise OSError(f"{path} differs from what was written")

    def append(self, values: npt.NDArray[Any]) -> None:
        """Write an array's bytes."""
        self.file.write(values.data)
        self.hash.update(values.data)
        self.size += values.nbytes

    def cut(self, size: int) -> None:
        """Count only the first `size` bytes; what lies behind stays until `trim`, in case the present state is not the last."""
        self.file.flush()
        self.size, self.hash = 0, hashlib.sha256()
        with open(self.file.name, "rb") as file:
            while block := file.read(min(1 << 20, size - self.size)):
                self.hash.update(block)
                self.size += len(block)

    def trim(self) -> None:
        """Drop what lies behind the bytes that count."""
        self.file.truncate(self.size)
        self.file.seek(self.size)

    def summary(self) -> dict[str, Any]:
        """Bytes and SHA-256 so far."""
        return {"bytes": self.size, "sha256": self.hash.hexdigest()}

    def sync(self) -> dict[str, Any]:
        """Put everything on the disk; the summary."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.summary()
