"""What a measurement is: one object in one folder, that the engine, the command line, the tables and the report iterate over.

A folder of `nca_interp/analysis/` (or of `measurements/` in the working folder) that holds `measurement.py` is one. What takes
part in it is named as "module:function" and loaded only where it is called, so that the list costs no import of torch.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from nca_interp.base import Frozen, UserError

Reference = str | Callable[..., Any]
"""A function, or "package.module:function" of it."""
USER_FOLDER = "measurements"
GUARDED = ("tables", "files", "section", "summary", "applies", "wanted", "check", "parts", "share", "cost")
"""Functions of a user's measurement that this process calls."""
NAME = "MEASUREMENT"
"""Variable of measurement.py that holds the object."""


@dataclass(frozen=True)
class Measurement:
    """One kind of measurement of the runs of a collection (docs/architecture.md).

    `measure(run, asked)` measures one run (analysis.collection.Run) and keeps its rows in files of the run, doing nothing
    where they are up to date; it returns what went wrong beside that. `asked` is an `Asked`. `tables(collection, tables,
    asked)` makes tidy tables of what is kept; `tables` are those of the measurements before it. `section(tables)` makes the
    report's sections; it imports nothing but `nca_interp.report`.
    """

    name: str
    """A word: job ids and folders are called so; `--NAME` asks for it where `by_request`, `--only NAME` makes it alone."""
    about: str
    """One line for --help and the page of measurements."""
    order: int
    """Place among the others: tables and sections are made in this order."""
    measure: Reference | None = None
    """None: its tables come from those before it."""
    tables: Reference | None = None
    files: Reference | None = None
    """files(collection, tables, asked): writes what is no table beside the tables."""
    section: Reference | None = None
    needs: tuple[str, ...] = ()
    """Measurements whose tables are made before its own."""
    summary: Reference | None = None
    """summary(collection, tables) -> iterable of `Shown` and sentences, for a terminal of 80 columns."""
    by_request: frozenset[str] = frozenset()
    """Kinds of collections (study, one, pair, series, several) of which it is measured only when asked for."""
    applies: Reference | None = None
    """function(run) -> bool: whether it is measured of a run; None: of every run before fine-tuning."""
    wanted: Reference | None = None
    """function(collection, options, named) -> bool: whether it has what it works on (a text, a pair of prompts): it is made where it
    has, asked for by name or not. UserError says what is wrong with what was given, or is lacking where it was `named`."""
    check: Reference | None = None
    """check(asked): UserError for options that fit none of the collection's runs, before anything is written."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Options that the command line takes as `--FLAG VALUE` (flag -> option); one of them asks for the measurement, too."""
    switches: Mapping[str, str] = field(default_factory=dict)
    """Options that are true where the command line has `--FLAG` (flag -> option); they do not ask for the measurement."""
    fine_tuned: bool = False
    """Whether runs after fine-tuning are measured as well."""
    parts: Reference | None = None
    """function(options) -> jobs that share the work on one run: `measure` is called for each with `asked.part` (number, of), then once
    more without, when all have ended. None: one job a run."""
    share: Reference | None = None
    """function(run) -> hashable: runs with the same value share one measurement, of the first of them."""
    cost: Reference | None = None
    """function(run, options) -> seconds that it takes, about; only ratios count. None: 1 each checkpoint."""
    fast: float = 1.0
    """Share of that cost that remains with --fast."""
    options: Reference = Frozen
    """Model (a Frozen) of its options, each with a default; `--set NAME.option=value` changes one."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """By table, the columns that a report may rely on, separated by spaces."""

    def read(self, given: Mapping[str, Any]) -> Any:
        """Its options, checked: those `given`, the others by default. UserError names one that is unknown or not legal."""
        from nca_interp.overrides import parse

        model: Any = resolve(self.options)
        return parse(model, dict(given))

    def made(self, collection: Any, named: bool, given: Mapping[str, Any], only: bool) -> bool:
        """Whether it is measured of a collection (None: of a study before its training, which measures what always is);
        `named`: it was asked for by name; `given`: options; `only`: nothing else is made."""
        if self.measure is None:
            return False
        if self.wanted is not None:
            return collection is not None and bool(resolve(self.wanted)(collection, self.read(given), named))
        kind = "study" if collection is None else collection.kind
        return named or not (only or kind in self.by_request)

    def of(self, run: Any) -> bool:
        """Whether it is measured of a run."""
        if self.measure is None or (run.stage == "ft" and not self.fine_tuned):
            return False
        return True if self.applies is None else bool(resolve(self.applies)(run))


class Shown(NamedTuple):
    """A table for the terminal."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    left: tuple[str, ...] = ()
    """Columns of text."""


