"""What a phase diagram is: cells, each a regime against a control in one study, that get further seeds where their sign is uncertain.

A recipe in `runs/` returns one instead of a `Study`. Cells with the same network stand in one study, so that runs which several of
them need (scratch with the same embeddings, the synthetic stage of all swap policies) are trained once. docs/phase.md says how.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field, model_validator

from nca_interp.base import Frozen
from nca_interp.config import Study, suggest

TABLE = (
    "cell", "study", "treated", "control", "n", "effect", "low", "high", "p", "p_holm", "sign", "state", "next", "next_flops", "lost",
)  # fmt: skip
"""Columns of the table of cells beside the factors (docs/phase.md)."""
FEWEST_SEEDS = 2
"""Below which there is no spread, so no sign."""


class Cell(Frozen):
    """One point of the diagram: a comparison, treated minus control, on the phase's domain."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=80)
    """Short name, used in the table."""
    study: str
    """Study that holds both regimes."""
    treated: str
    """Regime whose final validation loss is taken minus that of the control."""
    control: str
    """The other regime, usually scratch with the same embeddings."""
    levels: tuple[str, ...]
    """Level of each factor, in the order of `Phase.factors`, as tables and maps show it."""


class Phase(Frozen):
    """A grid of cells over several factors; a recipe returns one."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=40)
    """Folder name under runs/out/; every study has a folder in it."""
    title: str
    """Headline of the page."""
    factors: tuple[str, ...]
    """What varies, in words. On the page the last is the x axis of every map, the two before it the rows; each combination of the
    others has a map of its own."""
    studies: tuple[Study, ...]
    """A network each. Their `seeds` are the most that a cell can get, taken in their order."""
    cells: tuple[Cell, ...]
    """The points of the grid."""
    domain: str
    """Domain of all comparisons; every study has it."""
    first_seeds: int = Field(default=3, ge=FEWEST_SEEDS, le=1000)
    """Seeds that every cell gets, whatever they show."""
    budget: float = Field(gt=0, le=1e30)
    """FLOPs of training (6 a parameter and token, and attention: engine/cost.py) that may be spent in all. Only this may change in
    a phase that has begun: more budget goes on where it stopped."""

    @model_validator(mode="after")
    def _fits(self) -> Phase:
        _once("studies", [study.name for study in self.studies])
        _once("cells", [cell.name for cell in self.cells])
        _once("factors", list(self.factors))
        if taken := sorted(set(self.factors) & set(TABLE)):
            raise ValueError(f"factors: {taken[0]!r} is a column of the table already; legal: any other name")
        for study in self.studies:
            study.domain(self.domain)
            if self.first_seeds > len(study.seeds):
                raise ValueError(
                    f"first_seeds: {self.first_seeds}; legal: {FEWEST_SEEDS} to {len(study.seeds)} (the seeds of study {study.name})"
                )
            if len(study.seeds) != len(self.studies[0].seeds):
                raise ValueError(f"studies.{study.name}.seeds: {len(study.seeds)}; legal: as many in every study")
        studies = {study.name: {r.name for r in study.regimes} for study in self.studies}
        for cell in self.cells:
            if cell.study not in studies:
                raise ValueError(f"cells.{cell.name}.study: unknown {cell.study!r}{suggest(cell.study, studies)}")
            for name in (cell.treated, cell.control):
                if name not in studies[cell.study]:
                    raise ValueError(f"cells.{cell.name}: unknown regime {name!r}{suggest(name, studies[cell.study])}")
            if len(cell.levels) != len(self.factors):
                raise ValueError(f"cells.{cell.name}.levels: {len(cell.levels)}; legal: one for each of the factors")
        if len({cell.levels for cell in self.cells}) < len(self.cells):
            raise ValueError("cells: two have the same levels; legal: each combination once")
        for study in self.studies:
            for regime in study.regimes:
                if regime.runs is not None:
                    raise ValueError(
                        f"studies.{study.name}.regimes.{regime.name}.runs: legal: null, seeds are given by the phase"
                    )
        return self

    def study(self, name: str) -> Study:
        """One of the studies."""
        return next(study for study in self.studies if study.name == name)

    @property
    def last_seed(self) -> int:
        """The most seeds that a cell can get."""
        return len(self.studies[0].seeds)


class Maps(NamedTuple):
    """Which factors are where on the page."""

    panels: tuple[str, ...]
    """A map for each combination of their levels."""
    rows: tuple[str, ...]
    x: str


def maps_of(factors: tuple[str, ...]) -> Maps:
    """The last factor is x, up to two before it are rows, the others panels."""
    return Maps(factors[:-3], factors[-3:-1], factors[-1])


def _once(field: str, names: list[str]) -> None:
    if not names:
        raise ValueError(f"{field}: at least one is needed")
    if len(set(names)) < len(names):
        raise ValueError(f"{field}: names must differ, got {', '.join(names)}")
