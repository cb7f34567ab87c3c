"""The one sequence that all checkpoints of a run are shown, and how it is laid out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from nca_interp.analysis.collection.collection import Settings
from nca_interp.analysis.stimuli.base import NotApplicable, Subject, repeated_tokens, rows_batch
from nca_interp.analysis.stimuli.own_text import own_texts
from nca_interp.data.specs import NcaSpec

LONGEST = 96
"""Tokens of a sequence; of NCA so many whole frames."""
FRAMES = 4
"""Frames of an NCA sequence where LONGEST holds fewer and the context allows."""
CANDIDATES = 32
"""Validation rows from which the sequence is chosen."""
PERIOD = 24
"""Of the random tokens that a model is shown for which there is no text."""


class Sequence(NamedTuple):
    """Tokens and what they are."""

    inputs: np.ndarray
    """[position]."""
    said: dict[str, Any]
    """kind (grid or text), tokens (ids), name and why (which sequence, how chosen), of text `texts` (of each token), of a grid rows,
    columns, patch, states, reach, frames and start."""
    spec: NcaSpec | None = None

    @property
    def frames(self) -> int:
        """Whole frames, of a grid."""
        return int(self.said["frames"])


def choose(subject: Subject, settings: Settings) -> Sequence:
    """The sequence of a checkpoint: NCA frames for a model of NCA, else the user's text, else a row of its own data, else random
    tokens twice. NotApplicable where the vocabulary or the context is too small for any."""
    if subject.rows is not None and (subject.spec or {}).get("kind") == "nca":
        return _grid(subject, NcaSpec.model_validate(subject.spec))
    for name, stimulus in own_texts(settings.text, 1, LONGEST).items():
        if subject.tokenizer is not None:
            return _text(subject, stimulus.build(subject).inputs[0], name, "from its beginning")
    try:
        batch = rows_batch(subject, CANDIDATES, LONGEST) if subject.rows is not None else None
    except NotApplicable:
        batch = None
    if batch is None:
        inputs = repeated_tokens(PERIOD, sequences=2).build(subject).inputs[0]
        return _text(subject, inputs, "random tokens twice", f"{PERIOD} random tokens, and the same again")
    told = [repeats(row) for row in batch.inputs]
    why = (
        f"of the first {len(told)} validation rows the one in which most often the token that came after a token comes after it again "
        f"({max(told)} places)"
    )
    return _text(subject, batch.inputs[int(np.argmax(told))], f"a row of {subject.rows_from or 'its own data'}", why)


def repeats(row: np.ndarray) -> int:
    """Places whose token stood there before and was followed by what follows it now: where an induction head is right."""
    followed: dict[int, set[int]] = {}
    found = 0
    for token, after in zip(row[:-1].tolist(), row[1:].tolist(), strict=True):
        found += after in followed.setdefault(token, set())
        followed[token].add(after)
    return found


def _grid(subject: Subject, spec: NcaSpec) -> Sequence:
    from nca_interp.data.nca.rules import tokens_to_frames

    assert subject.rows is not None
    width, side = spec.tokens_per_frame, spec.grid // spec.patch
    rows = np.asarray(subject.rows[:CANDIDATES], dtype=np.int64)
    room = min(subject.n_ctx, rows.shape[1]) // width
    frames = min(room, max(FRAMES, LONGEST // width))
    if frames < 2:
        raise NotApplicable(f"a context of {subject.n_ctx} tokens holds fewer than two frames of {width}")
    activity = [float((f[1:] != f[:-1]).mean()) for f in (tokens_to_frames(spec, row) for row in rows)]
    chosen = int(np.argsort(activity)[len(activity) // 2])
    said = {
        "kind": "grid", "tokens": rows[chosen, : frames * width].tolist(), "name": "a trajectory of a rule that it was not trained on",
        "why": f"of {len(rows)} validation rows the one with the median share of changing cells", "rows": side, "columns": side,
        "patch": spec.patch, "states": spec.n_states, "reach": -(-spec.dt // spec.patch), "frames": frames, "start": 0,
    }  # fmt: skip
    return Sequence(rows[chosen, : frames * width], said, spec)


def _text(subject: Subject, inputs: np.ndarray, name: str, why: str) -> Sequence:
    ids = [int(t) for t in inputs]
    said = {"kind": "text", "tokens": ids, "texts": texts_of(subject, ids), "name": name, "why": why}
    return Sequence(np.asarray(ids, dtype=np.int64), said)


def texts_of(subject: Subject, ids: list[int]) -> list[str]:
    """What each token says; its number where no tokenizer is there."""
    if subject.tokenizer is None:
        return [str(i) for i in ids]
    from nca_interp.analysis.stimuli.vocabulary import token_text
    from nca_interp.data.text.tokenizer import open_tokenizer

    tokenizer = open_tokenizer(subject.tokenizer).tokenizer
    return [token_text(tokenizer, i) for i in ids]
