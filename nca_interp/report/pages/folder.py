"""What the pages of single commands (`data inspect`, `match`) share: a folder of a record and tables, and a page around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from nca_interp import discover
from nca_interp.base import UserError
from nca_interp.readers import read_object
from nca_interp.report.page import Page, Section
from nca_interp.report.record import record as head
from nca_interp.report.render import write_page
from nca_interp.store import MANIFEST, damage, sha256_file


class Folder:
    """A folder that a command wrote: `record`, and tables beside it. A subclass names its file, report and command."""

    file: ClassVar[str]
    """Name of the record."""
    report: ClassVar[str]
    """Name of the report definition."""
    command: ClassVar[str]
    """What makes such a folder."""
    kind: ClassVar[str]
    """Of its page's record (record.KINDS)."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.record: dict[str, Any] = read_object(self.folder / self.file, f"made again by: {self.command}")
        tables = self.folder / "tables"
        if (tables / MANIFEST).is_file() and (problem := damage(tables)):
            raise UserError(f"{tables}: {problem}; made again by: {self.command}")

    @classmethod
    def checked(cls, source: Any) -> Self:
        """`source`, if it is such a folder. UserError otherwise: a study has no such page."""
        if not isinstance(source, cls):
            raise UserError(f"report {cls.report!r} is no report of a study; it is made by: {cls.command}")
        return source

    @property
    def unit(self) -> str:
        """What a group of rows is: rule, string, document or row."""
        return str(self.record["unit"])

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every table."""
        return {p.name: sha256_file(p) for p in sorted((self.folder / "tables").glob("*.csv"))}

    def page(
        self, title: str, facts: tuple[tuple[str, str], ...], cautions: tuple[str, ...], sections: tuple[Section, ...],
        record: dict[str, Any],
    ) -> Page:  # fmt: skip
        """A page around those of `sections` that say something; `record` is what a program reads of it."""
        description, created = self.record["description"], str(self.record["provenance"]["created"])[:10]
        return Page(
            title=title,
            subtitle=f"{description[:1].upper()}{description[1:]}. {created}",
            facts=facts,
            cautions=cautions,
            legend=(),
            sections=tuple(s for s in sections if s.items),
            record=head(
                self.kind, str(record["study"]), title, self.record["provenance"], {"tables": self.hashes(), **record}
            ),
        )

    def build(self, definition: discover.Definition | None = None) -> Path:
        """Write the page beside the tables and return its path; by default that of the report of this name."""
        definition = definition or discover.find("reports", self.report)
        with discover.running(definition.path):
            page = definition.value(self)
        if not isinstance(page, Page):
            raise UserError(f"{definition.path}: report {definition.name!r} returned {type(page).__name__}, not a Page")
        path = self.folder / "report.html"
        write_page(page, path)
        return path
