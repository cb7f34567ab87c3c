"""SIGINT and SIGTERM, collected instead of died of: work ends after its present step, and what was done is saved."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

BOTH = (signal.SIGINT, signal.SIGTERM)
ECHO_SECONDS = 5.0
"""A launcher passes on what its processes have received themselves (torchrun, srun, timeout): within this time it is one request."""


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
