"""The list backwards (arXiv 2601.21725): the next token stands before the last one that was copied, not after it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from nca_interp.data.controls.tasks import ListTask


def _answer(x: Any, length: int, n_symbols: int, y: Any) -> int:
    for i in range(length):
        y[i] = x[length - 1 - i]
    return length


class ReverseSpec(ListTask):
    """The output is the list backwards."""

    kind: Literal["reverse"] = "reverse"
    answer = staticmethod(_answer)
    told: ClassVar[str] = "the list backwards"
