"""Some rows of any source with what lies behind them (grids, rules, documents), drawn without a token directory.

The unit of resampling of a row is its group: an NCA rule, a Dyck string, or the group of the document that gives most
of the row's tokens. `analysis.complexity.profile` measures a sample, `take` resamples it.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nca_interp.base import UserError
from nca_interp.data.specs import DyckSpec, NcaSpec, SourceSpec, TextSpec

if TYPE_CHECKING:
    from nca_interp.data.tokens import TokenFile

Spec = NcaSpec | DyckSpec | TextSpec


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

    @property
    def keys(self) -> npt.NDArray[np.uint64] | None:
        """NCA: [n] keys of the rows' rules (`nca.make_rules`)."""
        from nca_interp.data.nca import rule_keys

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
        from nca_interp.data.dyck import dyck_rows

        tokens = np.concatenate(list(dyck_rows(spec, seed, split, n, length)))
        groups = [str(i) for i in range(n)]
        return Sample(spec, spec.vocab_size, tokens, groups, None, None, None, describe(spec), seed, split)
    return _nca(spec, n, length, seed, split, threads)


def of_tokens(file: TokenFile, split: str = "val", n: int = 256) -> Sample:
    """The first `n` rows of a split of a token directory, without the last token of each row (a target only)."""
    from pydantic import TypeAdapter

    from nca_interp.data.nca import tokens_to_frames

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
        meta.seed, split,
    )  # fmt: skip


def _nca(spec: NcaSpec, n: int, length: int, seed: int, split: str, threads: int | None) -> Sample:
    from nca_interp.data.nca import tokens_to_frames
    from nca_interp.data.nca_rows import Search, nca_rows, shown
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


def _text(spec: TextSpec, n: int, length: int, seed: int, split: str, threads: int | None) -> Sample:
    from nca_interp.data.corpus import Corpus
    from nca_interp.data.text import Reader, make_tokenizer, parallel, read_head, splitter

    reader = Reader(Corpus(spec), spec.max_bytes)
    head = read_head(iter(reader))
    if not head:
        raise UserError(f"source: {spec.source!r} is empty: no document with any text in it")
    is_val = splitter(head, reader.exhausted, spec.val_fraction)
    sides = {"train": lambda d: not is_val(d), "val": is_val}
    documents = [d for d in head if sides.get(split, lambda _: True)(d)]
    order = np.random.default_rng([seed, 0]).permutation(len(documents))
    ids: list[npt.NDArray[np.uint32]] = []
    owners: list[npt.NDArray[np.int64]] = []
    held = 0
    with parallel(threads):
        tokenizer, end = make_tokenizer(spec.tokenizer, (d.text for d in head if not is_val(d)))
        for chosen in np.array_split(order, max(1, len(order) // 64)):
            encoded = tokenizer.encode_batch_fast([documents[i].text for i in chosen], add_special_tokens=False)
            for i, e in zip(chosen, encoded, strict=True):
                ids.append(np.fromiter(chain(e.ids, (end,)), np.uint32))
                owners.append(np.full(len(ids[-1]), i))
                held += len(ids[-1])
            if held >= n * length:
                break
    rows = min(n, held // length)
    if not rows:
        raise UserError(
            f"source: {spec.source!r} is too short: a row needs at least {length:,} tokens, it holds {held:,}"
        )
    tokens = np.concatenate(ids)[: rows * length].reshape(rows, length)
    owner = np.concatenate(owners)[: rows * length].reshape(rows, length)
    groups = [documents[np.bincount(row).argmax()].group for row in owner]
    texts = [tokenizer.decode(row.tolist(), skip_special_tokens=False) for row in tokens]
    vocab = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    return Sample(
        spec, vocab, tokens, groups, None, None, None, reader.corpus.description, seed, split, texts, tokenizer
    )
