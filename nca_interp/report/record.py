"""What a program reads of a page: report.json, which the page itself holds as well. docs/report_json.md; report.schema.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nca_interp.base import UserError
from nca_interp.borders import reason
from nca_interp.readers import check_object, damaged, parse_json, read_object

SCHEMA = 2
"""Raised when a field is taken away or changes its meaning, not when one is added."""
KINDS = ("study", "checkpoints", "inspection", "match", "phase", "against")
_OPEN, _CLOSE = '<script type="application/json" id="report">', "</script>"
_SIGNS = {"claims": "study", "verdicts": "study", "collection": "checkpoints", "phase": "phase", "recommended": "match", "spec": "inspection"}  # fmt: skip
"""Keys that tell the kind of a record of schema 1, which did not name it."""


def record(kind: str, study: str, title: str, provenance: Mapping[str, Any], rest: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a page: the fields that all kinds have, then those of its kind."""
    assert kind in KINDS, kind
    head = {
        "schema": SCHEMA, "page": kind, "study": study, "title": title, "created": str(provenance.get("created", "")),
        "command": str(provenance.get("command", "")),
    }  # fmt: skip
    return {**head, **{key: value for key, value in rest.items() if key not in head}}


def read_record(path: Path) -> dict[str, Any]:
    """The record of a page: of report.json, of the page itself, or of the folder that holds one. UserError says what is wrong."""
    if path.is_dir():
        path = path / "report.html"
    if not path.is_file():
        raise UserError(f"{path}: no report; a folder with a report.html, a page or its report.json is needed")
    found = read_object(path) if path.suffix == ".json" else embedded(path)
    if found is None:
        raise UserError(f"{path}: no page of this program")
    return upgraded(check_object(path, found, "", {"study": str}), path)


def embedded(path: Path) -> dict[str, Any] | None:
    """The record inside a page; None where it holds none. UserError where it is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable ({reason(error)})") from None
    _, there, rest = text.partition(_OPEN)
    if not there:
        return None
    try:
        found = parse_json(rest.partition(_CLOSE)[0])
    except ValueError as error:
        raise UserError(f"{path}: its record is damaged ({reason(error)})") from None
    return found if isinstance(found, dict) else None


def upgraded(found: dict[str, Any], where: Path) -> dict[str, Any]:
    """A record with the fields that all kinds of the present schema have. UserError for one of a later version."""
    schema = found.get("schema", 1)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise UserError(f"{where}: written by a later version (schema {schema}; this one reads up to {SCHEMA})")
    provenance = found.get("provenance")
    made = provenance if isinstance(provenance, dict) else {}
    kind = next((kind for key, kind in _SIGNS.items() if key in found), "study")
    head = {"page": kind, "title": str(found["study"]), "created": str(made.get("created", "")), "command": str(made.get("command", ""))}  # fmt: skip
    return {**head, **found}


def rows_of(found: Mapping[str, Any], key: str, where: Path) -> list[dict[str, Any]]:
    """The `claims` or `verdicts` of a record, with every field that pages read; UserError for what is none."""
    texts = {"claims": ("claim", "says", "verdict"), "verdicts": ("treated", "control", "metric", "verdict")}[key]
    rows = [] if found.get(key) is None else found[key]
    if not isinstance(rows, list):
        raise damaged(where, f"{key}: a list is expected")
    blank = {"domain": "", "source": "", "sentence": "", "change": "", "unit": "", "zero": 0.0} | dict.fromkeys(
        ("effect", "low", "high", "n")
    )
    known = [{**blank, **check_object(where, row, "", dict.fromkeys(texts, str))} for row in rows]
    for row in known:
        for name in ("effect", "low", "high", "zero", "n"):
            if isinstance(row[name], bool) or not isinstance(row[name], int | float | None):
                raise damaged(where, f"{key}: {name} {row[name]!r}, expected number or null")
    return known
