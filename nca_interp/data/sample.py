"""Some rows of any source with what lies behind them (grids, rules, documents), drawn without a token directory.

The unit of resampling of a row is its group: an NCA rule, a Dyck string, or the group of the document that gives most
of the row's tokens. `analysis.complexity.profile` measures a sample, `take` resamples it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nca_interp.base import UserError
from nca_interp.data.controls.base import LARGEST, Control
from nca_interp.data.controls.noise import NoiseSpec
from nca_interp.data.specs import DyckSpec, NcaSpec, SourceSpec, TextSpec

if TYPE_CHECKING:
    from nca_interp.data.tokens import TokenFile

Spec = NcaSpec | DyckSpec | TextSpec | Control


class Sample(NamedTuple):
    """Rows of one source."""

    spec: Spec
    vocab_size: int
    """Tokens are 0 .. vocab_size - 1."""
    tokens: npt.NDArray[np.uint32]
    """[n, length], as a model would see them: NCA with delimiters, each row from a whole frame on."""
    groups: list[str]
    """Unit of resampling of each row."""
    frames: npt.NDArray[np.uint8] | None
    """NCA: [n, n_frames, grid, grid], the whole frames in the tokens (after a control, if the spec has one)."""
    candidates: npt.NDArray[np.int64] | None
    """NCA: [n] candidate number of each row's rule; None where rows show no rule (control unigram)."""
    found: dict[str, Any] | None
    """NCA: what the search for rules met (`nca_rows.Search.summary`)."""
    description: str
    """One sentence."""
    seed: int = 0
    split: str = "inspect"
    texts: list[str] | None = None
    """Text: each row decoded."""
    tokenizer: Any | None = None
    """Text: the `tokenizers.Tokenizer`."""
    whole: int | None = None
    """Tokens of a row as it was made, where that is more than `length`."""

    @property
    def keys(self) -> npt.NDArray[np.uint64] | None:
        """NCA: [n] keys of the rows' rules (`nca.make_rules`)."""
        from nca_interp.data.nca.rules import rule_keys

        return None if self.candidates is None else rule_keys(self.seed, self.split, self.candidates)

    def take(self, rows: npt.ArrayLike) -> Sample:
        """The same sample with the given rows only, repeats allowed (for a bootstrap)."""
        chosen = np.asarray(rows)
        return self._replace(
            tokens=self.tokens[chosen],
            groups=[self.groups[i] for i in chosen],
            frames=None if self.frames is None else self.frames[chosen],
            candidates=None if self.candidates is None else self.candidates[chosen],
            texts=None if self.texts is None else [self.texts[i] for i in chosen],
        )


def draw(
    spec: Spec, *, n: int = 256, length: int = 1024, seed: int = 0, split: str = "inspect", threads: int | None = None
) -> Sample:
    """`n` rows of `length` tokens of a source; a pure function of its arguments but for `threads`.

    NCA and Dyck: of the split's own rules or strings (n_rules holds for "train" only). Text: documents in an order
    drawn by `seed` from the first 8 MB; `split` "train" or "val" takes that side only; fewer rows where there are not
    enough. Raises UserError for a band out of reach and for a corpus that is shorter than a row.
    """
    for name, value in (("n", n), ("length", length)):
        if value < 1:
            raise UserError(f"{name}: {value}; legal: 1 or more")
    if isinstance(spec, TextSpec):
        return _text(spec, n, length, seed, split, threads)
    from nca_interp.data.tokens import describe

    if isinstance(spec, DyckSpec):
        from nca_interp.data.dyck.rows import dyck_rows

        tokens = np.concatenate(list(dyck_rows(spec, seed, split, n, length)))
        groups = [str(i) for i in range(n)]
        return Sample(spec, spec.vocab_size, tokens, groups, None, None, None, describe(spec), seed, split)
    if isinstance(spec, Control):
        from nca_interp.data.control_rows import control_rows

        tokens = np.concatenate([c.tokens for c in control_rows(spec, seed, split, n, length, threads)])
        groups = [str(i) for i in range(n)]
        return Sample(spec, spec.vocab_size, tokens, groups, None, None, None, spec.describe(), seed, split)
    return _nca(spec, n, length, seed, split, threads)


