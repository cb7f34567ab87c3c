"""What a benchmark is: one file in `evaluate/tasks/`, that turns its records into problems of one form and says how answers are read."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from nca_interp.base import UserError

SKIPPED = "\x00skipped: longer than the context"
"""In place of an answer to a problem that does not fit; no model writes it."""
Record = Mapping[str, Any]


class Wrong(ValueError):
    """What a record lacks, in words."""


class Item(NamedTuple):
    """One problem."""

    prompt: str
    """What the model reads."""
    answer: str = ""
    """The key; of a choice, the right one; of a program, its tests."""
    choices: tuple[str, ...] = ()
    """Answers that are compared by their log-likelihood."""
    chance: float = 0.0
    """Accuracy of a guess."""
    part: str = ""
    """Task within a benchmark of several; each counts once in the mean."""
    shown: str = ""
    """The answer as a context example writes it; empty: `answer`."""
    entry: str = ""
    """Of a program: what its tests call."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: `TASK = Benchmark(...)` in a file of `evaluate/tasks/`."""

    name: str
    about: str
    """One line: what is asked, and where it comes from."""
    items: Callable[[Record, str], Iterable[Item]]
    """items(record, name of the file): its problems. Raises Wrong for a record without an answer key."""
    kind: str = "generate"
    """generate: an answer is written and compared; choose: the likeliest of some answers; code: a program is written and run."""
    read: Callable[[str], str | None] = lambda text: text.strip()
    """The answer in what a model wrote; None where there is none."""
    same: Callable[[str, str], bool] = lambda answer, key: answer == key
    """Whether an answer is the key."""
    until: tuple[str, ...] = ("\n\n",)
    """An answer ends before these."""
    max_tokens: int = 64
    """Longest answer."""
    delimiter: str = " "
    """Between a prompt and its answer."""
    between: str = "\n\n"
    """Between context examples."""
    hub: tuple[str, str | None, str, str | None] | None = None
    """Data set of the Hugging Face hub, configuration, split that is asked, split that context examples come from; None: files only."""
    sampling: str = "paper"
    """The published setting of its draws (evaluate/sampling.py)."""
    made: Callable[[int, int, int], list[Record]] | None = None
    """made(level, problems, seed): records of a generated task; None: read from files."""
    levels: int = 0
    """Difficulties of a generated task, 1 to this."""
    floor: bool = False
    """Whether a part below chance counts as zero in the mean (as published for BIG-bench Lite)."""
    program: Callable[[Item, str], str] | None = field(default=None)
    """program(item, answer): what is run."""


@cache
def benchmarks() -> dict[str, Benchmark]:
    """All benchmarks by name."""
    from nca_interp.evaluate import tasks

    found: dict[str, Benchmark] = {}
    for module in pkgutil.iter_modules(tasks.__path__):
        value = importlib.import_module(f"nca_interp.evaluate.tasks.{module.name}").TASK
        found |= {one.name: one for one in (value if isinstance(value, tuple) else (value,))}
    return dict(sorted(found.items()))


def text(record: Record, *names: str) -> str:
    """The first of some columns that holds text; Wrong where none does."""
    for name in names:
        if isinstance(value := record.get(name), str):
            return value
    raise Wrong(f"needs {' or '.join(repr(n) for n in names)} with text")


def problems(benchmark: Benchmark, records: Iterable[tuple[str, int, Record]]) -> list[Item]:
    """Problems of records (file, number, record), in order; UserError names the first record without what it needs, and a source
    that holds none."""
    found: list[Item] = []
    for file, number, record in records:
        try:
            found += benchmark.items(record, file)
        except Wrong as error:
            raise UserError(f"{benchmark.name}: {file}: record {number} {error}") from None
    if not found:
        raise UserError(f"{benchmark.name}: no problem in it")
    return found
