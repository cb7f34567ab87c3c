"""Arithmetic chains: additions and subtractions of digits, worked off from left to right; level = number of operations."""

from __future__ import annotations

import random

from nca_interp.data.puzzles import Made, Puzzle, other_numbers


def make(rng: random.Random, level: int) -> Made:
    """No intermediate result is below 0."""
    value = rng.randint(0, 9)
    shown = [str(value)]
    for _ in range(level):
        operand = rng.randint(0, 9)
        sign = rng.choice("+-") if operand <= value else "+"
        value += operand if sign == "+" else -operand
        shown += [sign, str(operand)]
    return Made(f"{' '.join(shown)} =", str(value), other_numbers(rng, value, max(0, value - 4), value + 4))


PUZZLE = Puzzle("chain", "Arithmetic chains of digits; level = operations.", 8, make)
