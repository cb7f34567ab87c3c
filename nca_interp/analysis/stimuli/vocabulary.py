"""What a tokenizer says of a model's token ids: which stand for text, and which it puts before every text."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from nca_interp.data.text.tokenizer import open_tokenizer

TRIED = 1000
"""Tokens whose text is tried for one that the tokenizer knows."""


class Vocabulary(NamedTuple):
    """Token ids by their use."""

    ordinary: frozenset[int]
    """Of the tokenizer's own vocabulary, without what was added to it (special and control tokens, runs of spaces)."""
    prefix: tuple[int, ...]
    """What `tokenizer(text)` puts before the tokens of the text, e.g. a begin-of-sequence token."""


def read_vocabulary(path: Path) -> Vocabulary:
    """That of a tokenizer at a path. Its post-processor decides the prefix: where there is this
    file, transformers 5 reads `add_bos_token` of tokenizer_config.json as little."""
    tokenizer = open_tokenizer(path).tokenizer
    ordinary = set(tokenizer.get_vocab(with_added_tokens=True).values()) - tokenizer.get_added_tokens_decoder().keys()
    # of a text that has tokens: an alphabet may lack any one letter
    texts = chain("a", (tokenizer.decode([token]) for token in islice(sorted(ordinary), TRIED)))
    for encoded in (tokenizer.encode(text, add_special_tokens=True) for text in texts):
        if 0 in encoded.special_tokens_mask:
            own = encoded.special_tokens_mask.index(0)
            return Vocabulary(frozenset(ordinary), tuple(encoded.ids[:own]))
    return Vocabulary(frozenset(ordinary), ())


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Text of one token as it stands within a text: with its leading space, which sentencepiece leaves out of single ones."""
    text: str = tokenizer.decode([token], skip_special_tokens=False)
    piece = tokenizer.id_to_token(token) or ""
    return f" {text}" if piece.startswith("\u2581") and not text.startswith(" ") else text


@lru_cache(maxsize=8)
def token_texts(path: Path, n: int) -> tuple[str, ...]:
    """`token_text` of the ids 0 to n - 1 of the tokenizer at a path; empty for those that it does not know."""
    tokenizer = open_tokenizer(path).tokenizer
    return tuple(token_text(tokenizer, token) if tokenizer.id_to_token(token) is not None else "" for token in range(n))
