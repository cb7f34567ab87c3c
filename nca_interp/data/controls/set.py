"""The list without repetitions (arXiv 2505.22308, 2601.21725): copying that passes over what was copied before."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from nca_interp.data.controls.tasks import ListTask


def _answer(x: Any, length: int, n_symbols: int, y: Any) -> int:
    count = 0
    for i in range(length):
        known = False
        for j in range(count):
            known = known or y[j] == x[i]
        if not known:
            y[count] = x[i]
            count += 1
    return count


class SetSpec(ListTask):
    """The output holds each symbol of the list once, in the order of its first occurrence."""

    kind: Literal["set"] = "set"
    answer = staticmethod(_answer)
    told: ClassVar[str] = "its different symbols in the order of their first occurrence"
