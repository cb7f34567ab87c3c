"""The terminal's side of a command: output that cannot fail after the work is done, and the last resort for what nobody foresaw."""

from __future__ import annotations

import errno
import io
import os
import shlex
import sys
import tempfile
import traceback
from contextlib import suppress
from typing import Any


class _Patient(io.FileIO):
    """A file descriptor whose reader may leave (`| head`): what nobody reads any more is dropped, and the work goes on.

    Any other error is raised once, to be reported; a second time, at the end of the process, nobody could.
    """

    failed = False

    def write(self, data: Any, /) -> int:
        try:
            return memoryview(data).nbytes if self.failed else super().write(data) or 0
        except BrokenPipeError:
            return memoryview(data).nbytes
        except OSError:
            self.failed = True
            raise


def make_patient() -> None:
    """Let printing never raise: characters that the terminal's encoding lacks become `?`, a closed pipe takes nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w", errors="replace"))  # noqa: SIM115  lives as long as the process
        elif isinstance(stream, io.TextIOWrapper) and isinstance(
            getattr(stream.buffer, "raw", stream.buffer), io.FileIO
        ):
            stream.flush()
            buffer = io.BufferedWriter(_Patient(stream.fileno(), "w", closefd=False))
            errors = "replace" if name == "stdout" else "backslashreplace"
            at_once = stream.line_buffering or stream.write_through  # the latter with PYTHONUNBUFFERED
            setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, errors, None, at_once))


def last_resort(error: BaseException, doing: str) -> str:
    """One line on an error that nobody foresaw in `doing`: what to report, and the log that holds the traceback."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; what was whole before is intact: make room and start the same command again"
    from importlib.metadata import version

    from nca_interp.borders import reason

    said = (
        f"{type(error).__name__}: {reason(error)}"
        if not reason(error).startswith(type(error).__name__)
        else reason(error)
    )
    report = f"nca-interp {version('nca-interp')}, Python {sys.version.split()[0]}, {doing}: {said}"
    log = "no log could be written"
    with suppress(OSError):
        descriptor, path = tempfile.mkstemp(prefix="nca-interp-", suffix=".log")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{report}\n\n{''.join(traceback.format_exception(error))}")
        log = f"traceback: {path}"
    return f"internal error, please report it: {report} ({log})"


def command_line() -> str:
    """The command that is running, as it can be typed again."""
    return shlex.join(["nca-interp", *sys.argv[1:]])
