"""Build the report of a study: tables in, `report.html` and `report.json` out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from altair.utils.schemapi import debug_mode

from nca_interp import discover
from nca_interp.base import UserError
from nca_interp.beside import beside
from nca_interp.outputs import check_output, records
from nca_interp.report.page import Page
from nca_interp.report.render import bundle, check_page, write_page
from nca_interp.report.tables import Tables
from nca_interp.store import AnalysisDir, write_json

STUDY, CHECKPOINTS = "study", "checkpoints"
"""Reports of a study, and of checkpoints that come from elsewhere."""


def page_of(
    study_dir: Path, definition: discover.Definition | None = None, say: Callable[[str], None] = lambda what: None
) -> Page:
    """What the report of an analysed study says, not drawn yet; arguments and errors of `build_report`."""
    say("report: reading the tables")
    tables = Tables(Path(study_dir))
    definition = definition or discover.find("reports", STUDY if tables.collection is None else CHECKPOINTS)
    say("report: what it says")
    with discover.running(definition.path), debug_mode(False):  # a test validates the charts; it is a tenth of the time
        page = definition.value(tables)
    if not isinstance(page, Page):
        raise UserError(f"{definition.path}: report {definition.name!r} returned {type(page).__name__}, not a Page")
    return page


def build_report(
    study_dir: Path,
    definition: discover.Definition | None = None,
    say: Callable[[str], None] = lambda what: None,
    *,
    alone: bool = True,
) -> Path:
    """Write the report of an analysed study beside its tables and return the path of the HTML file.

    `definition` is a loaded file of `reports/` (default: `reports/study.py`). `say(what is being done)` is called at each step. `alone` False: a second
    process takes part. Raises UserError where the folder holds no study or its tables are missing or damaged; nothing is written then.
    """
    directory = AnalysisDir(Path(study_dir))
    path, record = directory.report, directory.report.with_suffix(".json")
    check_page(path)
    if not path.exists():  # beside a page of ours lies its record, whole or damaged
        check_output("report", record, "record of a page", records("study"))
    bundled: AbstractContextManager[Callable[[], str]] = nullcontext(bundle) if alone else beside(bundle)
    with bundled as vega:
        page = page_of(Path(study_dir), definition, say)
        say("report: drawing it")
        write_page(page, path, vega)
    write_json(record, page.record)
    return path
