"""How many bytes of text a token stands for, and whether these counts are right for the documents at hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

SPACE = "▁"
"""Stands for a space in SentencePiece vocabularies."""


class ByteCounts(NamedTuple):
    """UTF-8 bytes of every token of a tokenizer."""

    sizes: npt.NDArray[np.int64]
    """[vocabulary]; 0 for special tokens. Ones where the tokens do not say what they stand for."""
    prefix: int
    """Bytes that the tokenizer puts before each document and `sizes` counts though the text lacks them."""
    known: bool
    """Whether the tokens say what they stand for."""

    def of_documents(
        self, ids: npt.NDArray[Any], lengths: npt.NDArray[np.int64], true: npt.NDArray[np.int64]
    ) -> tuple[int, int]:
        """Bytes counted in documents of `lengths` tokens whose tokens are `ids`, and how many of them have another
        number of bytes (`true`): a normaliser changed their text, or a token is not known."""
        if not len(lengths):
            return 0, 0
        counted = np.add.reduceat(self.sizes[ids], np.cumsum(lengths) - lengths) - self.prefix
        return int(counted.sum()), int((counted != true).sum()) if self.known else len(lengths)

    def of_targets(self, rows: npt.NDArray[Any], end: int) -> int:
        """Bytes of all tokens but the first of each row of a stream [rows, length], whose documents end with `end`."""
        starts = self.prefix * int((rows[:, :-1] == end).sum())
        return int(self.sizes[rows[:, 1:]].sum()) - starts


def byte_counts(tokenizer: Tokenizer, end: int) -> ByteCounts:
    """The counts of a byte-level or SentencePiece-like tokenizer, else one for each token; `end` counts nothing."""
    settings: dict[str, Any] = json.loads(tokenizer.to_str())
    before = [p for name in ("normalizer", "pre_tokenizer") for p in _parts(settings.get(name) or {})]
    parts = [*before, *_parts(settings.get("decoder") or {})]
    kinds = {part["type"] for part in parts}
    spaced = "Metaspace" in kinds or any(part["type"] == "Replace" and SPACE in part.values() for part in before)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    sizes = np.zeros(max(vocabulary.values()) + 1, np.int64)
    for token, index in vocabulary.items():
        if "ByteLevel" in kinds:
            sizes[index] = len(token) if _ALPHABET.issuperset(token) else len(token.encode())
        elif spaced:
            sizes[index] = 1 if _BYTE.fullmatch(token) else len(token.replace(SPACE, " ").encode())
        else:
            sizes[index] = 1
    known = "ByteLevel" in kinds or spaced
    for index, added in tokenizer.get_added_tokens_decoder().items():
        if added.special or known:  # in a text, a special token is ordinary characters
            sizes[index] = 0 if added.special else len(added.content.encode())
    sizes[end] = 0
    return ByteCounts(sizes, int(known and any(map(_prepends, before))), known)


_ALPHABET = set(ByteLevel.alphabet())
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def _parts(setting: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A part of a tokenizer.json, or those of a sequence of them."""
    yield setting | {"type": setting.get("type", "")}
    for key in ("decoders", "pretokenizers", "normalizers"):
        for part in setting.get(key, ()):
            yield from _parts(part)


def _prepends(part: dict[str, Any]) -> bool:
    return (
        part["type"] == "Prepend"
        or bool(part.get("add_prefix_space"))
        or part.get("prepend_scheme") in ("always", "first")
    )
