"""What each token source is: frozen specifications. Imports pydantic only, so that the command line stays fast."""

from __future__ import annotations

import difflib
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from nca_interp.base import Frozen, canonical_json
from nca_interp.data.controls.base import Control, discover
from nca_interp.data.puzzles import puzzles

END, PAD = "<|endoftext|>", "<|pad|>"
"""Special tokens of a trained BPE: behind every document, and where a row has none left."""
MAX_VOCAB = 2**22
"""Largest vocabulary a token file can hold; up to 2**16 tokens are stored as uint16, above as uint32."""
SITE_CORPORA = ("prose-a", "prose-b", "code", "speeches")
TEXT_SOURCES = f"site:<{'|'.join(SITE_CORPORA)}>, files:<glob>[,<glob>...], hf:<preset, dataset or folder>, arithmetic:"
RULE_MEASURES = (
    "gzip_ratio_normalised", "gzip_ratio", "gzip_ratio_shuffled", "token_entropy", "lempel_ziv", "lempel_ziv_rate",
    "mutual_information", "mutual_information_1", "cell_gzip_normalised", "cell_entropy", "activity", "own_cell_entropy",
    "row_cells_entropy", "stencil_entropy", "stencil_coverage", "recurs", "transient", "period", "damage", "damage_slope",
    "light_cone_speed", "noise_entropy",
)  # fmt: skip
"""Names of `scores.SCORES`, by which rules can be filtered."""


