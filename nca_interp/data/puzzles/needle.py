"""Needle in a haystack: one digit in a text of unrelated words, asked at its end; level L: 8 * 2**L words."""

from __future__ import annotations

import random

from nca_interp.data.puzzles import Made, Puzzle, other_numbers

WORDS = (
    "the", "a", "of", "to", "and", "in", "is", "it", "for", "on", "with", "as", "at", "by", "from", "or", "not", "an", "be", "this",
    "that", "if", "was", "are", "one", "has", "can", "all", "will", "more",
)  # fmt: skip


def make(rng: random.Random, level: int) -> Made:
    """The digit stands anywhere; there is no other one."""
    words = [rng.choice(WORDS) for _ in range(8 * 2**level)]
    value = rng.randint(0, 9)
    words.insert(rng.randint(0, len(words)), f"code {value}")
    return Made(f"{' '.join(words)} ; code", str(value), other_numbers(rng, value, 0, 9))


PUZZLE = Puzzle("needle", "One digit in a text of unrelated words; level L: 8 * 2**L words.", 8, make)
