"""Lists that are read twice: what a model is shown.

A row is: prefix of the tokenizer, list, filler, list. Its control is the same row with another list in the place of the first one,
so that both presentations that are compared have the same tokens at the same positions after the same filler, and differ only in
whether the list was there before. What is measured are the items 2 to n: the first one cannot be known to start a repetition.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nca_interp.analysis.retrieval.nouns import noun_tokens
from nca_interp.analysis.retrieval.options import RetrievalOptions
from nca_interp.analysis.stimuli.base import NotApplicable, Subject, drawable, prefixed
from nca_interp.base import stream_seed

NOUN, RANDOM = "nouns", "random tokens"
MATERIALS = (NOUN, RANDOM)


class Lists(NamedTuple):
    """One material, length and distance."""

    material: str
    length: int
    distance: int
    same: np.ndarray
    """Tokens [sequence, position]: the list, the filler, the list again."""
    other: np.ndarray
    """The same with another list first: no token (of nouns, no noun) of it is in the list."""
    first: np.ndarray
    """Positions of the measured tokens in the first presentation; token p is predicted at p - 1."""
    second: np.ndarray
    """Of the same tokens in the second."""
    item: int
    """Tokens of an item."""


def all_lists(subject: Subject, options: RetrievalOptions) -> tuple[list[Lists], list[str]]:
    """What a checkpoint is shown, and why it is not shown the rest."""
    found, skipped = [], []
    for material in MATERIALS:
        for length, distance in options.cells:
            try:
                n = options.sequences if (length, distance) == options.reference else max(2, options.sequences // 2)
                found.append(make_lists(subject, material, length, distance, n))
            except NotApplicable as reason:
                skipped.append(f"{material}, {length} items {distance} tokens apart: {reason}")
    return found, skipped


def make_lists(subject: Subject, material: str, length: int, distance: int, sequences: int) -> Lists:
    """Lists of `length` items, `distance` tokens apart; NotApplicable where vocabulary, tokenizer or context do not have them.

    They depend on the vocabulary and, of nouns, on the tokenizer and the filler's text, never on the weights.
    """
    rng = np.random.default_rng(stream_seed("retrieval", material, length, distance, sequences, subject.vocab_size))
    draw = _nouns if material == NOUN else _random
    lists, others, filler = draw(subject, length, distance, sequences, rng)
    item, start = lists.shape[2], len(subject.prefix)
    if (needed := start + 2 * length * item + distance) > subject.n_ctx:
        raise NotApplicable(f"they need {needed} tokens, the context has {subject.n_ctx}")
    one, two = (part.reshape(sequences, -1) for part in (lists, others))
    measured = np.arange(start + item, start + length * item)
    return Lists(
        material, length, distance, prefixed(subject, np.concatenate([one, filler, one], 1)),
        prefixed(subject, np.concatenate([two, filler, one], 1)), measured, measured + length * item + distance, item,
    )  # fmt: skip


Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Lists and other lists [sequence, item, token], fillers [sequence, token]."""


def _random(subject: Subject, length: int, distance: int, sequences: int, rng: np.random.Generator) -> Drawn:
    """Different tokens in both lists, the filler of tokens that are in neither."""
    legal = drawable(subject)
    if len(legal) < 2 * length + 2:
        raise NotApplicable(f"{len(legal)} tokens can be drawn, two lists and a filler need {2 * length + 2}")
    lists, fillers = [], []
    for _ in range(sequences):
        drawn = rng.permutation(legal)
        rest = drawn[2 * length :]
        lists.append(drawn[: 2 * length].reshape(2, length, 1))
        fillers.append(rest[:distance] if len(rest) >= distance else rng.choice(rest, distance))
    both = np.stack(lists, 1)
    return both[0], both[1], np.stack(fillers)


def _nouns(subject: Subject, length: int, distance: int, sequences: int, rng: np.random.Generator) -> Drawn:
    """Different nouns in both lists, the filler from natural text."""
    if subject.tokenizer is None or subject.rows is None:
        raise NotApplicable("no tokenizer of text")
    known = noun_tokens(subject.tokenizer, subject.vocab_size, subject.specials)
    if len(known) < 2 * length:
        raise NotApplicable(f"{len(known)} nouns of one length in tokens, two lists need {2 * length}")
    rows = np.asarray(subject.rows, dtype=np.int64)
    if rows.shape[1] <= distance:
        raise NotApplicable(f"rows of {rows.shape[1]} tokens of natural text are too short for a filler")
    chosen = np.stack([rng.permutation(len(known))[: 2 * length] for _ in range(sequences)])
    both = known[chosen].reshape(sequences, 2, length, -1)
    return both[:, 0], both[:, 1], rows[np.arange(sequences) % len(rows), 1 : 1 + distance]
