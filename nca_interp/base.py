"""What every component shares: the frozen configuration base, canonical hashes, and (from errors.py) the errors."""

from __future__ import annotations

import hashlib
import json
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from nca_interp.errors import Busy as Busy
from nca_interp.errors import RunFailed as RunFailed
from nca_interp.errors import UserError as UserError


class Frozen(BaseModel):
    """Base of all configuration: immutable, no unknown keys, attribute docstrings become field descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth(cls, data: Any) -> Any:
        """`true` is no 1: of a field that takes no truth value it is refused."""
        for name, value in data.items() if isinstance(data, dict) else ():
            if not isinstance(value, bool | dict | list | tuple) or not _has_truth(value):
                continue
            field = cls.model_fields.get(str(name))
            if field is not None and not _takes_truth(field.annotation):
                raise ValueError(
                    f"{name}: {str(value).lower()} is no legal value: true and false are no numbers or names"
                )
        return data


def _has_truth(value: Any) -> bool:
    if isinstance(value, dict):
        value = tuple(value.values())
    return any(map(_has_truth, value)) if isinstance(value, list | tuple) else isinstance(value, bool)


def _takes_truth(annotation: Any) -> bool:
    """Whether a truth value is legal in a field of this type, or it is a model, which checks its own fields."""
    if annotation is Any or (isinstance(annotation, type) and issubclass(annotation, bool | BaseModel)):
        return True
    return any(map(_takes_truth, get_args(annotation)))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal configurations give equal bytes, hence equal hashes."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, length: int = 64) -> str:
    """First `length` hexadecimal digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def stream_seed(*parts: Any) -> int:
    """A 63-bit seed for one named random stream, e.g. `stream_seed(3, "init", "model.norm.weight")`.

    Streams with different names are independent; the value depends on nothing but the parts.
    """
    return int(digest([str(p) for p in parts], 16), 16) >> 1


def duration(seconds: float) -> str:
    """Seconds as 40 s, 12 min, 3 h 20 min or 2 d 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
