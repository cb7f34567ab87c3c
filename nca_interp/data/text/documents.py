"""What prepares a text: unique documents, the split by document, the tokenizer.

A document's group decides by hash whether it goes to training or validation, so no document, and no two parts of one
source file, is in both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from nca_interp.base import UserError
from nca_interp.data.specs import END, PAD, TokenizerSpec
from nca_interp.data.text.corpus import Corpus, Document
from nca_interp.data.text.encode import document_key, rank
from nca_interp.data.text.tokenizer import open_tokenizer

LONGEST_WORD = 1000
"""A BPE is trained on words cut into this many bytes: its time grows with the square of the longest."""
HEAD_BYTES = 8_000_000
"""Characters read before the first row is written: what the BPE is trained on (its training part)."""
Report = Callable[[str, float], None]


class Reader:
    """Unique documents of a corpus in order, up to `max_bytes`; `exhausted` once all of those were read."""

    def __init__(self, corpus: Corpus, max_bytes: int | None) -> None:
        self.corpus, self.max_bytes = corpus, max_bytes
        self.exhausted = False

    def __iter__(self) -> Iterator[Document]:
        seen: set[bytes] = set()
        size = 0
        for document in self.corpus:
            if (key := document_key(document.text)) in seen or not key:
                continue
            seen.add(key)
            yield document
            size += len(document.text.encode())
            if self.max_bytes is not None and size >= self.max_bytes:
                break
        self.exhausted = True


def read_head(stream: Iterator[Document], report: Report = lambda label, done: None) -> list[Document]:
    """Documents up to HEAD_BYTES characters."""
    head, size = [], 0
    for document in stream:
        head.append(document)
        size += len(document.text)
        if len(head) % 500 == 0:
            report("reading", min(size / HEAD_BYTES, 1.0))
        if size >= HEAD_BYTES:
            break
    return head


def split_limit(head: list[Document], whole: bool, fraction: float) -> int:
    """Groups of a rank below this are for validation: `fraction` of all; if the head is everything, at least one group."""
    if whole and head:
        ranks = sorted({rank(d.group) for d in head})
        if len(ranks) > 1:
            return ranks[max(1, round(fraction * len(ranks)))]
    return int(fraction * 2**64)


def splitter(head: list[Document], whole: bool, fraction: float) -> Callable[[Document], bool]:
    """Whether a document is for validation."""
    limit = split_limit(head, whole, fraction)
    return lambda document: rank(document.group) < limit


def token_dtype(vocab: int) -> np.dtype[Any]:
    """How tokens below `vocab` are stored, little-endian."""
    return np.dtype("<u2" if vocab <= 2**16 else "<u4")


class Coder(NamedTuple):
    """A tokenizer and the ids of its tokens that are not text."""

    tokenizer: Tokenizer
    end: int
    """Ends a document."""
    bos: int | None
    pad: int | None


def make_tokenizer(spec: TokenizerSpec, texts: Iterable[str]) -> Coder:
    """The tokenizer of a specification, trained on `texts` or loaded; text that looks like a special token is plain text."""
    if spec.kind == "hf":
        return _named_tokenizer(str(spec.name))
    tokenizer: Any = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bounded = pre_tokenizers.Split(Regex(rf"[\s\S]{{1,{LONGEST_WORD}}}"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bounded])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size, special_tokens=[END, PAD], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator((text[:HEAD_BYTES] for text in texts), trainer)
    tokenizer.pre_tokenizer = words  # text is encoded by whole words: that takes time in proportion
    tokenizer.encode_special_tokens = True
    return Coder(tokenizer, int(tokenizer.token_to_id(END)), None, tokenizer.token_to_id(PAD))


def _named_tokenizer(name: str) -> Coder:
    opened = open_tokenizer(name, "tokenizer.name")
    if opened.end_id is None:
        raise UserError(f"tokenizer.name: {name!r} has no end-of-text token; choose one that has")
    opened.tokenizer.encode_special_tokens = True
    return Coder(opened.tokenizer, opened.end_id, opened.bos_id, opened.pad_id)


@contextmanager
def parallel(threads: int | None) -> Iterator[None]:
    """Let `tokenizers` use its threads inside the block only: later forks would otherwise warn."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false" if threads == 1 else "true"
    try:
        yield
    finally:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
