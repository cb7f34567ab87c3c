"""Where other people's code is entered (opening a checkpoint, reading a file): what it raises becomes one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nca_interp.errors import RunFailed, UserError

CLEAR = (OSError, ValueError, RuntimeError, ImportError)
"""Errors whose text says enough without the name of their class."""
LONGEST = 300


@contextmanager
def border(doing: str, path: Path | str, error: type[UserError | RunFailed] = UserError) -> Iterator[None]:
    """Raise `error("<path>: <doing>: <reason>")` for what the body raises that is not ours.

    Our own errors, lack of memory and interruptions pass. A panic of a Rust library (safetensors, tokenizers) is no
    `Exception`, yet nothing worse than one.
    """
    try:
        yield
    except (UserError, RunFailed, MemoryError):
        raise
    except BaseException as foreign:
        panic = type(foreign).__name__ == "PanicException"
        if type(foreign).__name__ == "OutOfMemoryError" or not (panic or isinstance(foreign, Exception)):
            raise
        raise error(f"{path}: {doing}: {reason(foreign)}") from foreign


def words(error: BaseException) -> str:
    """str(error), empty where that raises: an error may be made of anything."""
    try:
        return str(error)
    except Exception:
        return ""


def reason(error: BaseException) -> str:
    """What an error says, on one line of at most LONGEST characters; with the name of its class where that is needed."""
    text = " ".join(words(error).split())
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
    if not text:
        return type(error).__name__
    return (
        text
        if isinstance(error, CLEAR) and type(error).__module__ != "safetensors"
        else f"{type(error).__name__}: {text}"
    )