class NcaSpec(Frozen):
    """Trajectories of random neural cellular automata (arXiv 2603.10055, sections 3-4).

    A 3x3 convolution of the one-hot cells to `channels`, 1x1 to `hidden`, ReLU, 1x1 to `n_states` logits, no biases,
    periodic grid. `paper`: uniform iid initial cells, complexity scored on patch tokens as uint16. `release` (the
    published code): initial cells from one softmax of N(0,1) logits, the convolution sees the state axis wrapped by one
    on either side, complexity scored on int32.
    """

    kind: Literal["nca"] = "nca"
    variant: Literal["paper", "release"] = "paper"
    """Which account of the dynamics and of the complexity score; their scores and bands are not comparable."""
    grid: int = Field(default=12, ge=3, le=256)
    """Cells a side of the square torus."""
    n_states: int = Field(default=10, ge=2, le=256)
    """Alphabet of a cell."""
    patch: int = Field(default=2, ge=1, le=16)
    """Cells a side of the square patch that becomes one token; divides grid."""
    tau: float = Field(default=1e-3, ge=0, le=100)
    """Sampling temperature of the next cell, in logits; 0 takes the largest logit (ties: the lowest state)."""
    identity_bias: float = Field(default=0.0, ge=-1e4, le=1e4)
    """Added to the logit of a cell's present state."""
    burn_in: int = Field(default=10, ge=0, le=100_000)
    """Steps dropped before the first recorded frame."""
    dt: int = Field(default=1, ge=1, le=1000)
    """Steps between recorded frames."""
    band: tuple[float, float] | None = (0.5, 1.0)
    """Accepted gzip ratio [lo, hi) of a rule's first `score_frames` frames, compressed / raw bytes; null: every rule."""
    where: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Ranges [lo, hi) of further measures of a rule, all on its `score_frames` frames: {"damage": [0.8, 1.2]} or
    {"activity": [0.1, 0.4], "damage": [0, 0.2]}; they apply beside the band (docs/measures.md)."""
    hidden: int = Field(default=16, ge=1, le=1024)
    """Width of the hidden layer."""
    channels: int = Field(default=4, ge=1, le=256)
    """Output channels of the 3x3 convolution."""
    score_frames: int = Field(default=10, ge=1, le=1000)
    """Frames after burn-in on which a rule is scored."""
    n_rules: int | None = Field(default=None, ge=1)
    """Rules of the training split, shown in turn (the released code: 16,000); null: as many as the rows need."""
    n_trajectories: int | None = Field(default=None, ge=1)
    """Trajectories of each training rule, from new initial cells with new noise; null: one where n_rules is null (a new
    rule for every row, as the paper), else as many as the rows need. Rows beyond n_rules * n_trajectories repeat."""
    control: Literal["none", "shuffle_tokens", "shuffle_frames", "unigram"] = "none"
    """Null models: a row's patch tokens permuted (delimiters stay); its whole frames permuted; unigram: iid patch tokens
    of the frequencies that the source has over all its rules, so that no row has a rule."""

    def __hash__(self) -> int:
        return hash(canonical_json(self))  # `where` is a mapping, which the generated hash refuses

    @property
    def patches_per_frame(self) -> int:
        """Patch tokens of one frame, delimiters not counted."""
        return (self.grid // self.patch) ** 2

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one frame with `<grid>` and `</grid>`."""
        return self.patches_per_frame + 2

    @property
    def vocab_size(self) -> int:
        """n_states ** patch**2 patch tokens, then `<grid>` and `</grid>`."""
        return int(self.n_states ** (self.patch**2)) + 2

    @model_validator(mode="after")
    def _legal(self) -> NcaSpec:
        if self.grid % self.patch:
            legal = ", ".join(str(p) for p in range(1, 17) if self.grid % p == 0)
            raise ValueError(f"patch: {self.patch} does not divide grid {self.grid}; legal: {legal}")
        if self.vocab_size > MAX_VOCAB:
            states = max((n for n in range(2, 257) if n ** (self.patch**2) + 2 <= MAX_VOCAB), default=0)
            fix = f"at this patch n_states may be at most {states}" if states else "use a smaller patch"
            raise ValueError(
                f"n_states: {self.n_states} states and patch {self.patch} need a vocabulary of "
                f"{float(self.vocab_size):.3g} tokens, at most {MAX_VOCAB:,} can be held; {fix}"
            )
        if self.band is not None and not 0 <= self.band[0] < self.band[1] <= 10:
            raise ValueError(f"band: {list(self.band)} is not a range; legal: 0 <= lo < hi <= 10, or null")
        for name, (low, high) in self.where.items():
            if name not in RULE_MEASURES:
                near = difflib.get_close_matches(name, RULE_MEASURES, n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"where: unknown measure {name!r}{hint} (legal: {', '.join(RULE_MEASURES)})")
            if not low < high:
                raise ValueError(f"where.{name}: {[low, high]} is not a range; legal: lo < hi")
        return self


