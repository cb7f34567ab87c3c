"""What was asked to be evaluated: `--tasks` as text, its files, the hub, generated problems; and examples from the training split."""

from __future__ import annotations

import difflib
import glob
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nca_interp.base import UserError
from nca_interp.borders import border
from nca_interp.data.text.files import match_files, read_records
from nca_interp.evaluate.task import Benchmark, Item, Record, benchmarks, problems
from nca_interp.store import sha256_file


class Wanted(NamedTuple):
    """One entry of `--tasks`."""

    name: str
    """As it is called in tables: a benchmark, `name:level` of a generated one, or a task of the harness."""
    benchmark: Benchmark | None
    """None: the harness's own, by its name or a .yaml file."""
    level: int = 1
    files: str = ""
    """Globs; empty: the hub, or generated."""


class Loaded(NamedTuple):
    """The problems of a benchmark, and the examples that may stand before them."""

    wanted: Wanted
    items: list[Item]
    examples: list[Item]
    also_asked: int
    """Training problems that are asked as well, and are no examples."""


def parse(tasks: str, ready: bool = False) -> list[Wanted]:
    """`gsm8k=FILE,humaneval=FILE,recall:2,lambada_openai`: what is wanted. UserError for unknown names and what they cannot take.

    `ready`: nothing is looked up, names that are no benchmark of ours are taken for the harness's.
    """
    found = []
    for entry in (part.strip() for part in tasks.split(",") if part.strip()):
        named, equals, files = entry.partition("=")
        name, colon, level = named.strip().partition(":")
        own = benchmarks().get(name)
        if own is None:
            if equals or colon or not (ready or _in_harness(named)):
                raise UserError(f"tasks: {named!r} is unknown{_near(name)}")
            found.append(Wanted(named, None))
            continue
        if equals and not files.strip():
            raise UserError(f"tasks: {name}=: no file is named")
        if own.made is None and colon:
            raise UserError(f"tasks: {named}: {name} has no levels")
        if own.made is not None and equals:
            raise UserError(
                f"tasks: {entry}: {name} is generated, it takes no file; legal: {name}:1 to {name}:{own.levels}"
            )
        if own.made is None and not equals and own.hub is None:
            raise UserError(f"tasks: {name}: needs a file: {name}=FILE")
        number = int(level) if level.isdecimal() else 0 if colon else 1
        if own.made is not None and not 1 <= number <= own.levels:
            raise UserError(f"tasks: {entry}: legal levels of {name}: 1 to {own.levels}")
        found.append(Wanted(f"{name}:{number}" if own.made is not None else name, own, number, files.strip()))
    if not found:
        raise UserError(f"tasks: none is named; legal: {', '.join(_names())}, and any task of lm-evaluation-harness")
    if twice := {w.name for w in found if [v.name for v in found].count(w.name) > 1}:
        raise UserError(f"tasks: {sorted(twice)[0]} is named twice")
    return found


def _names() -> list[str]:
    return [f"{n}:LEVEL" if b.made else f"{n}=FILE" for n, b in benchmarks().items()]


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, benchmarks(), n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (legal: {', '.join(_names())}, and any task of lm-evaluation-harness)"


def _in_harness(name: str) -> bool:
    """Whether the harness has a task, group or tag of this name, or it is a file of one."""
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise UserError(f"tasks: {name}: no such file")
        return True
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        return False
    return name in TaskManager().all_tasks


def read_examples(text: str) -> dict[str, str]:
    """`gsm8k=TRAIN.jsonl`: by benchmark, the files of its training split."""
    found = {}
    for entry in (part.strip() for part in text.split(",") if part.strip()):
        name, equals, files = entry.partition("=")
        if name not in benchmarks():
            raise UserError(f"examples: {name!r} is unknown{_near(name)}")
        if not equals or not files:
            raise UserError(f"examples: {entry}: no file is named; legal: {name}=FILE")
        found[name] = files
    return found


def load(wanted: Wanted, examples: str, shots: int, count: int, seed: int) -> Loaded:
    """The problems of a benchmark, and training problems for `shots` context examples, none of which is asked.

    UserError where a file has no answer key, where the hub cannot be read, and for shots without a training split.
    """
    own = wanted.benchmark
    assert own is not None
    items = problems(own, _asked(wanted, own, count, seed))
    if not shots:
        return Loaded(wanted, items, [], 0)
    found = problems(own, _training(wanted, own, examples, shots, seed))
    asked = {item.prompt for item in items}
    kept = [item for item in found if item.prompt not in asked]
    if len(kept) < shots:
        raise UserError(
            f"shots: {shots}, but the training split of {wanted.name} has {len(kept)} problem(s) that are not asked as well"
        )
    return Loaded(wanted, items, kept, len(found) - len(kept))


def _asked(wanted: Wanted, own: Benchmark, count: int, seed: int) -> Iterator[tuple[str, int, Record]]:
    if own.made is not None:
        yield from (("generated", i, r) for i, r in enumerate(own.made(wanted.level, count, 2 * seed), 1))
    elif wanted.files:
        yield from _of_files(wanted.files)
    else:
        assert own.hub is not None
        yield from _of_hub(own, own.hub[2])


def _training(wanted: Wanted, own: Benchmark, files: str, shots: int, seed: int) -> Iterator[tuple[str, int, Record]]:
    if own.made is not None:
        yield from (("generated", i, r) for i, r in enumerate(own.made(wanted.level, 20 * shots, 2 * seed + 1), 1))
    elif files:
        yield from _of_files(files)
    elif own.hub is not None and own.hub[3] is not None and not wanted.files:
        yield from _of_hub(own, own.hub[3])
    else:
        raise UserError(
            f"shots: {shots} context examples come from the training split only, and {own.name} has none here; give it with "
            f"--examples {own.name}=FILE, or use shots 0"
        )


def _of_files(patterns: str) -> Iterator[tuple[str, int, Record]]:
    for path in match_files(patterns.replace("+", ",")):
        whole = _object(path)
        for number, record in enumerate(read_records(path) if whole is None else [whole], 1):
            yield str(path), number, record


def _object(path: Path) -> dict[str, Any] | None:
    """A .json file that is one object (BIG-bench); None for all others."""
    if path.suffix != ".json":
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _of_hub(own: Benchmark, split: str) -> Iterator[tuple[str, int, Record]]:
    assert own.hub is not None
    import datasets

    name, config = own.hub[:2]
    with border(
        f"cannot be read (check the network, or give {own.name}=FILE)", f"tasks: {own.name}: {name} of the hub"
    ):
        data = datasets.load_dataset(name, config, split=split)
    yield from ((name, i, dict(record)) for i, record in enumerate(data, 1))


def content(wanted: list[Wanted], examples: dict[str, str]) -> dict[str, Any]:
    """What decides the problems, beside options: names and the SHA-256 of files."""
    found = {}
    for w in wanted:
        training = examples.get(w.benchmark.name, "") if w.benchmark is not None else ""
        files = w.name if w.benchmark is None and Path(w.name).is_file() else w.files
        patterns = [p for text in (files, training) if text for p in text.split("+")]
        paths = [path for p in patterns for path in sorted(glob.glob(str(Path(p).expanduser()), recursive=True))]
        found[w.name] = [sha256_file(Path(path)) for path in paths]
    return found
