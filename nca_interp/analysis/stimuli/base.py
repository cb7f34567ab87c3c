"""What the models are shown: repeated random tokens, rows of natural text (and streams.py). NumPy only: cheap to import.

A definition file names a stimulus (`repeated_tokens(period=64)`); `build(subject)` makes its tokens for one checkpoint.
Tokens depend only on the stimulus's arguments, the vocabulary and the token file, never on the weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nca_interp.analysis.stimuli.size import FEWEST
from nca_interp.base import UserError, stream_seed
from nca_interp.data.specs import SYNTHETIC_KINDS

MIN_PERIOD = 8
"""A repeated block shorter than this says nothing about induction."""
TRIM = 0.04
"""Share of the vocabulary left out at either end of the frequency ranking (Olsson et al. 2022, appendix)."""


class NotApplicable(Exception):
    """A stimulus that this checkpoint cannot take; the message says why. Recorded as skipped, never an error."""


class Frame(NamedTuple):
    """Geometry of NCA tokens: the token of patch (r, c) of grid t stands at `start + t * tokens + 1 + columns * r + c`."""

    rows: int
    columns: int
    start: int = 0
    """Where the first grid starts: 1 after a begin-of-sequence token."""
    reach: int = 1
    """A patch depends on the patches of the grid before it that are at most this many rows and columns away."""

    @property
    def tokens(self) -> int:
        """Tokens a frame, its two delimiters included."""
        return self.rows * self.columns + 2


@dataclass(frozen=True)
class Batch:
    """Tokens of a stimulus: `inputs` [batch, position]; `targets` [batch, <= position] are what each position predicts."""

    inputs: np.ndarray
    targets: np.ndarray
    period: int | None = None
    repeats: int = 1
    start: int = 0
    """Where the first block starts: 1 after a begin-of-sequence token."""
    frame: Frame | None = None
    places: np.ndarray | None = None
    """NCA: for each token an integer [batch, position] that says what the cells that decide its successor in the next
    grid look like; equal numbers, equal cells; -1 for delimiters."""
    opener: np.ndarray | None = None
    """Dyck: for each closing bracket the place of its opening bracket [batch, position]; -1 for others."""
    texts: tuple[str, ...] | None = None
    """Natural text: what each token id says, where a tokenizer tells."""
    note: str = ""
    """How the stimulus departs from its definition, e.g. "period 16"."""
    memo: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """What was worked out about the tokens alone (key sets), kept for the next layer and the next checkpoint."""

    @property
    def length(self) -> int:
        """Positions of a sequence."""
        return self.inputs.shape[1]

    def in_repeat(self, repeat: int | None = None) -> np.ndarray:
        """Bool [position]: in the second or a later repeat, or in one repeat (1, 2, ...)."""
        if self.period is None:
            raise ValueError("repeats exist on a repeated_tokens stimulus only")
        number = (np.arange(self.length) - self.start) // self.period + 1
        return (number >= 2) & (number <= self.repeats) if repeat is None else number == repeat

    def rows(self, start: int, stop: int) -> Batch:
        """The same stimulus with sequences start to stop only."""
        part: dict[str, Any] = {k: v[start:stop] for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return replace(self, memo={}, **part)


@dataclass(frozen=True)
class Subject:
    """What a stimulus must know of a checkpoint."""

    name: str
    vocab_size: int
    n_ctx: int
    specials: frozenset[int] = frozenset()
    """Ids that random stimuli never hold: special and control tokens, and those that the tokenizer does not know."""
    prefix: tuple[int, ...] = ()
    """Ids before every row, random or natural: what the tokenizer puts before a text."""
    rows: np.ndarray | None = None
    """Rows of natural text [n, length] in this checkpoint's vocabulary, or None."""
    spec: dict[str, Any] | None = None
    """What the rows were made from: `spec` of the token file's meta.json."""
    rows_from: str = ""
    """Where they come from, in words."""
    rows_sha256: str = ""
    """SHA-256 of the text that they were made of; of a token directory, of its val.bin."""
    tokenizer: Path | None = None
    """Where the ids are known from; None without a tokenizer, then every id but the named special ones may be drawn."""
    own: bool = False
    """Whether we trained it: its rows begin as they did in training."""
    fast: bool = False
    """Whether a quarter of the sequences of each stimulus is enough."""
    shown: int | None = None
    """Tokens of a stimulus that are enough (size.py); None: all."""

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Stimuli of equal keys are equal."""
        tokens = self.vocab_size, self.n_ctx, self.specials, self.prefix, self.rows_from, self.rows_sha256
        return (*tokens, self.fast, self.shown)

    def part(self, batch: Batch) -> Batch:
        """Of a stimulus, the sequences that are enough."""
        n = len(batch.inputs)
        if self.shown is not None:
            n = min(n, max(FEWEST, self.shown // batch.length))
        n = max(2, n // 4) if self.fast else n
        return batch if n == len(batch.inputs) else batch.rows(0, n)

    @cached_property
    def counts(self) -> np.ndarray | None:
        """How often each token occurs in `rows`, or None."""
        if self.rows is None:
            return None
        return np.bincount(np.asarray(self.rows).ravel(), minlength=self.vocab_size)


@dataclass(frozen=True)
class Stimulus:
    """Base of the stimuli: frozen arguments and `build`."""

    sequences: int = 16

    def __post_init__(self) -> None:
        if self.sequences < 2:
            raise UserError(f"sequences: {self.sequences}; legal: 2 or more (a standard deviation needs two)")

    @property
    def args(self) -> dict[str, Any]:
        """Kind and arguments, as recorded with the results."""
        return {"kind": type(self).__name__, **asdict(self)}

    def build(self, subject: Subject) -> Batch:
        """Its tokens for one checkpoint; NotApplicable where there are none."""
        raise NotImplementedError


@dataclass(frozen=True)
class RepeatedTokens(Stimulus):
    """Prefix of the tokenizer + a block of `period` distinct random tokens, `repeats` times (Olsson et al. 2022, arXiv 2209.11895)."""

    period: int = 64
    repeats: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.period < MIN_PERIOD or self.repeats < 2:
            raise UserError(
                f"repeated_tokens: period {self.period}, repeats {self.repeats}; legal: period >= {MIN_PERIOD}, repeats >= 2"
            )

    def build(self, subject: Subject) -> Batch:
        """Blocks are drawn without replacement from the vocabulary without special tokens and, where frequencies are
        known, without its most and least frequent 4 %. The period shrinks to fit a small vocabulary or context."""
        legal, start = drawable(subject), len(subject.prefix)
        room = (subject.n_ctx - start) // self.repeats
        period = min(self.period, len(legal), room)
        if period < MIN_PERIOD:
            why = (
                f"a vocabulary smaller than the stimulus needs: {len(legal)} tokens can be drawn"
                if len(legal) < MIN_PERIOD
                else f"a context of {subject.n_ctx} tokens is too short"
            )
            raise NotApplicable(f"{why}; {self.repeats} repeats of at least {MIN_PERIOD} different tokens are needed")
        seed = stream_seed("repeated_tokens", self.period, self.repeats, self.sequences, subject.vocab_size)
        rng = np.random.default_rng(seed)
        blocks = np.stack([rng.choice(legal, period, replace=False) for _ in range(self.sequences)])
        inputs = prefixed(subject, np.tile(blocks, (1, self.repeats)))
        note = "" if period == self.period else f"period {period}"
        return Batch(inputs, inputs[:, 1:], period, self.repeats, start, note=note)


def drawable(subject: Subject) -> np.ndarray:
    """Tokens that random stimuli may hold, ascending: none of `specials`, nor of the most and the least frequent 4 %.

    Equally frequent tokens stay or go together: those across a limit stay, so where more than 4 % do not occur in the
    text none of these is left out.
    """
    ordinary = np.ones(subject.vocab_size, dtype=bool)
    ordinary[[s for s in subject.specials if 0 <= s < subject.vocab_size]] = False
    legal = np.flatnonzero(ordinary)
    if subject.counts is None or not len(legal):
        return legal
    counts = subject.counts[legal]
    ranked, cut = np.sort(counts), int(TRIM * len(legal))
    return legal[(counts >= ranked[cut]) & (counts <= ranked[-1 - cut])]


def prefixed(subject: Subject, rows: np.ndarray) -> np.ndarray:
    """Rows [n, length] behind the subject's prefix, [n, prefix + length]."""
    first = np.tile(np.array(subject.prefix, dtype=rows.dtype), (len(rows), 1))
    return np.concatenate([first, rows], axis=1)


