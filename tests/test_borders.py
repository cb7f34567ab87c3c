"""Borders: foreign exceptions become one sentence that names the file; ours, interruptions and lack of memory pass."""

from __future__ import annotations

import pytest

from nca_interp.borders import LONGEST, border, reason
from nca_interp.errors import Busy, RunFailed, UserError


class PanicException(BaseException):
    """Stands for what Rust libraries raise."""


@pytest.mark.parametrize(
    ("foreign", "said"),
    [
        (KeyError("n_layers"), "KeyError: 'n_layers'"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (ImportError("needs autoawq"), "needs autoawq"),
        (ValueError(), "ValueError"),
        (RuntimeError("two\n  lines"), "two lines"),
        (RecursionError("maximum recursion depth exceeded"), "maximum recursion depth exceeded"),
        (PanicException("called unwrap on None"), "PanicException: called unwrap on None"),
    ],
)
def test_a_foreign_error_becomes_one_sentence(foreign: BaseException, said: str) -> None:
    with pytest.raises(UserError) as caught, border("does not open", "folder"):
        raise foreign
    assert str(caught.value) == f"folder: does not open: {said}"
    assert caught.value.__cause__ is foreign


@pytest.mark.parametrize(
    "ours",
    [UserError("u"), RunFailed("r"), Busy("b"), MemoryError(), KeyboardInterrupt(), SystemExit(3), GeneratorExit()],
)
def test_what_is_ours_passes_untouched(ours: BaseException) -> None:
    with pytest.raises(type(ours)) as caught, border("does not open", "folder"):
        raise ours
    assert caught.value is ours


def test_a_border_may_lead_to_a_failed_run() -> None:
    with pytest.raises(RunFailed, match="x: writing: full"), border("writing", "x", RunFailed):
        raise OSError("full")


def test_a_long_reason_is_cut() -> None:
    assert len(reason(ValueError("a" * 10_000))) == LONGEST
