"""What of a written answer is compared."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from nca_interp.data.text.qa import MARK

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def number_of(text: str) -> str | None:
    """What stands after the last "####", else the last number; None where there is neither."""
    _, mark, tail = text.rpartition(MARK)
    if mark and tail.strip():
        return tail.strip().split("\n")[0]
    found = NUMBER.findall(text)
    return found[-1] if found else None


def same_number(answer: str, key: str) -> bool:
    """Equal as numbers, else as text, without spaces, thousands separators, currency signs and a final full stop."""
    a, b = plain(answer), plain(key)
    try:
        return Decimal(a) == Decimal(b)
    except InvalidOperation:
        return a == b


def plain(answer: str) -> str:
    """An answer without spaces, thousands separators, currency sign and a final full stop."""
    return answer.strip().replace(",", "").replace("$", "").replace(" ", "").rstrip(".")