def account(subject: Subject) -> dict[str, Any]:
    """For provenance: how many ids random stimuli draw from and by whose word, and what every row begins with."""
    n, source = len(drawable(subject)), subject.tokenizer
    if source is not None:
        known = f"ordinary tokens of the tokenizer in {source}"
    elif (subject.spec or {}).get("kind") in SYNTHETIC_KINDS:
        known = "tokens of its synthetic data"
    else:
        known = "no tokenizer is there: all ids but the special ones that the configuration names"
    natural = f"natural rows are from {subject.rows_from}; " if subject.rows_from else ""
    trimmed = f", without the most and least frequent {TRIM:.0%} in that text" if subject.rows_from else ""
    if subject.prefix:
        begin = f"every row begins with {list(subject.prefix)}, as the tokenizer begins a text"
    else:
        begin = "no begin-of-sequence token, " + (
            "as in training" if subject.own else "as the tokenizer adds none" if source else "as no tokenizer adds one"
        )
    enough = f"; a large model, so at most {subject.shown:,} tokens of a stimulus" if subject.shown is not None else ""
    return {
        "drawn_from": n, "vocab_size": subject.vocab_size, "tokenizer": None if source is None else str(source),
        "prefix": list(subject.prefix), "rows_from": subject.rows_from, "rows_sha256": subject.rows_sha256,
        "sentence": f"{natural}random tokens are drawn from {n:,} of {subject.vocab_size:,} ids ({known}{trimmed}); {begin}{enough}",
    }  # fmt: skip


