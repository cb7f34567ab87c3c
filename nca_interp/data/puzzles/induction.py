"""In-context function induction: a function of digits from its values at some, asked at another.

Level 1: x + b modulo 10. Level 2: a x + b with a of 3, 7, 9. Level 3: a x^2 + b x + c. Four values are shown, a further one a
level; no constant answer is better than 1/10.
"""

from __future__ import annotations

import random

from nca_interp.data.puzzles import Made, Puzzle, other_numbers


def make(rng: random.Random, level: int) -> Made:
    """What is asked is not among what is shown."""
    a, b, c = rng.choice((3, 7, 9)), rng.randint(0, 9), rng.randint(0, 9)

    def value(x: int) -> int:
        return (x + b if level == 1 else a * x + b if level == 2 else a * x * x + b * x + c) % 10

    *shown, asked = rng.sample(range(10), 4 + level)
    examples = " , ".join(f"{x} > {value(x)}" for x in shown)
    return Made(f"{examples} ; {asked} >", str(value(asked)), other_numbers(rng, value(asked), 0, 9))


PUZZLE = Puzzle(
    "induction", "A function of digits modulo 10 from some of its values; level = its degree and form.", 3, make
)
