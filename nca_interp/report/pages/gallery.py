"""An index page over many reports: what each is about, what it found, when and by which command it was made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from nca_interp.base import UserError
from nca_interp.files import write_text
from nca_interp.report.page import Found
from nca_interp.report.record import embedded, rows_of, upgraded
from nca_interp.report.render import check_page, is_page, resource, script_hash
from nca_interp.report.sections.claims import NOT_TESTED, bar, numbers

INDEX = "index.html"
SHOWN = 4
"""Claims written out for each report."""
MANY = 20
"""Reports above which the page can be searched and sorted."""
PRUNED = {"checkpoints", "tokens", "tables", "measured", "nulls", "node_modules", "__pycache__"}
"""Folders that hold no reports, and thousands of files."""
NAMES = {
    "study": "study", "checkpoints": "checkpoints", "inspection": "token source", "match": "match to a corpus", "phase": "phase diagram",
    "against": "two reports side by side",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One report of a gallery."""

    link: str
    """Relative address."""
    title: str
    kind: str
    study: str
    created: str
    command: str
    claims: tuple[tuple[str, Found], ...]
    """(what is claimed, what was found), the first few."""
    further: int
    """Claims that are not written out."""
    cautions: int


def write_gallery(folder: Path) -> tuple[Path, int]:
    """Write `index.html` into `folder` over all pages of this program below it; returns its path and how many there are. UserError
    where there is none, or where an index.html of someone else stands."""
    path = folder / INDEX
    check_page(path)
    found = entries(folder)
    if not found:
        raise UserError(f"{folder}: no report in it or below; make one with: nca-interp report STUDY")
    write_text(path, render(folder.resolve().name, found))
    return path, len(found)


def entries(folder: Path) -> list[Entry]:
    """Every report below `folder`, the newest first; damaged pages are left out of it."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found = []
    for place, inside, files in os.walk(folder):
        here = Path(place)
        # the runs of a study hold no reports
        inside[:] = (
            []
            if (here / "study.json").is_file()
            else sorted(d for d in inside if d not in PRUNED and not d.startswith("."))
        )
        for name in sorted(files):
            if name.endswith(".html") and name != INDEX and is_page(here / name):
                one = _entry(here / name, folder)
                if one is not None:
                    found.append(one)
    return sorted(found, key=lambda one: (one.created, one.title), reverse=True)


def _entry(path: Path, folder: Path) -> Entry | None:
    """What the index says of a page; None where it holds no record, or a damaged one."""
    try:
        read = embedded(path)
        if read is None or not isinstance(read.get("study"), str):
            return None
        record = upgraded(read, path)
        rows = [row for row in rows_of(record, "claims", path) if not row["verdict"].startswith(NOT_TESTED)]
    except UserError:
        return None
    place = path.relative_to(folder)
    if record["page"] == "against":
        rows = [row for row in rows if row.get("of") == "A"]
    places = len({row.get("domain") for row in rows} - {"", None}) > 1
    told = tuple(
        (_says(row, places), Found("", row["verdict"], numbers(row), "", "", bar=bar(row))) for row in rows[:SHOWN]
    )
    return Entry(
        quote(place.as_posix()), str(record["title"]), NAMES.get(record["page"], "report"), record["study"],
        str(record["created"]).replace("T", " ").rstrip("Z"), str(record["command"]), told, max(0, len(rows) - SHOWN), len(record.get("warnings") or []),
    )  # fmt: skip


def _says(row: dict[str, Any], places: bool) -> str:
    return f"{row['says']} ({row['domain']})" if places and row.get("domain") else str(row["says"])


def render(name: str, found: list[Entry]) -> str:
    """The HTML text of a gallery called `name`."""
    app = resource("gallery.js") if len(found) > MANY else ""
    script = f"script-src '{script_hash(app)}'; " if app else ""
    policy = f"default-src 'none'; {script}style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(resource("gallery.html.j2")).render(
        name=name, entries=found, policy=policy, css=Markup(resource("style.css")), app=Markup(app)
    )
