"""Generated arithmetic: worked problems as documents, and word problems with a step-by-step answer.

Problem number r is a pure function of (size, seed, stream, r); `itertools.count` makes the streams endless.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

from nca_interp.base import stream_seed
from nca_interp.data.specs import ArithmeticSpec

NAMES = ("Ada", "Ben", "Chen", "Dina", "Emil", "Fatou", "Gita", "Hugo", "Ines", "Jonas", "Kira", "Luis", "Mina", "Noor")
THINGS = ("apples", "books", "coins", "stamps", "pencils", "shells", "tickets", "cards", "marbles", "stones")
GROUPS = ("boxes", "bags", "baskets", "rows", "trays")


class Problem(NamedTuple):
    """A word problem."""

    question: str
    answer: str
    """Steps, then a last line "#### <final>"."""
    final: str


def worked_document(spec: ArithmeticSpec, number: int) -> str:
    """Worked problem `number`: a chain of operations evaluated step by step, or a written sum with its carries."""
    rng = random.Random(stream_seed(0, "arithmetic documents", number))
    return _written_sum(rng, spec) if rng.random() < 0.3 else _chain(rng, spec)


def _chain(rng: random.Random, spec: ArithmeticSpec) -> str:
    value = rng.randint(1, 10**spec.digits - 1)
    expression, lines = str(value), []
    for step in range(1, rng.randint(1, spec.max_steps) + 1):
        sign, operand = rng.choice("+-*"), rng.randint(1, 10**spec.digits - 1)
        if sign == "*":
            operand = rng.randint(2, 9)
        if sign == "-" and operand > value:
            sign = "+"
        result = value + operand if sign == "+" else value - operand if sign == "-" else value * operand
        expression = (
            f"({expression}) {sign} {operand}"
            if sign == "*" and " " in expression
            else f"{expression} {sign} {operand}"
        )
        lines.append(f"Step {step}: {value} {sign} {operand} = {result}")
        value = result
    return "\n".join([f"Problem: compute {expression}.", *lines, f"Answer: {value}"])


def _written_sum(rng: random.Random, spec: ArithmeticSpec) -> str:
    a, b = (rng.randint(10 ** (spec.digits - 1), 10 ** (spec.digits + 1) - 1) for _ in range(2))
    lines, carry = [f"Problem: add {a} and {b} digit by digit."], 0
    for place in range(max(len(str(a)), len(str(b)))):
        x, y = a // 10**place % 10, b // 10**place % 10
        total = x + y + carry
        lines.append(f"Digit {place + 1}: {x} + {y} + carry {carry} = {total}, write {total % 10}, carry {total // 10}")
        carry = total // 10
    return "\n".join([*lines, f"Answer: {a + b}"])


def word_problems(spec: ArithmeticSpec, seed: int) -> Iterator[Problem]:
    """Endless word problems of 1 to `max_steps` steps; repeats are possible and left to the caller to drop."""
    for number in count():
        yield _word_problem(random.Random(stream_seed(seed, "word problems", number)), spec)


def _word_problem(rng: random.Random, spec: ArithmeticSpec) -> Problem:
    name, friend = rng.sample(NAMES, 2)
    thing, group = rng.choice(THINGS), rng.choice(GROUPS)
    top = 10**spec.digits - 1
    value = rng.randint(2, top)
    story, steps = [f"{name} has {value} {thing}."], []
    if rng.random() < 0.4:
        groups, each = rng.randint(2, 9), rng.randint(2, top)
        value = groups * each
        story = [f"{name} has {groups} {group} with {each} {thing} each."]
        steps = [f"{name} has {groups} * {each} = {value} {thing}."]
    while len(steps) < rng.randint(1, spec.max_steps) or not steps:
        kind, n = rng.randrange(4), rng.randint(1, top)
        if kind == 0 and n < value:
            story.append(f"{name} gives {n} {thing} to {friend}.")
            steps.append(f"After giving {n} to {friend}, {value} - {n} = {value - n} are left.")
            value -= n
        elif kind == 1 and value <= top * 9:
            times = rng.randint(2, 5)
            story.append(f"Then the number of {thing} grows to {times} times as many.")
            steps.append(f"{times} times as many is {value} * {times} = {value * times}.")
            value *= times
        else:
            story.append(f"{friend} brings {n} more {thing}.")
            steps.append(f"With {n} more there are {value} + {n} = {value + n}.")
            value += n
    question = " ".join([*story, f"How many {thing} does {name} have now?"])
    return Problem(question, "\n".join([*steps, f"#### {value}"]), str(value))