@dataclass(frozen=True)
class Natural(Stimulus):
    """Rows of natural text: of the checkpoint's own token file, of what `--tokens` names, or of a built-in English text."""

    length: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length is not None and self.length < 2:
            raise UserError(f"natural: length {self.length}; legal: 2 or more")

    def build(self, subject: Subject) -> Batch:
        """The first rows, as long as `length` and the context allow."""
        if subject.rows is None:
            raise NotApplicable("no token file of its own data and no tokenizer; give --tokens or --tokenizer")
        batch = rows_batch(subject, self.sequences, self.length)
        if subject.tokenizer is None:
            return batch
        from nca_interp.analysis.stimuli.vocabulary import token_texts

        return replace(batch, texts=token_texts(subject.tokenizer, subject.vocab_size))


def rows_batch(subject: Subject, sequences: int, length: int | None = None) -> Batch:
    """The first rows of a subject's data, behind its prefix, as a stimulus; NotApplicable where they are too few or of
    another vocabulary."""
    assert subject.rows is not None
    longest = min(length or subject.n_ctx, subject.n_ctx)
    rows = np.asarray(subject.rows[:sequences], dtype=np.int64)
    rows = prefixed(subject, rows)[:, : min(longest, rows.shape[1] - 1) + 1]
    if len(rows) < 2 or rows.shape[1] < 2:
        raise NotApplicable(
            f"{subject.rows_from} holds {len(rows)} rows of {rows.shape[1]} tokens; at least 2 of 2 are needed"
        )
    if rows.max() >= subject.vocab_size:
        raise NotApplicable(
            f"{subject.rows_from} holds token {rows.max()}, the model knows {subject.vocab_size}: another vocabulary"
        )
    return Batch(rows[:, :-1], rows[:, 1:])


def repeated_tokens(period: int = 64, repeats: int = 2, sequences: int = 16) -> RepeatedTokens:
    """Stimulus: random tokens, the block of `period` tokens repeated."""
    return RepeatedTokens(sequences, period, repeats)


def natural(sequences: int = 32, length: int | None = None) -> Natural:
    """Stimulus: rows of natural text (`Subject.rows_from` says which), cut to `length` tokens if given."""
    return Natural(sequences, length)