class DyckSpec(Frozen):
    """Brackets of k types (Hu et al. 2025, arXiv 2502.19249, section 3); token i opens type i, token i + k closes it.

    A bracket opens where none is open, closes where `max_depth` are, and else opens with probability `p_open`.
    """

    kind: Literal["dyck"] = "dyck"
    variant: Literal["nested", "shuffle"] = "nested"
    """nested: the innermost bracket closes; shuffle: a type drawn uniformly from those that are open closes (k-shuffle
    Dyck as Hu et al. sample it)."""
    ending: Literal["balanced", "truncate"] = "balanced"
    """balanced: once the open brackets fill the rest of the row, all of it closes (a row of odd length is balanced but
    for its last token, which opens one). truncate: the row is cut where it is full, as in both published codes; strings
    that end when nothing is open, packed until the row is full, are the same."""
    k: int = Field(default=64, ge=1, le=MAX_VOCAB // 2)
    """Bracket types; every one is used."""
    max_depth: int = Field(default=16, ge=1, le=4096)
    """Largest number of open brackets."""
    p_open: float = Field(default=0.5, gt=0, lt=1)
    """Probability of opening where both are legal."""

    @property
    def vocab_size(self) -> int:
        """2 k."""
        return 2 * self.k


class TokenizerSpec(Frozen):
    """How text becomes tokens."""

    kind: Literal["bpe", "hf"] = "bpe"
    """bpe: byte-level BPE trained on the training split; hf: a named Hugging Face tokenizer, unchanged."""
    vocab_size: int = Field(default=1024, ge=258, le=MAX_VOCAB)
    """Vocabulary of the trained BPE: 256 bytes, `<|endoftext|>`, `<|pad|>`, merges. Not used for hf."""
    name: str | None = None
    """File, folder or hub name of an hf tokenizer, e.g. "gpt2"."""

    @model_validator(mode="after")
    def _named(self) -> TokenizerSpec:
        if (self.kind == "hf") != (self.name is not None):
            raise ValueError(
                f'name: {self.name!r} with kind "{self.kind}"; legal: a name for kind "hf", null for "bpe"'
            )
        return self


class ArithmeticSpec(Frozen):
    """Size of generated arithmetic problems."""

    kind: Literal["arithmetic"] = "arithmetic"
    digits: int = Field(default=2, ge=1, le=6)
    """Digits of the largest operand."""
    max_steps: int = Field(default=4, ge=1, le=12)
    """Operations of the longest problem."""


class TextSpec(Frozen):
    """A corpus of documents, tokenised and joined by `<|endoftext|>`; the same for every seed."""

    kind: Literal["text"] = "text"
    source: str
    """`site:prose-a`, `site:prose-b`, `site:code`: what is installed beside the package; `site:speeches`: English speeches, with the
    extra `prose`. `files:<glob>[,<glob>...]`:
    .txt, .md, .jsonl, .ndjson, .json, .csv, .tsv, these with .gz, .bz2, .xz or .zst, .parquet and .arrow (docs/data.md).
    `hf:<c4|openwebtext|openwebmath|codeparrot>`, `hf:<dataset>[:<config>]` or `hf:<folder>`: streamed through `datasets`.
    `arithmetic:`: generated worked problems."""
    tokenizer: TokenizerSpec = TokenizerSpec()
    """How text becomes tokens."""
    max_bytes: int | None = Field(default=None, ge=1)
    """Documents are read until they hold this many UTF-8 bytes, or until all wanted rows are full; null: the latter only."""
    column: str | None = None
    """Column with the text in records and hf data, nested ones by a dotted path (`text.content`, `messages.0.content`);
    null: "text", or what the hf preset says."""
    split: str = "train"
    """Split of an hf dataset; our own validation documents are taken out of it."""
    revision: str | None = None
    """Commit, branch or tag of an hf dataset on the hub; null: the newest, whose commit is recorded."""
    val_fraction: float = Field(default=0.05, gt=0, lt=1)
    """Share of the documents that go to validation, chosen by hash (at least one document)."""
    arithmetic: ArithmeticSpec = ArithmeticSpec()
    """Problems of an `arithmetic:` source; not used by others."""

    @model_validator(mode="after")
    def _known(self) -> TextSpec:
        scheme, separator, rest = self.source.partition(":")
        if not separator or scheme not in ("site", "files", "hf", "arithmetic"):
            raise ValueError(f"source: {self.source!r} is unknown; legal: {TEXT_SOURCES}")
        if scheme == "site" and rest not in SITE_CORPORA:
            near = difflib.get_close_matches(rest, SITE_CORPORA, n=1)
            hint = f"; did you mean 'site:{near[0]}'?" if near else ""
            legal = ", ".join(f"site:{corpus}" for corpus in SITE_CORPORA)
            raise ValueError(f"source: {self.source!r} is unknown{hint} (legal: {legal})")
        if scheme in ("files", "hf") and not rest:
            raise ValueError(f"source: {self.source!r} names nothing after the colon; legal: {TEXT_SOURCES}")
        return self


ADDED = ("question_column", "answer_column", "mark", "split", "test_split", "shots", "choose")
"""Fields of QaSpec that came after the first studies."""


class QaSpec(Frozen):
    """Question-answer pairs for fine-tuning and exact-match accuracy."""

    source: str = "arithmetic"
    """`arithmetic`: generated word problems. `puzzle:<name>[:<level>]`: generated questions that small models can answer
    (docs/reasoning.md). `files:<glob>[,<glob>...]`: .jsonl, or records of another kind, with a question and an answer, the final answer
    after "####" (GSM8K). `hf:<dataset>[:<config>]`: the same from the Hugging Face hub."""
    test_source: str | None = None
    """Held-out problems of a `files:` or `hf:` source, e.g. GSM8K's own test file; null: `n_test` are taken out of `source`."""
    n_train: int = Field(default=2000, ge=1)
    """Training problems wanted; a smaller source gives what it has."""
    n_val: int = Field(default=64, ge=1)
    """Problems for the validation loss, taken out of `source`, never the test problems."""
    n_test: int = Field(default=200, ge=1)
    """Held-out problems for accuracy."""
    arithmetic: ArithmeticSpec = ArithmeticSpec(max_steps=2)
    """Size of the generated word problems; not used for files."""
    question_column: str = "question"
    """Column of records that holds the question."""
    answer_column: str = "answer"
    """Column that holds the answer."""
    mark: str | None = "####"
    """The final answer stands behind the last of these in an answer; null: the whole answer is the final one."""
    split: str = "train"
    """Split of an `hf:` source."""
    test_split: str = "test"
    """Split of an `hf:` test source."""
    shots: int = Field(default=0, ge=0, le=32)
    """Context examples before each problem, drawn from the training problems, never the problem itself."""
    choose: Literal["last", "best"] = "last"
    """Which checkpoint is asked the held-out problems: the last, or that with the lowest loss on the validation problems (`n_val`), which
    are not the reported ones."""

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what was added later where it is as it was: names and hashes of earlier runs stay."""
        found: dict[str, Any] = write(self)
        return {k: v for k, v in found.items() if k not in ADDED or v != type(self).model_fields[k].default}

    @model_validator(mode="after")
    def _known(self) -> QaSpec:
        for field, source in (("source", self.source), ("test_source", self.test_source)):
            if source is None or (field == "source" and (source == "arithmetic" or self.puzzle is not None)):
                continue
            if not source.startswith(("files:", "hf:")) or source in ("files:", "hf:"):
                held_out = "files:<glob>, hf:<dataset>"
                legal = held_out if field == "test_source" else f"arithmetic, {held_out}, puzzle:<name>:<level>"
                raise ValueError(f"{field}: {source!r} is unknown; legal: {legal}")
        if (self.source == "arithmetic" or self.puzzle is not None) and self.test_source is not None:
            raise ValueError(
                f"test_source: {self.test_source!r} goes with a files: or hf: source only; legal here: null"
            )
        return self

    @property
    def puzzle(self) -> tuple[str, int] | None:
        """Name and level of a `puzzle:` source; ValueError for one that there is not."""
        scheme, _, rest = self.source.partition(":")
        if scheme != "puzzle":
            return None
        name, _, level = rest.partition(":")
        known = puzzles()
        if name not in known:
            raise ValueError(f"source: {self.source!r}: unknown puzzle; legal: {', '.join(known)}")
        number = int(level or "1") if (level or "1").isdecimal() else 0
        if not 1 <= number <= known[name].levels:
            raise ValueError(f"source: {self.source!r}: legal levels of {name}: 1 to {known[name].levels}")
        return name, number


CONTROLS: dict[str, type[Control]] = discover()
"""Control sources by their kind, one file each in `data/controls/`."""
SYNTHETIC_KINDS = ("nca", "dyck", *CONTROLS)
"""Kinds of sources that are generated token by token, without a tokenizer."""
if TYPE_CHECKING:
    SourceSpec = NcaSpec | DyckSpec | TextSpec | Control
else:
    SourceSpec = Annotated[reduce(or_, CONTROLS.values(), NcaSpec | DyckSpec | TextSpec), Field(discriminator="kind")]
