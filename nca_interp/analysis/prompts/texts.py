"""The user's own text as prompts, and prompts as tokens of a checkpoint. No torch: what was asked is checked before it is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field
from tokenizers import Tokenizer

from nca_interp.analysis.collection.collection import Collection, Settings
from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.stimuli.base import NotApplicable
from nca_interp.analysis.stimuli.vocabulary import read_vocabulary, token_text
from nca_interp.base import Frozen, UserError
from nca_interp.borders import border
from nca_interp.data.specs import SYNTHETIC_KINDS
from nca_interp.data.text.tokenizer import has_tokenizer, open_tokenizer
from nca_interp.model.checkpoint import read_provenance

READ = 2**20
"""Bytes of a file of prompts that are looked at."""


class Options(Frozen):
    """Options of the prompts."""

    files: tuple[str, ...] = ()
    """Files of text, beside those of --text; of a study, whose checkpoints take no --text, the only ones."""
    prompts: int = Field(default=8, ge=1, le=100)
    """Paragraphs that are looked at, the first of all files together."""
    tokens: int = Field(default=64, ge=2, le=512)
    """Tokens of a prompt."""
    predictions: int = Field(default=5, ge=1, le=50)
    """Likeliest next tokens that are listed at each token."""
    heads: int = Field(default=6, ge=1, le=64)
    """Heads whose patterns are shown, those that add most to the logits; and of which contributions are listed before the last token."""
    neurons: int = Field(default=10, ge=1, le=1000)
    """Neurons of a group: those of a layer that raise the logit most, and those that lower it most."""


class Prompt(NamedTuple):
    """A paragraph of a file."""

    name: str
    text: str


class Read(NamedTuple):
    """Prompts, and sentences that say what of the files is not among them."""

    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...]


def applies(run: Run) -> bool:
    """Whether a run was trained on language, as far as is known."""
    return run.source.get("kind") not in SYNTHETIC_KINDS


def wanted(collection: Collection, options: Options, named: bool) -> bool:
    """Whether text was given. UserError for a file that cannot be read, or where prompts were asked for and there is none."""
    files = (*collection.settings.text, *options.files)
    if named and not files:
        raise UserError("--prompts: there is no text to look at; give --text FILE (a study: --set prompts.files=FILE)")
    read_prompts(files, options.prompts)
    return bool(files)


def read_prompts(files: Iterable[str], limit: int) -> Read:
    """At most `limit` paragraphs (parted by blank lines) of the files, in order. UserError names a file that is missing, is no
    UTF-8 text, or holds nothing."""
    found: list[Prompt] = []
    notes = []
    paths = [Path(file) for file in dict.fromkeys(files)]
    names = [path.name for path in paths]
    for file in paths:
        paragraphs, whole = _paragraphs(file)
        room = limit - len(found)
        name = file.name if names.count(file.name) == 1 else str(file)
        found += [Prompt(f"{name}:{number + 1}", text) for number, text in enumerate(paragraphs[:room])]
        if len(paragraphs) > room or not whole:
            of = f"{len(paragraphs)}" if whole else f"more than {len(paragraphs)}"
            notes.append(f"{file.name}: {min(room, len(paragraphs))} of {of} paragraphs (prompts.prompts={limit})")
    return Read(tuple(found), tuple(notes))


def _paragraphs(file: Path) -> tuple[list[str], bool]:
    """Paragraphs of the beginning of a file, and whether that is all of it."""
    if not file.is_file():
        raise UserError(f"--text: {file}: no such file")
    with border("cannot be read", file), file.open("rb") as stream:
        data = stream.read(READ + 1)
    whole = len(data) <= READ
    try:
        # what is cut may end within a character
        text = data[:READ].decode("utf-8-sig", errors="strict" if whole else "ignore")
    except UnicodeDecodeError as error:
        raise UserError(f"--text: {file}: no UTF-8 text (byte {error.start})") from None
    lines, found = [*text.splitlines(), ""], list[str]()
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line)
        elif block:
            found.append("\n".join(block))
            block = []
    if not found:
        raise UserError(f"--text: {file}: holds no text")
    return found, whole


class Encoder(NamedTuple):
    """Text to tokens of a checkpoint and back."""

    tokenizer: Tokenizer
    prefix: tuple[int, ...]
    """What begins every text."""

    def ids(self, text: str) -> list[int]:
        """Tokens of a text, without the prefix."""
        with border("the tokenizer does not encode it", "text"):
            found: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return found

    def prompt(self, text: str) -> list[int]:
        """Tokens of a text that begins a sequence."""
        return [*self.prefix, *self.ids(text)]

    def text(self, token: int) -> str:
        """Text of one token, on one line: control characters are escaped."""
        text = token_text(self.tokenizer, token)
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

    def said(self, ids: Iterable[int]) -> str:
        """Tokens for a message: text and number of each."""
        return " ".join(f"{self.text(i)!r}({i})" for i in ids)


def encoder(run: Run, settings: Settings) -> Encoder:
    """Of the last checkpoint of a run. NotApplicable where it has no tokenizer and none was given."""
    given = settings.tokenizer if run.config is None else None
    place = Path(given) if given else run.last if has_tokenizer(run.last) else None
    if place is None:
        raise NotApplicable(f"{run.last} has no tokenizer; give --tokenizer")
    prefix = () if read_provenance(run.last) else read_vocabulary(place).prefix
    return Encoder(open_tokenizer(place).tokenizer, prefix)


def arguments(options: Options) -> dict[str, Any]:
    """What of the options decides rows, beside the text itself."""
    return options.model_dump(mode="json", exclude={"files", "prompts"})
