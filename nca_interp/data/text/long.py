"""Very long documents, tokenised a piece at a time: the tokens of a piece take some 30 times the memory of its text."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from tokenizers import Tokenizer

PIECE_CHARACTERS = 500_000
"""A longer document is cut. Changing it can change tokens only where a document is cut `inside`."""
SEARCH, TRIES, CONTEXT = 20_000, 16, 256
"""A border is looked for among the last SEARCH characters of a piece, at TRIES places at most, and tried on CONTEXT on either
side of it."""


class Pieces(NamedTuple):
    """Parts of a text, whose tokens in turn are those of the text."""

    texts: list[str]
    inside: int
    """Borders at which tokens may differ from those of the whole text, since no other was found: no blanks, mostly."""


def cut_long(text: str, tokenizer: Tokenizer, limit: int = PIECE_CHARACTERS) -> Pieces:
    """Pieces of at most `limit` characters.

    A border is a single blank between words at which the tokenizer gives the same tokens with and without it, tried on the
    words around it. The blank goes to the word behind it, or to neither where the tokenizer puts one before every text.
    """
    found, inside, at = [], 0, 0
    while len(text) - at > limit:
        border = _border(text, at, at + limit, tokenizer)
        inside += border is None
        end, start = border or (at + limit, at + limit)
        found.append(text[at:end])
        at = start
    return Pieces([*found, text[at:]], inside)


def _border(text: str, at: int, stop: int, tokenizer: Tokenizer) -> tuple[int, int] | None:
    """(end of a piece, start of the next) before `stop`; None where none was found."""
    low, place = max(at + 1, stop - SEARCH), stop
    for _ in range(TRIES):
        while (place := max(text.rfind(" ", low, place), text.rfind("\n", low, place))) > low:
            if not text[place - 1].isspace() and not text[place + 1].isspace():
                break
        if place <= low:
            return None
        whole = _ids(text[max(at, place - CONTEXT) : place + CONTEXT], tokenizer)
        left = _ids(text[max(at, place - CONTEXT) : place], tokenizer)
        for start in (place, place + 1):
            if left + _ids(text[start : place + CONTEXT], tokenizer) == whole:
                return place, start
    return None


def _ids(text: str, tokenizer: Tokenizer) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def document_key(text: str) -> bytes:
    """64-bit hash of a text in which every run of white space counts as one space; b"" if there is nothing else."""
    found, begun, joined = hashlib.blake2b(digest_size=8), False, False
    for at in range(0, len(text), PIECE_CHARACTERS):
        block = text[at : at + PIECE_CHARACTERS]
        if words := block.split():
            if begun and not (joined and not block[0].isspace()):
                found.update(b" ")
            found.update(" ".join(words).encode())
            begun = True
        joined = not block[-1].isspace()
    return found.digest() if begun else b""
