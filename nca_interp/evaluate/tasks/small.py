"""Generated tasks that small models can do (data/puzzles), each twice: `recall:2` writes its answer, `recall-choice:2` takes
the likeliest of four.

Chance of a written answer: what the best constant answer gets right; of a choice 1/4.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

from nca_interp.data.puzzles import CHOICES, Puzzle, chance, puzzles, questions
from nca_interp.data.text.qa import qa_prompt
from nca_interp.evaluate.task import Benchmark, Item, Record


def records(name: str, level: int, count: int, seed: int) -> list[Record]:
    """`count` different problems."""
    found: dict[str, Record] = {}
    for made in islice(questions(name, level, seed), 20 * count):
        found.setdefault(made.question, {**made._asdict(), "level": level})
        if len(found) == count:
            break
    return list(found.values())


def written(name: str, record: Record, file: str) -> Iterator[Item]:
    """The answer is written as in fine-tuning."""
    yield Item(
        qa_prompt(record["question"]),
        record["answer"],
        chance=chance(name, record["level"]),
        shown=f"#### {record['answer']}",
    )


def chosen(name: str, record: Record, file: str) -> Iterator[Item]:
    """The right answer and three of its kind, in alphabetical order."""
    choices = tuple(sorted(f"#### {a}" for a in (record["answer"], *record["others"])))
    yield Item(
        qa_prompt(record["question"]),
        f"#### {record['answer']}",
        choices,
        1 / CHOICES,
        shown=f"#### {record['answer']}",
    )


def read(text: str) -> str | None:
    """What stands behind the mark, else the first line, without spaces."""
    lines = text.rpartition("####")[2].strip().splitlines()
    return "".join(lines[0].split()) if lines else None


def _same(answer: str, key: str) -> bool:
    return answer == "".join(key.split())


def _both(one: Puzzle) -> tuple[Benchmark, Benchmark]:
    made = partial(records, one.name)
    return (
        Benchmark(one.name, one.about, partial(written, one.name), read=read, same=_same, until=("\n",), max_tokens=48, made=made, levels=one.levels),
        Benchmark(
            f"{one.name}-choice", f"{one.about} The likeliest of {CHOICES} answers.", partial(chosen, one.name), kind="choose", made=made,
            levels=one.levels,
        ),
    )  # fmt: skip


TASK = tuple(benchmark for one in puzzles().values() for benchmark in _both(one))
