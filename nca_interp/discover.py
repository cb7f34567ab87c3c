"""Find and load definition files: probes, runs and reports are single files that a user adds by copying one.

Looked for in this order, the first of a name wins: the folder given on the command line, the folder of that kind in
the current directory, the ones that come with the package (top level of a checkout, or inside the installed wheel).
Two files of one folder that define the same name are refused: neither can win.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from nca_interp.base import UserError
from nca_interp.borders import words
from nca_interp.config import Study, suggest
from nca_interp.overrides import explain
from nca_interp.phase import Phase

Kind = Literal["probes", "runs", "reports"]
KINDS: tuple[Kind, ...] = ("runs", "probes", "reports")
LONGEST = 2000
"""Characters that are shown of what a definition file raises."""
F = TypeVar("F", bound=Callable[..., Study | Phase])
_collected: list[tuple[str, str, Any]] = []


@dataclass(frozen=True)
class Definition:
    """One loaded definition: what it is called, where it stands, what it says of itself, and the object."""

    kind: Kind
    name: str
    path: Path
    about: str
    """Its whole docstring, else that of its file, without indentation."""
    value: Any

    @property
    def doc(self) -> str:
        """The first line of it."""
        return self.about.split("\n")[0]

    @property
    def sha256(self) -> str:
        """Hash of the file that defines it; results are recomputed when it changes."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def define(kind: Kind, name: str, value: Any) -> None:
    """Called by the decorators: enter `value` as a definition of the file that is being loaded."""
    _collected.append((kind, name, value))


def run(function: F) -> F:
    """Mark a function of a file in `runs/` as a recipe: `nca-interp train NAME`, underscores as hyphens.

    It takes nothing, or configuration models with defaults, whose fields `--set NAME.field=value` changes."""
    define("runs", function.__name__.replace("_", "-"), function)
    return function


