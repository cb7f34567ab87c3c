"""`nca-interp match`: from a source to everything its page and its JSON say, as tables and one record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from nca_interp.analysis.complexity.calibration import LENGTHS, Footing, rows_of, vectors
from nca_interp.analysis.matching.distance import MIN_GROUPS, Source, check, need
from nca_interp.analysis.matching.evidence import HYPOTHESIS, found_evidence, own_evidence, paper_rule, study_evidence
from nca_interp.analysis.matching.grid import Report, load_grid, make_cells
from nca_interp.analysis.matching.matching import Match, Setting, match
from nca_interp.analysis.matching.recipe import recipe, regimes, run_name
from nca_interp.base import UserError
from nca_interp.data.sample import Spec, TooShort
from nca_interp.data.specs import TextSpec
from nca_interp.store import seal, write_record, write_text

RECORD = "match.json"
STUDIES = Path("runs/out")
"""Where a sweep is looked for that nobody named."""
UNITS = {"nca": "rule", "dyck": "string", "text": "document"}
"""What a group of rows is; of a control, the row."""
SAMPLE_SPLIT = "match-corpus"
"""Split of a synthetic source that is matched: none of its rules is in the grid."""


class Found(NamedTuple):
    """What `run` found."""

    match: Match
    frames: dict[str, pd.DataFrame]
    """Tables: cells, coordinates, readings, settings (docs/matching.md)."""
    record: dict[str, Any]
    """All that is not a table; with the tables it is the object that --json prints."""
    recipe: str
    """Source of a recipe file."""

    def write(self, folder: Path) -> None:
        """Each table as tables/NAME.csv, recipe.py, then the record."""
        for name, frame in self.frames.items():
            write_text(folder / "tables" / f"{name}.csv", frame.to_csv(index=False))
        write_text(folder / "recipe.py", self.recipe)
        seal(folder / "tables")
        write_record(folder / RECORD, self.record)

    def json(self) -> dict[str, Any]:
        """One object with everything."""
        tables = {k: f.astype(object).where(f.notna(), None).to_dict("records") for k, f in self.frames.items()}
        return {**self.record, "tables": tables}


def run(
    label: str, spec: Spec, *, axes: Sequence[str] = (), n: int = 192, seed: int = 0, footing: Footing = "symbols",
    study: Path | None = None, command: str = "", threads: int | None = None, report: Report = lambda what, done: None,
) -> Found:  # fmt: skip
    """Match a source with the grid of `axes` (match_grid.make_cells). Raises UserError for a mistake, before any cell is measured."""
    cells = make_cells(axes)
    evidence = study_evidence(study) if study is not None else found_evidence(STUDIES) or own_evidence()
    report("reading the source", 0.0)
    try:
        main_rows = rows_of(spec, footing, n, seed, SAMPLE_SPLIT, threads)
    except TooShort as error:
        raise UserError(
            f"source: {label!r} is too short: it holds {error.held:,} {footing}, ends of documents included; {need(footing)}"
        ) from None
    check(main_rows, label, footing)
    main = Source(main_rows, vectors(main_rows), load_grid(cells, footing, report, threads))
    other = _other(spec, cells, "tokens" if footing == "symbols" else "symbols", n, seed, report, threads)
    found = match(label, main, other, seed=seed)
    texts = main_rows.sample.texts
    rule = paper_rule("".join(texts).encode()) if texts else None
    return Found(
        found,
        _frames(found),
        _record(found, spec, rule, evidence, command),
        recipe(found, spec if isinstance(spec, TextSpec) else None, command),
    )


def _other(
    spec: Spec, cells: list[Any], footing: Footing, n: int, seed: int, report: Report, threads: int | None
) -> Source | None:
    """The source on the other footing; None where the corpus is too short for it."""
    try:
        rows = rows_of(spec, footing, n, seed, SAMPLE_SPLIT, threads)
    except TooShort:
        return None
    if len(set(rows.groups)) < MIN_GROUPS:
        return None
    return Source(rows, vectors(rows), load_grid(cells, footing, report, threads))


def _frames(found: Match) -> dict[str, pd.DataFrame]:
    return {
        "cells": found.cells,
        "coordinates": found.coordinates,
        "settings": pd.DataFrame([
            {**s._asdict(), "name": s.name, "failed": why(s), "others": "; ".join(s.others)} for s in found.settings
        ]),
        "readings": pd.DataFrame([
            {
                "reading": r.reading, "changed": r.changed, "cell": r.cell.name, "n_states": r.cell.spec.n_states,
                "level": r.cell.level, "dt": r.cell.spec.dt, "distance": r.distance,
                "counts": r.counts,
            }
            for r in found.readings
        ]),
    }  # fmt: skip


def _record(found: Match, spec: Spec, rule: Any, evidence: Any, command: str) -> dict[str, Any]:
    nearest = found.nearest
    return {
        "schema": 1,
        "source": found.label,
        "spec": spec.model_dump(mode="json"),
        "description": found.description,
        "footing": found.footing,
        "rows": found.n_rows,
        "row_length": LENGTHS[found.footing],
        "groups": found.n_groups,
        "unit": UNITS.get(spec.kind, "row"),
        "alphabet_in_use": found.alphabet,
        "recommended": nearest.spec.model_dump(mode="json"),
        "cell": nearest.name,
        "distance": found.distance,
        "own_spread": found.own_spread,
        "resembles": found.resembles,
        "tied": found.tied,
        "edge": found.edge,
        "sentence": sentence(found),
        "cautions": list(cautions(found)),
        "paper_rule": rule._asdict() if rule else None,
        "hypothesis": HYPOTHESIS,
        "evidence": evidence._asdict() if evidence else None,
        "rests_on": rests_on(evidence),
        "unreachable": [{"cell": cell.name, "why": why} for cell, why in found.unreachable],
        "resamples": found.resamples,
        "seed": found.seed,
        "command": command,
        "regimes": regimes(found),
        "run": run_name(found.label),
    }


def sentence(found: Match) -> str:
    """The recommendation in one sentence, with what is sure of it and what is not."""
    told: dict[str, list[str]] = {"clear": [], "inconclusive": [], "not varied": []}
    for s in found.settings:
        told[s.verdict].append(f"{s.name} {s.value}")
    parts = [f"{word}: {', '.join(part)}" for word, part in told.items() if part]
    return f"Nearest: {found.nearest.name}; {'; '.join(parts)}."


def cautions(found: Match) -> list[str]:
    """Warnings that the numbers give rise to, most severe first."""
    out = []
    if found.edge is not None:
        out.append(
            f"The corpus lies {found.edge} every cell of the grid in every measure that counts: the nearest cell is only the end of "
            "the grid on that side, and nothing but its complexity is told by it."
        )
    if not found.resembles:
        gap = found.coordinates[found.coordinates.matched].set_index("coordinate").difference
        worst = str(gap.abs().idxmax())
        side = "above" if gap[worst] > 0 else "below"
        out.append(
            f"Nothing on the grid resembles this corpus: it is {found.distance:.2f} from the nearest cell, whose own rules are "
            f"{found.own_spread:.2f} from their mean; {worst} lies {abs(gap[worst]):.2f} {side} it."
        )
    if len(found.tied) > 1:
        out.append(f"{len(found.tied)} cells cannot be told apart on this sample: {'; '.join(found.tied)}.")
    unsure = [s for s in found.settings if s.verdict == "inconclusive"]
    for s in unsure:
        others = f"; also possible: {', '.join(s.others)}" if s.others else ""
        out.append(f"{s.name} {s.value} is inconclusive: {why(s)}{others}.")
    return [*out, *(f"{note[:1].upper()}{note[1:]}." for note in found.notes)]


def why(setting: Setting) -> str:
    """The conditions of "clear" that a setting fails, in words."""
    return "; ".join(failure.words for failure in setting.failed)


def rests_on(evidence: Any) -> str:
    """What the recommendation is worth, in plain words."""
    if evidence is None:
        return f"{HYPOTHESIS} is assumed, not shown; no study of ours is at hand."
    end = {
        "yes": "That supports using it, as far as the domains of that study are like this corpus.",
        "no": "That speaks against using it, as far as the domains of that study are like this corpus.",
        "inconclusive": "Treat the recommendation as a starting point to be tested, not as a result.",
    }[evidence.supports]
    return f"{HYPOTHESIS}. It is assumed here. {evidence.sentence} {end}"
