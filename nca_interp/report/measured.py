"""The sections of a report that measurements bring, in their order."""

from __future__ import annotations

from nca_interp.base import UserError
from nca_interp.measurement import measurements, resolve
from nca_interp.report.page import Section
from nca_interp.report.tables import Tables


def measured(tables: Tables) -> tuple[Section, ...]:
    """Every section of every measurement. UserError names a measurement whose section function returns something else."""
    found: list[Section] = []
    for one in measurements().values():
        parts = resolve(one.section)(tables) if one.section is not None else ()
        for part in parts:
            if not isinstance(part, Section):
                raise UserError(f"measurement {one.name!r}: its section returned {type(part).__name__}, not sections")
            found.append(part)
    return tuple(found)
