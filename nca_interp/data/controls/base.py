"""The contract of a control source: one file in this folder holds one specification, which says how its rows are filled.

A control is a token source whose ideal loss is known. Nothing here imports more than pydantic before a row is made, so
that the command line stays fast: kernels are plain functions, compiled on first use. `discover` finds the files.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

from nca_interp.base import Frozen

LARGEST = 65_536
"""Largest alphabet of a control."""


class Control(Frozen):
    """Base of all control specifications. A subclass has `kind` (a literal with a default, the name that a user types)."""

    kind: str
    hides: ClassVar[bool] = False
    """Whether the generator knows something of a row that its tokens do not say: then `ideals` gives `bayes`."""

    @property
    def vocab_size(self) -> int:
        """Tokens are 0 .. vocab_size - 1."""
        raise NotImplementedError

    def describe(self) -> str:
        """One sentence on the source, for reports."""
        raise NotImplementedError

    def lacks(self, n_tokens: int) -> str:
        """Why rows of `n_tokens` tokens cannot show the task, as "field: value ...; legal: ...", or nothing."""
        raise NotImplementedError

    def names(self) -> list[str]:
        """What each token is called where a row is shown."""
        return [str(token) for token in range(self.vocab_size)]

    def n_draws(self, n_tokens: int) -> int:
        """Random numbers that a row of `n_tokens` tokens may use."""
        return n_tokens + 1

    def fill(self, draws: Any, tokens: Any, nats: Any) -> None:
        """Fill tokens[row, n_tokens] (uint32) and nats[row, n_tokens] (float64) from draws[row, n_draws], uniform in [0, 1).

        `nats` is -ln of the probability that the generator gave to each token, knowing all tokens before and what the
        row hides (its period, its map): the loss of an informed predictor; where it hides nothing, that of the Bayes
        predictor itself. A longer row begins with the shorter one, and rows do not know each other.
        """
        raise NotImplementedError

    def ideals(self, tokens: Any) -> dict[str, Any]:
        """Predictors that see only the tokens before: name -> nats[row, n_tokens] of tokens[row, n_tokens] (int64).

        `bayes`, where the generator hides something, is the exact posterior predictive: no model that reads the row can
        have less on average. Others are rivals that a model has to beat.
        """
        return {}


class kernel:
    """A function over arrays, compiled on its first call; `plain` is the function itself, for tests."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.plain = function

    @cached_property
    def compiled(self) -> Any:
        """The compiled function: without the interpreter's lock, cached on disk where that can be."""
        from nca_interp.data.compiled import outer

        return outer(self.plain)

    def __call__(self, *arguments: Any) -> Any:
        """Call the compiled function."""
        return self.compiled(*arguments)


def discover() -> dict[str, type[Control]]:
    """Every control of this folder by its kind, in the order of the file names."""
    import nca_interp.data.controls as room

    found: dict[str, type[Control]] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(room.__path__)):
        for value in vars(importlib.import_module(f"{room.__name__}.{module}")).values():
            own = (
                isinstance(value, type)
                and issubclass(value, Control)
                and value.__module__ == f"{room.__name__}.{module}"
            )
            if own and isinstance(kind := value.model_fields["kind"].default, str):
                found[kind] = value
    return found
