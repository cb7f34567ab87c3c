"""How numbers are written in a report: true minus signs, an en dash for what does not apply."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

DASH = "–"
MINUS = "−"


def absent(value: Any) -> bool:
    """Whether a cell is empty: None, NaN or an empty string."""
    return value is None or value == "" or (isinstance(value, float) and not math.isfinite(value))


def fixed(value: Any, digits: int = 3) -> str:
    """A fixed number of decimals: `3.854`; what rounds to zero has no sign."""
    return DASH if absent(value) else f"{float(value):z.{digits}f}".replace("-", MINUS)


def signed(value: Any, digits: int = 3) -> str:
    """With its sign: `+0.012`, `−0.031`."""
    return DASH if absent(value) else f"{float(value):+.{digits}f}".replace("-", MINUS)


def percent(value: Any, digits: int = 1) -> str:
    """A signed percentage from a number that is one already: `−3.1 %`."""
    return DASH if absent(value) else f"{signed(value, digits)} %"


def interval(low: Any, high: Any, digits: int = 3, sign: bool = True) -> str:
    """`[−0.067, +0.018]`; a dash when either end is missing."""
    if absent(low) or absent(high):
        return DASH
    write = signed if sign else fixed
    return f"[{write(low, digits)}, {write(high, digits)}]"


def p_value(value: Any) -> str:
    """`0.250`, `< 0.001`."""
    if absent(value):
        return DASH
    return "< 0.001" if float(value) < 0.001 else f"{float(value):.3f}"


def whole(value: Any) -> str:
    """An integer with thin groups: `12,288`."""
    return DASH if absent(value) else f"{int(value):,}"


def spread(values: Iterable[Any]) -> str:
    """Numbers as `short` writes them: one where all are equal, else the least to the most."""
    found = [value for value in values if not absent(value)]
    ends = dict.fromkeys((short(min(found)), short(max(found)))) if found else (DASH,)
    return " to ".join(ends)


def short(value: Any) -> str:
    """Three significant digits and a unit prefix: with a hard space: `1.58 M`, `164 M`, `9.02 B`."""
    if absent(value):
        return DASH
    number = float(value)
    for limit, suffix in (
        (1e15, "\u00a0×10¹⁵"),
        (1e12, "\u00a0T"),
        (1e9, "\u00a0B"),
        (1e6, "\u00a0M"),
        (1e3, "\u00a0k"),
    ):
        if abs(number) >= limit:
            return f"{number / limit:.3g}{suffix}" if abs(number) / limit < 999.5 else f"{number / limit:,.0f}{suffix}"
    return f"{number:.3g}".replace("-", MINUS)


def plain(value: Any) -> str:
    """Whatever a cell holds, as text: numbers to four significant digits, a dash for nothing."""
    if absent(value):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 1e15):
        return whole(value)
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", MINUS)
    return str(value)


def significant(value: Any, digits: int = 3) -> str:
    """So many significant digits without a power of ten: `0.00241`, `17.8`, `3,821`."""
    if absent(value) or float(value) == 0:
        return DASH if absent(value) else "0"
    places = digits - 1 - math.floor(math.log10(abs(float(value))))
    text = f"{float(value):,.{max(places, 0)}f}"
    return text.replace("-", MINUS)


def highest(rows: Any, digits: int = 4) -> str:
    """Where the largest `value` of a frame with `layer` and `head` is: `layer 5 head 3`, or `69 heads tie` where so many have it
    to `digits` decimals, for the first of equals is not the best."""
    top = rows[rows.value.round(digits) == rows.value.round(digits).max()]
    if len(top) > 1:
        return f"{len(top)} heads tie"
    best = top.iloc[0]
    return f"layer {int(best['layer'])} head {int(best['head'])}"


def plural(count: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listing(parts: Iterable[Any]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    words = [str(p) for p in parts]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
