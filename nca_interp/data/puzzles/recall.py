"""Key-value recall: letters with digits, then one of the letters again; level = pairs / 2."""

from __future__ import annotations

import random

from nca_interp.data.puzzles import Made, Puzzle, other_numbers

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def make(rng: random.Random, level: int) -> Made:
    """The digits are drawn alike, so no constant answer is better than 1/10."""
    keys = rng.sample(LETTERS, 2 * level)
    values = [rng.randint(0, 9) for _ in keys]
    asked = rng.randrange(len(keys))
    pairs = " , ".join(f"{k} {v}" for k, v in zip(keys, values, strict=True))
    return Made(f"{pairs} ; {keys[asked]}", str(values[asked]), other_numbers(rng, values[asked], 0, 9))


PUZZLE = Puzzle("recall", "Letters with digits, one of them is asked again; level = pairs / 2.", 12, make)
