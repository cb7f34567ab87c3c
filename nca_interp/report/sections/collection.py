"""The frame of a report on checkpoints that come from elsewhere: its head, the summary, where the numbers come from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nca_interp.report.charts.numbers import DASH, listing, plural, short, whole
from nca_interp.report.page import Item, Note, Page, Section, Table
from nca_interp.report.record import record
from nca_interp.report.sections import method
from nca_interp.report.sections.method import flat, provenance_tables, written
from nca_interp.report.tables import Tables, each


def page(tables: Tables, sections: tuple[Section, ...]) -> Page:
    """A page around `sections`; those without a thing to say are left out."""
    runs = tables.runs
    kinds = sorted({r.description for r in each(runs) if r.description})
    return Page(
        title=str(tables.study["title"]),
        subtitle=f"{plural(len(runs), 'model')}, {str(tables.provenance.get('created', ''))[:10]}",
        facts=(
            ("Architecture", listing(kinds) if kinds else DASH),
            ("Parameters", listing(sorted({short(r.params) for r in each(runs)}))),
            ("Checkpoints", str(len((tables.collection or {}).get("entries", [])))),
            ("Natural text", _text(tables)),
        ),
        cautions=cautions(tables),
        legend=tuple((r, tables.label(r)) for r in tables.main) if len(tables.main) > 1 else (),
        sections=_told(sections),
        record=_record(tables),
    )


def _told(sections: tuple[Section, ...]) -> tuple[Section, ...]:
    """The sections that say something: what was not measured of these models is left out, as are sections of nothing else."""
    kept = (replace(s, items=tuple(i for i in s.items if not (isinstance(i, Note) and i.absent))) for s in sections)
    return tuple(section for section in kept if section.items)


def cautions(tables: Tables) -> tuple[str, ...]:
    """What these numbers cannot say."""
    seeds = tables.runs.groupby("regime").seed.nunique()
    told = []
    if not len(seeds) or seeds.max() < 2:
        told.append(
            "One network of a kind: differences between networks have no interval over seeds, and there is no verdict on what causes them."
        )
    if not tables.probes.null_95.notna().any():
        told.append(
            "No randomly initialised models were measured: nothing says which scores a network without training reaches."
        )
    return tuple(told)


def _text(tables: Tables) -> str:
    settings = (tables.collection or {}).get("settings", {})
    return str(settings.get("tokens") or "the built-in English text, in the model's own tokens")


def definitions(tables: Tables) -> list[Item]:
    """What every probe measures, folded: a reader looks up one."""
    return [replace(i, folded=True) if isinstance(i, Table) else i for i in method.definitions(tables)]


def provenance(tables: Tables) -> list[Item]:
    """Checkpoints with their hashes, settings, machine and versions, files of this page."""
    runs = tuple(
        (r.run, r.label, whole(r.steps), short(r.params), r.description or DASH, r.source, str(r.checkpoint_sha256)[:12] or DASH)
        for r in each(tables.runs)
    )  # fmt: skip
    asked = tuple((k, written(v)) for k, v in flat(tables.collection or {}))
    return [
        Table(("model", "label", "step", "parameters", "architecture", "where", "SHA-256"), runs, "Checkpoints.", frozenset({2, 3}), "tab-runs"),
        Table(("key", "value"), asked, "What was asked.", id="tab-config", folded=True),
        *provenance_tables(tables),
    ]  # fmt: skip


def _record(tables: Tables) -> dict[str, Any]:
    rest = {
        "collection": tables.collection,
        "warnings": list(cautions(tables)),
        "provenance": tables.provenance,
        "tables": tables.hashes(),
    }
    return record("checkpoints", tables.dir.path.resolve().name, str(tables.study["title"]), tables.provenance, rest)