@dataclass(frozen=True)
class Asked:
    """What was asked of a measurement."""

    collection: Any
    """analysis.collection.Collection."""
    options: Any
    """An instance of the measurement's `options`."""
    probes: Path | None = None
    """Folder with further probe files."""
    say: Callable[[str, float | None], None] = lambda what, share: None
    """say(what is being done, share of the job that is done): called now and then."""
    part: tuple[int, int] | None = None
    """Number of this job among those that share the work, and how many these are; None: the only one, or the last."""


def resolve(reference: Reference) -> Callable[..., Any]:
    """The function of a reference."""
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    function: Callable[..., Any] = getattr(sys.modules.get(module) or importlib.import_module(module), name)
    return function


def check_given(
    collection: Any, asked: Iterable[str], options: Mapping[str, Mapping[str, Any]], probes: Path | None = None
) -> None:
    """UserError for a measurement of a collection that was given what it cannot work on, before anything is written; `probes`:
    folder with further probe files."""
    for one in measurements().values():
        given = options.get(one.name, {})
        if (one.wanted or one.check) and one.made(collection, one.name in asked, given, False) and one.check:
            resolve(one.check)(Asked(collection, one.read(given), probes))


def measurements() -> dict[str, Measurement]:
    """All measurements by name, in their order: the package's own, and those of `measurements/` in the working folder, which
    win over one of the same name. UserError names the file of one that does not load."""
    found = {**builtin(), **_of_user(Path.cwd() / USER_FOLDER)}
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


@cache
def builtin() -> dict[str, Measurement]:
    """The measurements of the package."""
    analysis = importlib.import_module("nca_interp.analysis")
    found: dict[str, Measurement] = {}
    for room in pkgutil.iter_modules(analysis.__path__):
        folder = Path(analysis.__path__[0]) / room.name
        if room.ispkg and (folder / "measurement.py").is_file():
            value = getattr(importlib.import_module(f"nca_interp.analysis.{room.name}.measurement"), NAME)
            found |= {one.name: one for one in (value if isinstance(value, tuple) else (value,))}
    return found


def _of_user(folder: Path) -> dict[str, Measurement]:
    from nca_interp.discover import load_module

    files = sorted([*folder.glob("*/measurement.py"), *folder.glob("*.py")]) if folder.is_dir() else []
    found: dict[str, Measurement] = {}
    for path in files:
        if path.name.startswith("_"):
            continue
        value = getattr(load_module(path), NAME, None)
        for one in value if isinstance(value, tuple) else (value,):
            if not isinstance(one, Measurement):
                raise UserError(f"{path}: no {NAME} = Measurement(...) in it")
            found[one.name] = _named(one, path)
    return found


def _named(one: Measurement, path: Path) -> Measurement:
    """The same, its functions naming file and line where they raise; `measure` does so where it runs, in a worker."""
    from nca_interp.discover import running

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            with running(path):
                made = function(*given)
                return list(made) if isinstance(made, Iterator) else made

        return call

    own: dict[str, Any] = {
        name: guarded(value) for name, value in vars(one).items() if name in GUARDED and callable(value)
    }
    return replace(one, **own)
