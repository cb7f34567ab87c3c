"""Sorting: different digits in any order, to be written from the smallest; level = digits - 1."""

from __future__ import annotations

import random

from nca_interp.data.puzzles import CHOICES, Made, Puzzle


def make(rng: random.Random, level: int) -> Made:
    """Two digits have one wrong order only; the other wrong answers then hold another digit."""
    digits = rng.sample(range(10), level + 1)
    right = sorted(digits)
    wrong: dict[str, None] = {}
    while len(wrong) < CHOICES - 1:
        one = list(right)
        if level > 1 or not wrong:
            a, b = rng.sample(range(len(one)), 2)
            one[a], one[b] = one[b], one[a]
        if level == 1 and wrong:
            one[rng.randrange(2)] = rng.randint(0, 9)
        if one != right:
            wrong[" ".join(map(str, one))] = None
    return Made(f"sort {' '.join(map(str, digits))}", " ".join(map(str, right)), tuple(wrong))


PUZZLE = Puzzle("sort", "Different digits, to be written in order; level = digits - 1.", 9, make)
