"""The option parser's borders: no empty values, and its complaints in one line that repeats what was typed."""

from __future__ import annotations

import shlex
from typing import Any

import typer
from typer.core import TyperGroup

from nca_interp.errors import UserError

UsageError: type[Any] = typer.BadParameter.__mro__[1]
"""Base of the parser's complaints, which it does not export by name."""

MAX_SEED, MAX_ROWS, MAX_LENGTH, MAX_WORKERS = 2**63 - 1, 10**7, 2**20, 4096
"""Upper ends of options: what is beyond is a slip of the hand."""


class Commands(TyperGroup):
    """A group of commands that refuses empty values: a variable that a script forgot to set is no option left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the parser does, after every typed value was found to hold something."""
        for before, argument in zip(["", *args], args, strict=False):
            option, equals, value = argument.partition("=") if argument.startswith("--") else (before, "=", argument)
            if equals and not value.strip():
                name = option if option.startswith("-") else "argument"
                raise UserError(f"{name}: {value!r} is empty; leave it out, or give it a value")
        return super().parse_args(ctx, args)


def explain(error: Any, arguments: list[str]) -> str:
    """A `UsageError` as one line: option, what was typed, what is wrong, where help is."""
    param, command = getattr(error, "param", None), "nca-interp"
    if error.ctx is not None:
        command = error.ctx.command_path
    elif arguments:
        command += f" {shlex.join(arguments[: 2 if arguments[0] == 'data' else 1])}"
    if param is not None and error.message:
        message = ": ".join([max(param.opts, key=len), *_typed(arguments, param.opts), error.message])
    else:
        flag = getattr(error, "option_name", None)
        message = ", got ".join([error.format_message().rstrip("."), *_typed(arguments, [flag], behind=False)])
    return f"{' '.join(message.split())}; see: {command} --help"


def _typed(arguments: list[str], options: list[Any], behind: bool = True) -> list[str]:
    """The last value that was typed for an option, `--option=value` or (`behind`) `--option value`; empty if none was."""
    values = []
    for argument, following in zip(arguments, [*arguments[1:], None], strict=True):
        name, equals, value = argument.partition("=")
        if name in options and (equals or (behind and following is not None)):
            values.append(repr(value if equals else following))
    return values[-1:]
