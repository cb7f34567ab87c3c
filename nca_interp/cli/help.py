"""What `analyze --help` says of the registered measurements: flags and options, read from their source without importing torch."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from typer.core import TyperCommand

from nca_interp.errors import UserError
from nca_interp.measurement import Measurement, Reference, builtin, measurements


class Option(NamedTuple):
    """A field of a measurement's options."""

    name: str
    default: str
    """As it is written in the source."""
    about: str


class WithMeasurements(TyperCommand):
    """A command whose help lists the measurements beneath its options, and whose `--only` takes a name or none."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the parser does; `--only` before another option or at the end names nothing."""
        following = [*args[1:], "-"][: len(args)]
        pairs = zip(args, following, strict=True)
        return super().parse_args(ctx, [f"{a}=" if a == "--only" and b.startswith("-") else a for a, b in pairs])

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The options of the command, then a section for each measurement."""
        super().format_options(ctx, formatter)
        try:
            found = measurements()
        except UserError as error:  # a file of the user's: its command says so, help comes all the same
            found = builtin()
            formatter.write_text(f"note: {error}")
        known = [one for one in found.values() if one.measure is not None]
        with formatter.section("Measurements (--only NAME makes one alone)"):
            formatter.write_dl([(one.name, _about(one)) for one in known])
        for one in known:
            if rows := _rows(one):
                with formatter.section(f"Options of {one.name}"):
                    formatter.write_dl(rows)


def _about(one: Measurement) -> str:
    if one.by_request:
        always = {"study", "one", "pair", "series", "several"} <= one.by_request
        return f"{one.about} By request: --{one.name}{'' if always else ' (of several checkpoints always)'}."
    return one.about


def _rows(one: Measurement) -> list[tuple[str, str]]:
    named = {option: flag for flag, option in one.flags.items()}
    switched = {option: flag for flag, option in one.switches.items()}
    found = []
    for option in options_of(one.options):
        flag = named.get(option.name)
        given = f"--{flag} TEXT" if flag else f"--set {one.name}.{option.name}=..."
        given = f"--{switch}" if (switch := switched.get(option.name)) else given
        default = f"[default: {option.default}]" if option.default not in ("", "''", "()", "None") else ""
        found.append((given, f"{option.about} {default}".strip()))
    return found


def options_of(reference: Reference) -> list[Option]:
    """The fields of a model of options, of one that is named as "module:class" without importing its module."""
    if isinstance(reference, str):
        module, _, name = reference.partition(":")
        spec = importlib.util.find_spec(module)
        assert spec is not None, reference
        assert spec.origin is not None, reference
        return list(_fields(ast.parse(Path(spec.origin).read_text(encoding="utf-8")), name))
    model: Any = reference
    return [
        Option(name, "" if field.is_required() else repr(field.default), field.description or "")
        for name, field in model.model_fields.items()
    ]


def _fields(tree: ast.Module, name: str) -> Iterator[Option]:
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            yield Option(node.target.id, _default(node.value), " ".join(str(said).split()))


def _default(value: ast.expr | None) -> str:
    if isinstance(value, ast.Call):  # Field(default=..., ...)
        value = next((k.value for k in value.keywords if k.arg == "default"), value.args[0] if value.args else None)
    return "" if value is None else ast.unparse(value)
