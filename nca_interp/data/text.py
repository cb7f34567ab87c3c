"""Text to rows of tokens: de-duplicate, split by document, train or load the tokenizer, pack.

Documents are joined by `<|endoftext|>` and cut into rows without overlap. A document's group decides by hash whether it
goes to training or validation, so no document, and no two parts of one source file, is in both.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from nca_interp.base import UserError
from nca_interp.data.corpus import Corpus, Document
from nca_interp.data.specs import TextSpec, TokenizerSpec

END, PAD = "<|endoftext|>", "<|pad|>"
HEAD_BYTES = 8_000_000
"""Bytes read before the first row is written: what the BPE is trained on (its training part)."""
BATCH = 512
"""Documents encoded at a time."""
Report = Callable[[str, float], None]


class Packed(NamedTuple):
    """What packing gave; see `tokens.TokenMeta`."""

    n_train: int
    n_val: int
    dtype: str
    vocab_size: int
    val_bytes: int
    bytes_per_token: float
    exact: bool
    end_id: int
    provenance: dict[str, Any]


class Reader:
    """Unique documents of a corpus in order, up to `max_bytes`, with counts and a hash of what was read."""

    def __init__(self, corpus: Corpus, max_bytes: int | None) -> None:
        self.corpus, self.max_bytes = corpus, max_bytes
        self.documents = self.duplicates = self.bytes = 0
        self.exhausted = False
        self._sha = hashlib.sha256()

    def __iter__(self) -> Iterator[Document]:
        seen: set[bytes] = set()
        for document in self.corpus:
            size = len(document.text.encode("utf-8", "surrogatepass"))
            key = hashlib.blake2b(
                " ".join(document.text.split()).encode("utf-8", "surrogatepass"), digest_size=8
            ).digest()
            if key in seen or not document.text.strip():
                self.duplicates += key in seen
                continue
            seen.add(key)
            self.documents += 1
            self.bytes += size
            self._sha.update(key)
            yield document
            if self.max_bytes is not None and self.bytes >= self.max_bytes:
                break
        self.exhausted = True

    def provenance(self) -> dict[str, Any]:
        """Counts, hash of the documents (of their normalised text, in order), and what the corpus itself recorded."""
        return {
            "documents": self.documents, "duplicates_dropped": self.duplicates, "bytes": self.bytes,
            "corpus_hash": self._sha.hexdigest(), **self.corpus.provenance,
        }  # fmt: skip


def rank(group: str) -> int:
    """The number by which a group is chosen for validation: 64 bits of its hash."""
    return int.from_bytes(hashlib.sha256(f"split:{group}".encode("utf-8", "surrogatepass")).digest()[:8], "big")


def splitter(head: list[Document], whole: bool, fraction: float) -> Callable[[Document], bool]:
    """Whether a document is for validation: hash below `fraction`; if the head is everything, at least its lowest group."""
    limit = int(fraction * 2**64)
    if whole and head:
        ranks = sorted({rank(d.group) for d in head})
        if len(ranks) > 1:
            limit = ranks[max(1, round(fraction * len(ranks)))]
    return lambda document: rank(document.group) < limit


def write_text(
    directory: Path, spec: TextSpec, n_train: int, n_val: int, seq_len: int, threads: int | None, report: Report
) -> tuple[Packed, str]:
    """Write train.bin, val.bin, tokenizer.json; returns what was packed and the corpus's description.

    Raises UserError if the corpus is empty or gives less than one row of either split.
    """
    reader = Reader(Corpus(spec), spec.max_bytes)
    stream = iter(reader)
    head = read_head(stream, report)
    if not head:
        raise UserError(f"source: {spec.source!r} is empty: no document with any text in it")
    is_val = splitter(head, reader.exhausted, spec.val_fraction)
    with parallel(threads):
        tokenizer, end = make_tokenizer(spec.tokenizer, (d.text for d in head if not is_val(d)))
        tokenizer.save(str(directory / "tokenizer.json"))
        vocab = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        dtype = token_dtype(vocab)
        with open(directory / "train.bin", "wb") as train, open(directory / "val.bin", "wb") as val:
            packers = (
                Packer(train, n_train, seq_len + 1, dtype, end),
                Packer(val, n_val, seq_len + 1, dtype, end),
            )
            _pack(chain(head, stream), is_val, tokenizer, packers, report)
    for name, packer in zip(("training", "validation"), packers, strict=True):
        if packer.rows == 0:
            raise UserError(
                f"source: {spec.source!r} is too short: its {name} split holds {packer.tokens:,} tokens of "
                f"{packer.documents} documents ({reader.bytes:,} bytes read in all), one row needs {seq_len + 1:,}; "
                f"use a longer corpus, a larger max_bytes or val_fraction, or a shorter context"
            )
    provenance = reader.provenance() | {"train_documents": packers[0].documents, "val_documents": packers[1].documents}
    rows = np.fromfile(directory / "val.bin", dtype).reshape(-1, seq_len + 1)
    sizes = token_bytes(tokenizer)
    per_token = packers[1].bytes / max(packers[1].tokens, 1) if sizes is None else float(sizes[rows[:, 1:]].mean())
    val_bytes = round(per_token * rows[:, 1:].size)
    packed = Packed(
        packers[0].rows, packers[1].rows, dtype.name, vocab, val_bytes, per_token, sizes is not None, end, provenance
    )
    return packed, reader.corpus.description


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


def _pack(
    stream: Iterable[Document], is_val: Callable[[Document], bool], tokenizer: Tokenizer,
    packers: tuple[Packer, Packer], report: Report,
) -> None:  # fmt: skip
    documents = iter(stream)
    while batch := list(islice(documents, BATCH)):
        parts: tuple[list[str], list[str]] = ([], [])
        for document in batch:
            parts[is_val(document)].append(document.text)
        for packer, texts in zip(packers, parts, strict=True):
            if not packer.full and texts:
                packer.add([e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)], texts)
        report("tokenising", min(p.rows / p.wanted for p in packers))
        if all(p.full for p in packers):
            return


class Packer:
    """Appends documents to one .bin file as rows of `width` tokens, `wanted` of them at most."""

    def __init__(self, file: BinaryIO, wanted: int, width: int, dtype: np.dtype[Any], end: int) -> None:
        self.file, self.wanted, self.width, self.dtype, self.end = file, wanted, width, dtype, end
        self.rows = self.tokens = self.documents = self.bytes = 0
        self._rest: npt.NDArray[Any] = np.empty(0, dtype)

    @property
    def full(self) -> bool:
        """Whether all wanted rows are written."""
        return self.rows >= self.wanted

    def add(self, encoded: list[list[int]], texts: list[str]) -> None:
        """Append encoded documents, each followed by the end token."""
        ids = np.fromiter(chain.from_iterable((*e, self.end) for e in encoded), self.dtype)
        self.documents += len(texts)
        self.tokens += len(ids)
        self.bytes += sum(len(t.encode()) for t in texts)
        pool = np.concatenate([self._rest, ids])
        n = min(len(pool) // self.width, self.wanted - self.rows)
        pool[: n * self.width].tofile(self.file)
        self.rows += n
        self._rest = pool[n * self.width :]


def token_dtype(vocab: int) -> np.dtype[Any]:
    """How tokens below `vocab` are stored, little-endian."""
    return np.dtype("<u2" if vocab <= 2**16 else "<u4")


def make_tokenizer(spec: TokenizerSpec, texts: Iterable[str]) -> tuple[Tokenizer, int]:
    """The tokenizer and the id of its end-of-document token; text that looks like a special token is plain text."""
    if spec.kind == "hf":
        return _named_tokenizer(str(spec.name))
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size, special_tokens=[END, PAD], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer, int(tokenizer.token_to_id(END))


def _named_tokenizer(name: str) -> tuple[Tokenizer, int]:
    from transformers import AutoTokenizer

    try:
        loaded: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # offline, unknown name, or a tokenizer without files; all the user's to mend
        cause = " ".join(str(error).split())[:300]
        raise UserError(f"tokenizer.name: {name!r} cannot be loaded: {cause}; check the name and the network") from None
    if not loaded.is_fast or loaded.eos_token_id is None:
        raise UserError(
            f"tokenizer.name: {name!r} is not a fast tokenizer with an end-of-text token; choose one that is"
        )
    tokenizer = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer, int(loaded.eos_token_id)


def token_bytes(tokenizer: Tokenizer) -> npt.NDArray[np.int64] | None:
    """UTF-8 bytes of every token id (0 for special tokens) of a byte-level tokenizer; None for any other kind."""
    decoder = json.loads(tokenizer.to_str()).get("decoder") or {}
    if decoder.get("type") != "ByteLevel":
        return None
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    sizes = np.zeros(max(vocab.values()) + 1, np.int64)
    for token, index in vocab.items():
        sizes[index] = 0 if token in special else len(token)
    return sizes


@contextmanager
def parallel(threads: int | None) -> Iterator[None]:
    """Let `tokenizers` use its threads inside the block only: later forks would otherwise warn."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false" if threads == 1 else "true"
    try:
        yield
    finally:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
