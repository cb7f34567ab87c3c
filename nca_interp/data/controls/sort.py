"""The list in ascending order (arXiv 2601.21725): which symbol comes next depends on all of them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from nca_interp.data.controls.tasks import ListTask


def _answer(x: Any, length: int, n_symbols: int, y: Any) -> int:
    for i in range(length):
        at = i
        while at > 0 and y[at - 1] > x[i]:
            y[at] = y[at - 1]
            at -= 1
        y[at] = x[i]
    return length


class SortSpec(ListTask):
    """The output is the list in ascending order of the symbols' numbers."""

    kind: Literal["sort"] = "sort"
    answer = staticmethod(_answer)
    told: ClassVar[str] = "the list in ascending order"
