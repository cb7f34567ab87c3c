"""Generated puzzles: answers by brute force, chance levels, the same problems from the same seed."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from nca_interp.data.puzzles import CHOICES, chance, puzzles, questions

EVERY = [(name, level) for name, one in puzzles().items() for level in (1, one.levels)]
CLOSES = {"(": ")", "[": "]", "{": "}", "<": ">"}


def solve(name: str, question: str) -> str:
    """The answer, worked out from the question alone."""
    if name == "chain":
        return str(eval(question.removesuffix("=")))
    if name == "recall":
        pairs, _, asked = question.partition(" ; ")
        return dict(p.split() for p in pairs.split(" , "))[asked]
    if name == "sort":
        return " ".join(sorted(question.split()[1:]))
    if name == "brackets":
        stack: list[str] = []
        for bracket in question.split():
            if bracket in CLOSES:
                stack.append(CLOSES[bracket])
            else:
                assert stack.pop() == bracket
        return " ".join(reversed(stack))
    if name == "needle":
        return re.findall(r"code (\d)", question)[0]
    shown, asked = question.removesuffix(" >").split(" ; ")
    values = {int(x): int(y) for x, y in (p.split(" > ") for p in shown.split(" , "))}
    fits = {
        (a * int(asked) ** 2 + b * int(asked) + c) % 10
        for a in range(10) for b in range(10) for c in range(10)
        if all((a * x * x + b * x + c) % 10 == y for x, y in values.items())
    }  # fmt: skip
    return str(fits.pop()) if len(fits) == 1 else "open"


@pytest.mark.parametrize(("name", "level"), EVERY)
def test_answers_follow_from_the_questions(name, level):
    found = list(islice(questions(name, level, 0), 60))
    solved = [solve(name, m.question) for m in found]
    determined = [(s, m.answer) for s, m in zip(solved, found, strict=True) if s != "open"]
    assert all(s == a for s, a in determined)
    assert len(determined) > 20
    assert found == list(islice(questions(name, level, 0), 60))
    assert found != list(islice(questions(name, level, 1), 60))
    assert all(len({m.answer, *m.others}) == CHOICES for m in found)


@pytest.mark.parametrize(
    ("name", "closed_form"), [("recall", 0.1), ("needle", 0.1), ("brackets", 0.25), ("sort", 2 / 90)]
)
def test_chance_is_that_of_the_best_constant_answer(name, closed_form):
    assert chance(name, 1) == pytest.approx(closed_form, abs=0.025)


def test_what_is_harder_is_longer():
    for name, one in puzzles().items():
        lengths = [len(next(questions(name, level, 0)).question) for level in range(1, one.levels + 1)]
        assert lengths[-1] > lengths[0], name