def of_tokens(file: TokenFile, split: str = "val", n: int = 256) -> Sample:
    """The first `n` rows of a split of a token directory, without the last token of each row (a target only)."""
    from pydantic import TypeAdapter

    from nca_interp.data.nca.rules import tokens_to_frames

    meta, stored = file.meta, file.train if split == "train" else file.val
    tokens = np.asarray(stored[:n, : meta.seq_len], dtype=np.uint32)
    spec: Spec = TypeAdapter(SourceSpec).validate_python(meta.spec)
    groups, frames, candidates = [str(i) for i in range(len(tokens))], None, None
    if isinstance(spec, NcaSpec):
        frames = np.stack([tokens_to_frames(spec, row) for row in tokens])
        if (rules := file.row_rules(split, np.arange(len(tokens)))) is not None:
            candidates = rules.candidate
            groups = [str(c) for c in candidates]
    return Sample(
        spec, meta.vocab_size, tokens, groups, frames, candidates, meta.provenance.get(split), meta.description,
        meta.seed, split, whole=meta.seq_len + 1,
    )  # fmt: skip


def _nca(spec: NcaSpec, n: int, length: int, seed: int, split: str, threads: int | None) -> Sample:
    from nca_interp.data.nca.rows import Search, nca_rows, shown
    from nca_interp.data.nca.rules import tokens_to_frames
    from nca_interp.data.tokens import describe

    found = Search()
    tokens = np.concatenate(list(nca_rows(spec, seed, split, n, length, threads, found)))
    # the rows of the unigram control have no rule; each is its own group
    candidates = None if spec.control == "unigram" else found.rules()[shown(spec, split, np.arange(n)).rule]
    groups = [str(c) for c in (range(n) if candidates is None else candidates)]
    frames = np.stack([tokens_to_frames(spec, row) for row in tokens])
    return Sample(
        spec, spec.vocab_size, tokens, groups, frames, candidates, found.summary(spec), describe(spec), seed, split
    )


