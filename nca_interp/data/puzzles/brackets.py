"""Bracket completion: what closes everything that is open; level = brackets that are open."""

from __future__ import annotations

import random

from nca_interp.data.puzzles import CHOICES, Made, Puzzle

PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}


def make(rng: random.Random, level: int) -> Made:
    """Closed pairs stand between the open brackets."""
    opened = [rng.choice("([{<") for _ in range(level)]
    shown: list[str] = []
    for bracket in opened:
        shown.append(bracket)
        if rng.random() < 0.5:
            inner = rng.choice("([{<")
            shown += [inner, PAIRS[inner]]
    right = [PAIRS[b] for b in reversed(opened)]
    wrong: dict[str, None] = {}
    while len(wrong) < CHOICES - 1:
        one = list(right)
        one[rng.randrange(level)] = rng.choice(")]}>")
        if one != right:
            wrong[" ".join(one)] = None
    return Made(" ".join(shown), " ".join(right), tuple(wrong))


PUZZLE = Puzzle("brackets", "What closes all that is open; level = open brackets.", 12, make)
