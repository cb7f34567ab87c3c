"""A text of the user's own, from its beginning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nca_interp.analysis.stimuli.base import Batch, NotApplicable, Stimulus, Subject
from nca_interp.base import UserError
from nca_interp.borders import border


@dataclass(frozen=True)
class OwnText(Stimulus):
    """The first `length` tokens of a text file, after what the tokenizer puts before a text: one row."""

    path: str = ""
    length: int = 128

    def build(self, subject: Subject) -> Batch:
        """NotApplicable without a tokenizer, and where the text is shorter than two tokens."""
        from nca_interp.data.text.tokenizer import open_tokenizer

        if subject.tokenizer is None:
            raise NotApplicable("the checkpoint has no tokenizer; give --tokenizer")
        try:
            text = Path(self.path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--text {self.path}: {error}") from None
        opened = open_tokenizer(subject.tokenizer).tokenizer
        length = min(self.length, subject.n_ctx)
        with border("the tokenizer does not encode text", subject.tokenizer):
            ids = opened.encode(text[: 64 * length], add_special_tokens=False).ids
        row = np.asarray([*subject.prefix, *ids][:length], np.int64)[None]
        if row.shape[1] < 2:
            raise NotApplicable(f"{self.path}: fewer than two tokens")
        return Batch(row, row[:, 1:])


def own_texts(paths: tuple[str, ...], limit: int, length: int) -> dict[str, Stimulus]:
    """At most `limit` of the user's texts by what they are called in reports."""
    return {f"your text {Path(path).name}": OwnText(path=path, length=length) for path in paths[:limit]}
