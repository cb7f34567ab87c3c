"""SIGINT and SIGTERM: where work collects them it ends after its present step; elsewhere they are a KeyboardInterrupt."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

BOTH = (signal.SIGINT, signal.SIGTERM)
ECHO_SECONDS = 5.0
"""A launcher passes on what its processes have received themselves (torchrun, srun, timeout): within this time it is one request."""


_interruptions: list[tuple[int, float]] = []
"""Signal and time of what was not collected in this process."""


def this_command() -> str:
    """The command that is running, as it can be typed again."""
    return shlex.join(["nca-interp", *sys.argv[1:]])


def exit_code() -> int:
    """Exit code of a program that a KeyboardInterrupt ends: 143 where SIGTERM raised it, else 130."""
    return 128 + (_interruptions[0][0] if _interruptions else signal.SIGINT)


def interruptible(work: Callable[[], int]) -> int:
    """The exit code of `work`, in which either signal raises KeyboardInterrupt wherever it is not collected.

    It then ends with 130 or 143, whatever the interruption became on its way (such as an import that fails), and says
    how to go on. One of several launched processes keeps the signals as they are: it may wait for the others in a
    collective, which no handler interrupts, and its launcher answers for it.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        return work()
    for number in BOTH:
        signal.signal(number, _interrupt)
    try:
        code = work()
        interrupted = bool(_interruptions) and code == 130  # what the option parser makes of a KeyboardInterrupt
    except (Exception, KeyboardInterrupt):
        if not _interruptions:
            raise
        interrupted = True
    finally:
        for number in BOTH:
            signal.signal(number, lambda number, frame: os._exit(128 + number))  # all is said, Python is ending
    if interrupted:
        code = exit_code()
        print(f"error: stopped; what was finished is saved, continue with: {this_command()}", file=sys.stderr)
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    return code


def _interrupt(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if not _interruptions or now - _interruptions[-1][1] > ECHO_SECONDS:
        _interruptions.append((number, now))
        raise KeyboardInterrupt


@contextmanager
def collected(insisted: Callable[[], None]) -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM. Calls `insisted` at each SIGINT that comes after its echoes: somebody cannot wait.

    A further SIGTERM is none of that: who wants to kill has SIGKILL. Outside the main thread nothing can be caught.
    """
    received: list[int] = []
    first = 0.0

    def remember(number: int, frame: object) -> None:
        nonlocal first
        if not received:
            first = time.monotonic()
            received.append(number)
        elif number == signal.SIGINT and time.monotonic() - first > ECHO_SECONDS:
            insisted()

    try:
        old = {number: signal.signal(number, remember) for number in BOTH}
    except ValueError:
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def shielded() -> Iterator[None]:
    """Processes that are started here never see either signal; what arrives meanwhile is delivered at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BOTH)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unshield() -> None:
    """Let this process, started by a shielded one, receive both again."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BOTH)
