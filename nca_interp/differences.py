"""In what two configurations differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError


def completed(model: type[BaseModel], saved: Any) -> Any:
    """A saved configuration with the defaults of fields that a later version added; as it is where it does not parse."""
    try:
        return model.model_validate(saved).model_dump(mode="json")
    except ValidationError:
        return saved


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """One line for each value in which two JSON structures differ, by dotted path (list items by their name)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key, "(absent)"), new.get(key, "(absent)"), f"{path}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (a, b) in enumerate(zip(old, new, strict=True)):
            name = a.get("name", index) if isinstance(a, dict) else index
            yield from differences(a, b, f"{path}.{name}")
    elif old != new:
        yield f"{path}: there {_short(old)}, asked for {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