def draw_within(
    spec: TextSpec,
    *,
    n: int = 256,
    length: int = 1024,
    seed: int = 0,
    split: str = "inspect",
    threads: int | None = None,
) -> Sample:
    """As `draw`, but a row lies within one document: a piece drawn from it, from another document for every row as long
    as there are enough; documents shorter than a row are joined."""
    documents, tokenizer, end, description = _encoded(spec, seed, split, threads)
    rng = np.random.default_rng([seed, 1])
    rows: list[npt.NDArray[np.uint32]] = []
    groups: list[str] = []
    spare: list[tuple[npt.NDArray[np.uint32], str]] = []
    joined, owners = np.empty(0, np.uint32), np.empty(0, object)
    held = 0
    for ids, group in documents:
        held += len(ids)
        if len(ids) > length:
            pieces = rng.permutation(len(ids) // length)
            first, *others = [ids[i * length : (i + 1) * length] for i in pieces]
            rows.append(first)
            groups.append(group)
            spare += [(piece, group) for piece in others]
        else:
            joined, owners = np.concatenate([joined, ids]), np.concatenate([owners, np.full(len(ids), group)])
            if len(joined) >= length:
                names, counts = np.unique(owners[:length].astype(str), return_counts=True)
                rows.append(joined[:length])
                groups.append(str(names[counts.argmax()]))
                joined, owners = joined[length:], owners[length:]
        if len(rows) >= n:
            break
    for i in rng.permutation(len(spare))[: n - len(rows)]:
        rows.append(spare[i][0])
        groups.append(spare[i][1])
    if not rows:
        raise TooShort(spec, length, held)
    return _text_sample(spec, np.stack(rows), groups, description, seed, split, tokenizer)


def _text(spec: TextSpec, n: int, length: int, seed: int, split: str, threads: int | None) -> Sample:
    documents, tokenizer, _, description = _encoded(spec, seed, split, threads)
    ids: list[npt.NDArray[np.uint32]] = []
    names: list[str] = []
    held = 0
    for encoded, group in documents:
        ids.append(encoded)
        names.append(group)
        held += len(encoded)
        if held >= n * length:
            break
    rows = min(n, held // length)
    if not rows:
        raise TooShort(spec, length, held)
    tokens = np.concatenate(ids)[: rows * length].reshape(rows, length)
    owner = np.repeat(np.arange(len(ids)), [len(i) for i in ids])[: rows * length].reshape(rows, length)
    groups = [names[np.bincount(row).argmax()] for row in owner]
    return _text_sample(spec, tokens, groups, description, seed, split, tokenizer)


MATCHED_TOKENS = 2**19
"""Tokens of a source that are counted to make noise of its frequencies."""


def matched_noise(spec: Spec, name: str = "") -> NoiseSpec:
    """Independent tokens of the frequencies that another source has: `weights` are counts in 1,024 rows of it.

    Seed and split are those of no training data. UserError for a vocabulary above LARGEST, and as `draw`.
    """
    sample = draw(spec, n=1024, length=MATCHED_TOKENS // 1024, split="noise")
    if sample.vocab_size > LARGEST:
        raise UserError(f"noise: {name or spec.kind} has {sample.vocab_size:,} tokens; legal: up to {LARGEST:,}")
    counts = np.bincount(sample.tokens.ravel(), minlength=sample.vocab_size)
    return NoiseSpec(n_symbols=sample.vocab_size, weights=tuple(counts.tolist()), matched=name or sample.description)


class Encoded(NamedTuple):
    """A corpus ready to be cut into rows."""

    documents: Iterator[tuple[npt.NDArray[np.uint32], str]]
    """Tokens of a document with the end token, and its group, in an order drawn by the seed."""
    tokenizer: Any
    end: int
    description: str


def _encoded(spec: TextSpec, seed: int, split: str, threads: int | None) -> Encoded:
    from nca_interp.data.text.corpus import Corpus
    from nca_interp.data.text.documents import Reader, make_tokenizer, parallel, read_head, splitter
    from nca_interp.data.text.encode import Encoder

    reader = Reader(Corpus(spec), spec.max_bytes)
    head = read_head(iter(reader))
    if not head:
        raise UserError(f"source: {spec.source!r} is empty: no document with any text in it")
    is_val = splitter(head, reader.exhausted, spec.val_fraction)
    sides = {"train": lambda d: not is_val(d), "val": is_val}
    documents = [d for d in head if sides.get(split, lambda _: True)(d)]
    order = np.random.default_rng([seed, 0]).permutation(len(documents))
    with parallel(threads):
        tokenizer, end, _, _ = make_tokenizer(spec.tokenizer, (d.text for d in head if not is_val(d)))
    encoder = Encoder(tokenizer, end, np.dtype(np.uint32))

    def encode() -> Iterator[tuple[npt.NDArray[np.uint32], str]]:
        for chosen in np.array_split(order, max(1, len(order) // 64)):
            with parallel(threads):
                ids, counts, _ = encoder.encode([documents[i].text for i in chosen])
            for i, found in zip(chosen, np.split(ids, np.cumsum(counts)[:-1]), strict=True):
                yield found, documents[i].group

    return Encoded(encode(), tokenizer, end, reader.corpus.description)


class TooShort(UserError):
    """A corpus that does not fill one row."""

    def __init__(self, spec: TextSpec, length: int, held: int) -> None:
        super().__init__(
            f"source: {spec.source!r} is too short: a row needs at least {length:,} tokens, it holds {held:,}"
        )
        self.held = held
        """Tokens of all documents together, ends of documents included."""


def _text_sample(
    spec: TextSpec,
    tokens: npt.NDArray[np.uint32],
    groups: list[str],
    description: str,
    seed: int,
    split: str,
    tokenizer: Any,
) -> Sample:
    texts = [tokenizer.decode(row.tolist(), skip_special_tokens=False) for row in tokens]
    vocab = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    return Sample(spec, vocab, tokens, groups, None, None, None, description, seed, split, texts, tokenizer)
