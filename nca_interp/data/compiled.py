# mypy: ignore-errors
"""How functions are compiled: without the interpreter's lock, in strict IEEE arithmetic, cached where possible."""

from __future__ import annotations

from typing import Any

from numba import njit

inner = njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""For what only compiled code calls: it is kept in its caller's cache."""


def outer(function: Any) -> Any:
    """For what Python calls: cached beside the package or in the user's cache, not at all where neither can be written."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)
