"""The list again (`identity` of arXiv 2505.22308 and 2601.21725): copying from a position found by content."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from nca_interp.data.controls.tasks import ListTask


def _answer(x: Any, length: int, n_symbols: int, y: Any) -> int:
    for i in range(length):
        y[i] = x[i]
    return length


class CopySpec(ListTask):
    """The output is the list itself."""

    kind: Literal["copy"] = "copy"
    answer = staticmethod(_answer)
    told: ClassVar[str] = "the same list"
