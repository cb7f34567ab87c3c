"""Generated questions that small models can answer, one file a kind, each with levels of difficulty; copy one to add one.

Symbols are single letters and digits with spaces between them, so that tokenizers of any size cut them alike.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count, islice
from typing import NamedTuple

from nca_interp.base import stream_seed

CHOICES = 4
"""Answers of which the likeliest is taken where answers are compared; one of them is right."""
SAMPLE = 2000
"""Problems from which the best constant answer is counted."""


class Made(NamedTuple):
    """One question."""

    question: str
    answer: str
    others: tuple[str, ...]
    """CHOICES - 1 wrong answers of the same kind, all different."""


class Puzzle(NamedTuple):
    """`PUZZLE = Puzzle(...)` in a file of this folder."""

    name: str
    about: str
    levels: int
    make: Callable[[random.Random, int], Made]
    """make(random numbers, level): one question."""


@cache
def puzzles() -> dict[str, Puzzle]:
    """All kinds by name."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        one: Puzzle = importlib.import_module(f"{__name__}.{module.name}").PUZZLE
        found[one.name] = one
    return dict(sorted(found.items()))


def questions(name: str, level: int, seed: int) -> Iterator[Made]:
    """Endless questions of a kind: number r is a pure function of (kind, level, seed, r)."""
    puzzle = puzzles()[name]
    for number in count():
        made = puzzle.make(random.Random(stream_seed(seed, "puzzle", name, level, number)), level)
        assert made.answer not in made.others
        assert len(set(made.others)) == CHOICES - 1
        yield made


@cache
def chance(name: str, level: int) -> float:
    """Share of questions that the best constant answer gets right, counted on SAMPLE of them."""
    answers = Counter(made.answer for made in islice(questions(name, level, -1), SAMPLE))
    return max(answers.values()) / SAMPLE


def other_numbers(rng: random.Random, right: int, low: int, high: int) -> tuple[str, ...]:
    """Wrong numbers of low to high."""
    return tuple(map(str, rng.sample([n for n in range(low, high + 1) if n != right], CHOICES - 1)))