def report(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function of a file in `reports/` as a report: it takes the study's tables and returns a page."""
    define("reports", function.__name__.replace("_", "-"), function)
    return function


def builtin_folder(kind: Kind) -> Path:
    """The folder of definitions that comes with the package."""
    package = Path(__file__).resolve().parent
    installed = package / "_builtin" / kind
    return installed if installed.is_dir() else package.parent / kind


def files(kind: Kind, extra: Path | None = None) -> list[Path]:
    """Definition files in order of precedence, each once; UserError if `extra` is given and is no folder."""
    if extra is not None and not extra.is_dir():
        raise UserError(f"--{kind} {extra}: no such folder")
    folders = [extra] if extra else []
    folders += [Path.cwd() / kind, builtin_folder(kind)]
    seen: dict[Path, None] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.py")):
            if not path.name.startswith(("_", ".")) and path.is_file() and _defines(path, kind):
                seen.setdefault(path.resolve())
    return list(seen)


def _defines(path: Path, kind: Kind) -> bool:
    """Whether a file holds a decorator of this kind, read from its syntax tree without running it."""
    try:
        return _marked(path.read_bytes(), kind.removesuffix("s"))
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
        return True  # loading it says what is wrong


@lru_cache(maxsize=256)
def _marked(source: bytes, decorator: str) -> bool:
    tree = ast.parse(source)
    for node in tree.body:
        for mark in getattr(node, "decorator_list", []):
            target = mark.func if isinstance(mark, ast.Call) else mark
            if getattr(target, "id", getattr(target, "attr", None)) == decorator:
                return True
    return False


def load(kind: Kind, extra: Path | None = None, on_error: Callable[[str], None] | None = None) -> dict[str, Definition]:
    """Load every definition of a kind, by name. A file that cannot be loaded, or a name that two files of a folder
    define, raises UserError naming file and line, or is passed to `on_error` while the others load."""

    def broken(error: UserError) -> None:
        if on_error is None:
            raise error
        on_error(str(error))

    found: dict[str, Definition] = {}
    ambiguous: set[str] = set()
    for path in files(kind, extra):
        try:
            module_doc, values = _load_file(path)
        except UserError as error:
            broken(error)
            continue
        for value_kind, name, value in values:
            if value_kind != kind:
                continue
            if name not in found:
                about = inspect.cleandoc(getattr(value, "__doc__", None) or module_doc)
                found[name] = Definition(kind, name, path, about, value)
            elif path != (first := found[name].path) and path.parent == first.parent:
                ambiguous.add(name)
                broken(
                    UserError(f"{path}: defines {kind.removesuffix('s')} {name!r}, as {first} does; rename one of them")
                )
    return {name: definition for name, definition in found.items() if name not in ambiguous}


def find(kind: Kind, name: str, extra: Path | None = None) -> Definition:
    """One definition by name; UserError with a suggestion if there is none."""
    found = load(kind, extra)
    if name not in found:
        raise UserError(f"unknown {kind.removesuffix('s')} {name!r}{_in_file(name, found) or suggest(name, found)}")
    return found[name]


def _in_file(name: str, found: dict[str, Definition]) -> str:
    """'; did you mean X, which FILE defines?' where `name` is that of a file."""
    inside = [d for d in found.values() if _hyphens(d.path.stem) == _hyphens(Path(name).name.removesuffix(".py"))]
    if not inside:
        return ""
    return f"; did you mean {' or '.join(repr(d.name) for d in inside)}, which {inside[0].path} defines?"


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


def load_module(path: Path) -> ModuleType:
    """A user's Python file, run as a module of its own; UserError with file and line where it raises."""
    return _load(path)[0]


def _load_file(path: Path) -> tuple[str, list[tuple[str, str, Any]]]:
    module, values = _load(path)
    return module.__doc__ or "", values


class _Source(SourceFileLoader):
    """Reads the file as it is now: compiled code beside it is told apart by second and size only, and is none of ours to leave."""

    def get_code(self, fullname: str) -> CodeType:
        return _compiled(self.path, self.get_data(self.path))


@lru_cache(maxsize=256)
def _compiled(path: str, source: bytes) -> CodeType:
    return compile(source, path, "exec", dont_inherit=True)


def _load(path: Path) -> tuple[ModuleType, list[tuple[str, str, Any]]]:
    name = f"nca_interp_definitions.{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_Source(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before execution: dataclasses with postponed annotations look their module up
    _collected.clear()
    try:
        with running(path):
            spec.loader.exec_module(module)
    finally:
        values = list(_collected)
        _collected.clear()
    return module, values


class _Aside(io.TextIOBase):
    """Standard output of definition files: stderr, which they cannot close."""

    def write(self, text: str, /) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


@contextmanager
def running(path: Path) -> Iterator[None]:
    """Run code of a definition file: what it raises, or its exit(), becomes UserError naming file and line, what it prints
    goes to stderr (stdout is the command's, which other programs read), and modules beside it or in the current directory can
    be imported where no installed one has their name.

    What a file of the package raises stays as it is: a UserError of it is complete, anything else a fault of ours.
    """
    own = path.parent not in {builtin_folder(kind).resolve() for kind in KINDS}
    here = Path.cwd()
    siblings = [place for place in (str(path.parent), str(here)) if own and place not in sys.path]
    sys.path += siblings
    try:
        with redirect_stdout(_Aside()):
            yield
    except BaseException as error:
        if not own or isinstance(error, KeyboardInterrupt):
            raise
        raise UserError(f"{where(path, error)}: {reason(error)}") from error
    finally:
        sys.path[:] = [place for place in sys.path if place not in siblings]
        os.chdir(here)  # where relative paths of the command are meant


def where(path: Path, error: BaseException) -> str:
    """file:line, of the innermost line of that file that raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"{path}:{frames[-1].lineno if frames else getattr(error, 'lineno', None) or 1}"


def reason(error: BaseException) -> str:
    """What an exception of a definition file says, with its type where the type says something."""
    if isinstance(error, SystemExit):
        return f"SystemExit: {error.code!r}; a definition file must not end the program: take its exit() or script out"
    if isinstance(error, ValidationError):
        return f"{error.title}: {explain(error)}"
    if isinstance(error, UserError):
        return str(error)
    text = words(error)
    return f"{type(error).__name__}: {text if len(text) <= LONGEST else text[:LONGEST] + '...'}"
