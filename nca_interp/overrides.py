"""From plain data to a checked configuration: typed `--set a.b=v` overrides, and messages a user can act on."""

from __future__ import annotations

import difflib
import inspect
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from nca_interp.base import UserError
from nca_interp.config import Study, suggest
from nca_interp.phase import Phase

M = TypeVar("M", bound=BaseModel)
Recipe = Callable[..., Study | Phase]


def call_study(recipe: Recipe, overrides: Iterable[str]) -> Study:
    """As `call_recipe`; UserError where the recipe is of a phase diagram, which is no single study."""
    found = call_recipe(recipe, overrides)
    if isinstance(found, Phase):
        names = ", ".join(study.name for study in found.studies)
        raise UserError(
            f"recipe {found.name!r} is a phase diagram of several studies ({names}); a recipe of one study is needed here"
        )
    return found


def call_recipe(recipe: Recipe, overrides: Iterable[str]) -> Study | Phase:
    """The study or phase diagram of a recipe with `a.b=value` overrides applied.

    A recipe may take configuration models with defaults, such as the switches of `paper`; overrides that begin with the
    name of one are applied to it before the recipe is called, all others to what it returns.
    """
    from nca_interp.discover import running

    path, defaults = Path(inspect.getfile(inspect.unwrap(recipe))), _defaults(recipe)
    arguments = {name: default.model_dump(mode="json") for name, default in defaults.items()}
    rest = []
    for override in overrides:
        key, value = _split(override)
        if key.split(".")[0] in arguments:
            _assign(arguments, key, value)
        else:
            rest.append(override)
    given = {name: parse(type(defaults[name]), values) for name, values in arguments.items()}
    try:
        with running(path):
            study = recipe(**given)
    except ValidationError as error:
        raise UserError(explain(error)) from None
    if not isinstance(study, Study | Phase):
        raise UserError(f"{path}: {recipe.__name__} returned {type(study).__name__}, expected a Study or a Phase")
    # copies with changed fields (`model_copy`) are not checked where they are made
    return with_overrides(study, rest)


def _defaults(recipe: Recipe) -> dict[str, BaseModel]:
    """The arguments of a recipe and their defaults; UserError for one that is no configuration model."""
    found = {name: parameter.default for name, parameter in inspect.signature(recipe).parameters.items()}
    for name, default in found.items():
        if not isinstance(default, BaseModel):
            raise UserError(
                f"{inspect.getfile(inspect.unwrap(recipe))}: {recipe.__name__}: its argument {name!r} has no configuration model as its "
                "default; legal: no arguments, or models with defaults"
            )
    return found


def with_overrides(model: M, overrides: Iterable[str], name: str = "") -> M:
    """A copy of a study (or another configuration) with `a.b=value` overrides applied; values are TOML, a bare word is a string.
    Messages have `name` in front of a key, where the user wrote it there.

    Regimes and domains are addressed by name (`regimes.nca.source.n_states=4`). Raises UserError for a key that does
    not exist (with a suggestion), a value of the wrong type, or one out of range.
    """
    try:
        data = model.model_dump(mode="json", warnings=False)
    except PydanticSerializationError as error:  # a field that `model_copy` set to anything
        raise UserError(f"{type(model).__name__}: {error}") from None
    for override in overrides:
        key, value = _split(override)
        _assign({name: data} if name else data, f"{name}.{key}" if name else key, value)
    return parse(type(model), data)


def _split(override: str) -> tuple[str, Any]:
    key, separator, text = override.partition("=")
    if not separator:
        raise UserError(f"--set {override}: expected key=value")
    if len(override.strip().splitlines()) > 1:
        raise UserError(f"--set {override!r}: holds a line break; give every setting a --set of its own")
    return key.strip(), _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    if text in ("null", "none"):
        return None
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
        raise UserError(f"--set: {text[:40]}... is no legal value ({error})") from None


def _assign(data: Any, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node = data
    for part in parents:
        node = _child(node, part, key)
    if isinstance(node, list):
        index = _index(node, last, key)
        node[index] = value
    elif isinstance(node, dict):
        # a free-form mapping (regimes.X.runs, source.where) takes new keys; every configuration object lists all of its own
        if last not in node and key.split(".")[-2:-1] not in (["runs"], ["where"]):
            raise UserError(f"--set {key}: unknown key {last!r}{suggest(last, node)}")
        node[last] = value
    else:
        raise UserError(f"--set {key}: {'.'.join(parents)} is {node!r} and has no keys")


def _child(node: Any, part: str, key: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, key)]
    if isinstance(node, dict) and part in node:
        return node[part]
    legal = suggest(part, node) if isinstance(node, dict) else ""
    raise UserError(f"--set {key}: unknown key {part!r}{legal}")


def _index(items: list[Any], part: str, key: str) -> int:
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if part in names:
        return names.index(part)
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    raise UserError(f"--set {key}: no item {part!r}{suggest(part, [n for n in names if n])}")


def parse(model: type[M], data: Any) -> M:
    """`model.model_validate(data)`, with every problem in one readable UserError (path, problem, what was given)."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UserError(explain(error, model, data)) from None


def explain(error: ValidationError, model: type[BaseModel] | None = None, data: Any = None) -> str:
    """All problems of a validation error, one line each: dotted path, what is wrong, what was given.

    With the `model` that refused, an unknown key gets a suggestion; with the `data` that it refused, paths are those of `--set`."""
    return "\n".join(_problem(problem, error.title, model, data) for problem in error.errors())


def _problem(problem: Any, title: str, model: type[BaseModel] | None, data: Any) -> str:
    path, message, kind = _path(problem["loc"], data), problem["msg"].removeprefix("Value error, "), problem["type"]
    if kind == "extra_forbidden":
        legal = _fields_at(model, problem["loc"][:-1]) if model is not None else []
        message = f"unknown key{suggest(str(problem['loc'][-1]), legal)}"
    elif kind == "union_tag_invalid":
        path = f"{path}.kind"
        message = f"{problem['ctx']['tag']!r} is unknown{suggest(problem['ctx']['tag'], _quoted(problem['ctx']['expected_tags']))}"
    elif kind == "model_attributes_type":
        message = f"{problem['input']!r:.80} has no fields; legal: field by field ({path}.kind=..., {path}.FIELD=...), or a table in braces"
    elif kind != "value_error":
        near = difflib.get_close_matches(
            str(problem["input"])[:80], _quoted(problem.get("ctx", {}).get("expected", "")), n=1
        )
        message += (f"; did you mean {near[0]!r}?" if near else "") + f" (got {problem['input']!r:.80})"
    elif not path and re.match(r"[a-z_][\w.-]*: ", message):
        return message  # it says itself where
    return f"{path or title}: {message}"


def _quoted(listed: Any) -> list[str]:
    """The words in quotation marks of a list such as "'a', 'b' or 'c'"."""
    return re.findall(r"'([^']*)'", str(listed))


def _path(parts: tuple[Any, ...], data: Any) -> str:
    """A place in `data` as `--set` takes it: items of a list by name, and without the kind that pydantic puts before the fields of a variant."""
    found, node = [], data
    for part in parts:
        if isinstance(node, dict) and part not in node and part == node.get("kind"):
            continue
        try:
            node = node[part]
        except (LookupError, TypeError):
            node = None
        name = node.get("name") if isinstance(part, int) and isinstance(node, dict) else None
        found.append(name if isinstance(name, str) and name else str(part))
    return ".".join(found)


def _fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    fields = model.model_fields
    for part in path:
        field = fields.get(part) if isinstance(part, str) else None
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return [] if path else list(fields)
        fields = field.annotation.model_fields
    return list(fields)
