"""Natural text for models that others trained: a built-in English one, or a file of the user's, in a checkpoint's tokens."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nca_interp.base import UserError
from nca_interp.borders import border
from nca_interp.data.text.tokenizer import open_tokenizer

ROWS = 64
"""Rows that a text is cut into, at most."""


class Text(NamedTuple):
    """Prose and where it comes from."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Of its bytes in UTF-8: of a file of the user's, that of the file."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def sample_text() -> Text:
    """English prose that every Python has, its language reference; another version of Python has a slightly other one."""
    from pydoc_data.topics import topics

    version = ".".join(map(str, sys.version_info[:2]))
    return Text(f"the Python {version} language reference", "\n\n".join(topics[name] for name in sorted(topics)))


def read_text(path: Path) -> Text:
    """A file of the user's; UserError unless it is UTF-8."""
    with border("not readable as text in UTF-8", path):
        return Text(f"the file {path.name}", path.read_bytes().decode())


def rows_of(text: Text, tokenizer: Path, length: int, rows: int = ROWS) -> np.ndarray:
    """The beginning of a text in the tokens of a tokenizer (any that `open_tokenizer` takes), cut into rows [<= rows, length]; a
    text that gives fewer than two is cut into two shorter ones. UserError for one of fewer than four tokens."""
    opened = open_tokenizer(tokenizer).tokenizer
    with border("the tokenizer does not encode text", tokenizer):
        ids = np.asarray(opened.encode(text.text[: 16 * rows * length], add_special_tokens=False).ids, np.int64)
    length = min(length, len(ids) // 2)
    if length < 2:
        raise UserError(f"{text.name}: {len(ids)} tokens are too few for natural text; give a longer one")
    n = min(rows, len(ids) // length)
    return ids[: n * length].reshape(n, length)
