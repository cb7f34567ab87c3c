"""What a tokenizer says of a model's token ids: which stand for text, and which it puts before every text."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from nca_interp.base import UserError


class Vocabulary(NamedTuple):
    """Token ids by their use."""

    ordinary: frozenset[int]
    """Of the tokenizer's own vocabulary, without what was added to it (special and control tokens, runs of spaces)."""
    prefix: tuple[int, ...]
    """What `tokenizer(text)` puts before the tokens of the text, e.g. a begin-of-sequence token."""


def open_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json, or the one in a folder, that neither cuts nor pads. UserError where there is none."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"--tokenizer {path}: no tokenizer.json there")
    try:
        opened = Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust library raises plain Exception
        raise UserError(f"{file}: not a tokenizer that the tokenizers library reads ({error})") from None
    opened.no_truncation()
    opened.no_padding()
    return opened


def read_vocabulary(path: Path) -> Vocabulary:
    """That of a tokenizer.json, or of the one in a folder. Its post-processor decides the prefix: where there is this
    file, transformers 5 reads `add_bos_token` of tokenizer_config.json as little."""
    tokenizer = open_tokenizer(path)
    ordinary = set(tokenizer.get_vocab(with_added_tokens=True).values()) - tokenizer.get_added_tokens_decoder().keys()
    encoded = tokenizer.encode("a", add_special_tokens=True)
    own = encoded.special_tokens_mask.index(0) if 0 in encoded.special_tokens_mask else 0
    return Vocabulary(frozenset(ordinary), tuple(encoded.ids[:own]))
