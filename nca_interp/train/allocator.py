"""How the C library treats freed memory: a step allocates what the last one freed, so it is kept."""

from __future__ import annotations

import ctypes
from contextlib import suppress

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Numbers of the parameters of glibc's mallopt."""


def keep_freed_memory() -> None:
    """From now on this process does not return freed memory to the system, which would give it back a page fault at a time.

    Does nothing where the C library is not glibc.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(TRIM_THRESHOLD, -1)
        mallopt(MMAP_MAX, 0)
