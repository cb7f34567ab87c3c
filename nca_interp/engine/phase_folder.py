"""What a phase diagram leaves on disk beside its studies: its record and the tables of its cells (docs/phase.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from nca_interp.analysis.verdicts.sequential import Looks, level
from nca_interp.analysis.verdicts.statistics import ALPHA, holm
from nca_interp.base import UserError
from nca_interp.engine.phase import PhaseState
from nca_interp.files import held, seal, write_record, write_text
from nca_interp.phase import TABLE, Phase
from nca_interp.readers import read_object
from nca_interp.store import completed, differences

RECORD, LOCK = "phase.json", ".phase.lock"
CHANGEABLE = ("budget", "title")
"""Fields of a phase that may change after it has begun: none of them alters a run or a look."""
SHOWN = 12
"""Differences that a message lists."""


def claim(folder: Path, phase: Phase, provenance: dict[str, Any]) -> None:
    """Make `folder` that of this phase, or check that it is. UserError where it is another's, key by key."""
    if folder.exists() and not may_claim(folder):
        raise UserError(f"{folder}: not empty and no phase diagram; choose another --out; nothing was changed")
    with held(folder / LOCK, lambda: f"{folder}: another process is claiming this folder", patience=30):
        asked = phase.model_dump(mode="json")
        if not (folder / RECORD).is_file():
            write_record(folder / RECORD, {"phase": asked, "provenance": provenance})
            return
        record = read_record(folder)
        there = completed(Phase, record["phase"])
        kept = {name: value for name, value in there.items() if name not in CHANGEABLE}
        if found := list(differences(kept, {name: value for name, value in asked.items() if name not in CHANGEABLE})):
            lines = [f"  {line}" for line in found[:SHOWN]] + (
                [f"  and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
            )
            raise UserError(
                f"{folder}: this folder belongs to another phase diagram (only budget and title may change):\n"
                + "\n".join(lines)
                + "\nchoose another --out, or delete the folder; nothing was changed"
            )
        if there != asked:
            write_record(folder / RECORD, {**record, "phase": asked})


def may_claim(folder: Path) -> bool:
    """Whether a folder is a phase diagram, or holds nothing but what a process that claims it is writing."""
    return folder.is_dir() and (
        (folder / RECORD).is_file() or not any(not p.name.startswith((".tmp-", LOCK)) for p in folder.iterdir())
    )


def read_record(folder: Path) -> dict[str, Any]:
    """phase.json; UserError where it is damaged."""
    mend = "delete this file and start the command again that made it (nca-interp train RECIPE): no finished run is trained again"
    return read_object(folder / RECORD, mend, phase=dict, provenance=dict)


def cells_table(state: PhaseState) -> pd.DataFrame:
    """One row a cell: factors and `TABLE`."""
    queue = {one.cell.name: place + 1 for place, one in enumerate(state.next(len(state.cells)))}
    adjusted = holm([one.standing.p for one in state.cells])
    rows = [
        {
            "cell": one.cell.name,
            **dict(zip(state.phase.factors, one.cell.levels, strict=True)),
            "study": one.cell.study,
            "treated": one.cell.treated,
            "control": one.cell.control,
            **{name: getattr(one.standing, name) for name in ("n", "effect", "low", "high", "p", "sign")},
            "p_holm": p_holm,
            "state": one.wants(state.looks),
            "next": queue.get(one.cell.name),
            "next_flops": one.cost,
            "lost": one.lost,
        }
        for one, p_holm in zip(state.cells, adjusted, strict=True)
    ]
    return pd.DataFrame(rows).astype({"next": "Int64"})[["cell", *state.phase.factors, *TABLE[1:]]]


def seeds_table(state: PhaseState) -> pd.DataFrame:
    """One row a finished seed of a cell: its paired difference in nats a token."""
    rows = [(one.cell.name, seed, difference) for one in state.cells for seed, difference in enumerate(one.differences)]
    return pd.DataFrame(rows, columns=["cell", "seed", "difference"])


def write_tables(state: PhaseState) -> pd.DataFrame:
    """Write tables/phase.csv and tables/seeds.csv, and what they rest on into the record; returns the first."""
    folder, looks = state.folder, state.looks
    cells = cells_table(state)
    for name, frame in (("phase", cells), ("seeds", seeds_table(state))):
        write_text(folder / "tables" / f"{name}.csv", frame.to_csv(index=False))
    seal(folder / "tables")
    told = {
        "description": f"phase diagram of {len(state.phase.cells)} cells, {looks.first} to {looks.last} seeds each",
        "unit": "seed",
        "spent": state.spent,
        "tokens": state.tokens,
        "looks": {"first": looks.first, "last": looks.last, "alpha": ALPHA, "level": level(looks)},
        "states": {str(name): int(count) for name, count in cells.state.value_counts().items()},
    }
    write_record(folder / RECORD, {**read_record(folder), **told})
    return cells


def ends_at(looks: Looks) -> str:
    """What the seeds can show, in words."""
    return f"{looks.first} to {looks.last} seeds a cell, a look after each: {level(looks):.2%} a look is {ALPHA:.0%} over all of them"
