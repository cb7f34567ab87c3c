"""Build the report of a study: tables in, `report.html` and `report.json` out."""

from __future__ import annotations

from pathlib import Path

from nca_interp import discover
from nca_interp.base import UserError
from nca_interp.report.page import Page
from nca_interp.report.render import render
from nca_interp.report.tables import Tables
from nca_interp.store import write_json, write_text

STUDY, CHECKPOINTS = "study", "checkpoints"
"""Reports of a study, and of checkpoints that come from elsewhere."""


def build_report(study_dir: Path, definition: discover.Definition | None = None) -> Path:
    """Write the report of an analysed study beside its tables and return the path of the HTML file.

    `definition` is a loaded file of `reports/` (default: `reports/study.py`). Raises UserError where the folder holds no
    study or its tables are missing or damaged; nothing is written then.
    """
    tables = Tables(Path(study_dir))
    definition = definition or discover.find("reports", STUDY if tables.collection is None else CHECKPOINTS)
    page = definition.value(tables)
    if not isinstance(page, Page):
        raise UserError(f"{definition.path}: report {definition.name!r} returned {type(page).__name__}, not a Page")
    html = render(page)
    path = tables.dir.report
    write_json(path.with_suffix(".json"), page.record)
    write_text(path, html)
    return path
