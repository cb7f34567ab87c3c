"""From tidy tables to one offline HTML file. Computes no statistics and never imports torch.

Python binds `nca_interp.report` to this package as soon as one of its modules is imported, and the decorator of the same
name is imported from there as well: so the package itself is the decorator, whatever was imported before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class _Decorator(ModuleType):
    """A module that does when called what `discover.report` does."""

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        from nca_interp import discover

        return discover.report(function)


report = sys.modules[__name__]
report.__class__ = _Decorator
