"""Which NCA distribution is nearest to a corpus, how sure that is, and how much of it hangs on the way of measuring."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from nca_interp.analysis.complexity.calibration import (
    COORDINATES,
    LENGTHS,
    NAMES,
    Floats,
    Footing,
    column_means,
    matched,
    vectors,
)
from nca_interp.analysis.matching.distance import Kind, Source, distances, redrawn_cells, resampled_means
from nca_interp.analysis.matching.grid import FIELDS, Cell, Grid
from nca_interp.base import UserError

Edge = Literal["below", "above"]
Verdict = Literal["clear", "inconclusive", "not varied"]
RESAMPLES = 2000
LEVEL = 0.95
RIVAL = 0.05
"""A cell cannot be told apart from the nearest one if it is nearer in at least this share of the resamples."""
AGREE = 2 / 3
"""Share of the changed readings that must agree before a setting is called clear."""
AXES = ("level", "n_states", "dt")
"""Settings that are always judged; others where the grid varies them."""
SHOWN_AS = {"level": "complexity", "n_states": "states", "dt": "dT"}
CELLS = [
    "cell", "n_states", "level", "band_low", "band_high", "dt", "distance", "low", "high", "share", "rank", "rank_low",
    "rank_high", "tied", "acceptance",
]  # fmt: skip


class Reading(NamedTuple):
    """The nearest cell under one way of measuring."""

    reading: str
    changed: str
    """What differs from the recommendation."""
    cell: Cell
    distance: float

    @property
    def counts(self) -> str:
        """What it counts as when a setting is called clear."""
        if self.reading in LENGTHS:
            return "a vote, and must agree"
        return "a vote" if self.reading != "recommended" else "the recommendation"


class Failure(NamedTuple):
    """A condition of "clear" that a setting does not meet."""

    condition: Literal["resamples", "readings", "footing", "edge"]
    words: str


class Setting(NamedTuple):
    """One recommended setting, and how sure it is."""

    setting: str
    value: str
    verdict: Verdict
    """Not varied: the grid has no other value."""
    share: float
    """Share of the resamples whose nearest cell has this value."""
    agree: int
    """Changed readings whose nearest cell has it, of `readings`."""
    readings: int
    failed: tuple[Failure, ...]
    """Why it is not clear; empty where it is clear or not varied."""
    others: tuple[str, ...]
    """Other values that cannot be excluded: of tied cells and of other readings."""

    @property
    def name(self) -> str:
        """What it is called wherever it is shown."""
        return SHOWN_AS.get(self.setting, self.setting)


@dataclass(frozen=True)
class Match:
    """Everything that `match` found."""

    label: str
    footing: Footing
    alphabet: int
    """Symbols in use."""
    n_rows: int
    n_groups: int
    description: str
    ordered: tuple[Cell, ...]
    """The cells, nearest first."""
    own_spread: float
    """Mean distance of the nearest cell's own rows from its mean, as if they were normal; a corpus farther off than this
    looks like none of them."""
    coordinates: pd.DataFrame
    """coordinate, matched, corpus, low, high (95 % over documents), nearest, difference (in units of spread), spread, note"""
    cells: pd.DataFrame
    """A row a cell, in the same order; see `CELLS`."""
    readings: tuple[Reading, ...]
    settings: tuple[Setting, ...]
    edge: Edge | None
    """The corpus lies below (above) every cell in every measure of the distance, in nearly all resamples."""
    unreachable: tuple[tuple[Cell, str], ...]
    notes: tuple[str, ...]
    resamples: int
    seed: int

    @property
    def nearest(self) -> Cell:
        """The recommendation."""
        return self.ordered[0]

    @property
    def distance(self) -> float:
        """Of the nearest cell, in units of spread."""
        return float(self.cells.distance.iloc[0])

    @property
    def resembles(self) -> bool:
        """Whether the corpus lies within the spread of the nearest cell's own rules."""
        return self.distance <= self.own_spread

    @property
    def tied(self) -> list[str]:
        """Names of the cells that cannot be told apart from the nearest, itself first."""
        return list(self.cells[self.cells.tied].cell)


def match(label: str, main: Source, other: Source | None, *, resamples: int = RESAMPLES, seed: int = 0) -> Match:
    """Compare a corpus with a grid; `other` is the same on the other footing, which gives one more reading.

    Raises UserError where no coordinate exists for both.
    """
    columns, grid = main.columns, main.grid
    if not columns:
        raise UserError(f"source: {label!r}: none of {', '.join(NAMES)} exists for it; use a longer or a larger sample")
    rng = np.random.default_rng(seed)
    point = column_means(main.values)
    found = distances(point, grid, columns)
    means = resampled_means(main.values, main.rows.groups, resamples, rng)
    redrawn = redrawn_cells(grid, columns, resamples, rng)
    spread = distances(means, grid, columns, cells=redrawn)
    edge = _edge(means[:, columns], redrawn[..., columns])
    best = int(found.argmin())
    cells = _cells(grid, found, spread, best)
    readings = tuple(_readings(main, other, point))
    ordered = tuple(grid.cells[i] for i in found.argsort(kind="stable"))
    tied = [cell for cell, on in zip(ordered, cells.tied, strict=True) if on]
    z = np.diag(grid.cov[best])[columns] / np.diag(grid.reference)[columns]
    return Match(
        label=label, footing=grid.footing, alphabet=main.rows.alphabet, n_rows=len(main.values),
        n_groups=len(set(main.rows.groups)), description=main.rows.sample.description,
        ordered=ordered, own_spread=float(math.sqrt(2 / math.pi) * np.sqrt(z).mean()),
        coordinates=_coordinates(main, point, means, best), cells=cells, readings=readings,
        settings=tuple(_setting(axis, grid, spread, tied, best, readings, edge) for axis in _axes(grid)),
        edge=edge, unreachable=tuple(grid.unreachable), notes=tuple(_notes(main, other)), resamples=resamples, seed=seed,
    )  # fmt: skip


def _edge(corpus: Floats, cells: Floats) -> Edge | None:
    """Of the resamples of a corpus [n, measures] and of the cells [n, cells, measures]."""
    if (corpus < cells.min(axis=1)).all(axis=1).mean() >= LEVEL:
        return "below"
    return "above" if (corpus > cells.max(axis=1)).all(axis=1).mean() >= LEVEL else None


def _cells(grid: Grid, found: Floats, spread: Floats, best: int) -> pd.DataFrame:
    ranks = spread.argsort(axis=1).argsort(axis=1) + 1
    edges = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(spread, edges, axis=0)
    rank_low, rank_high = np.quantile(ranks, edges, axis=0, method="nearest").astype(int)
    bands = [cell.spec.band or (math.nan, math.nan) for cell in grid.cells]
    tied = (spread < spread[:, [best]]).mean(axis=0) >= RIVAL
    tied[best] = True
    table = pd.DataFrame({
        "cell": [cell.name for cell in grid.cells],
        "n_states": [cell.spec.n_states for cell in grid.cells],
        "level": [cell.level for cell in grid.cells],
        "band_low": [band[0] for band in bands],
        "band_high": [band[1] for band in bands],
        "dt": [cell.spec.dt for cell in grid.cells],
        "distance": found, "low": low, "high": high,
        "share": (ranks == 1).mean(axis=0),
        "rank": found.argsort().argsort() + 1, "rank_low": rank_low, "rank_high": rank_high,
        "tied": tied, "acceptance": grid.acceptance,
    })  # fmt: skip
    return table.sort_values("distance", kind="stable", ignore_index=True)[CELLS]


def _coordinates(main: Source, point: Floats, means: Floats, best: int) -> pd.DataFrame:
    edges = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    unit = np.sqrt(np.diag(main.grid.reference))
    rows = []
    for i, coordinate in enumerate(COORDINATES):
        known = not math.isnan(point[i])
        low, high = np.nanquantile(means[:, i], edges) if known else (math.nan, math.nan)
        near = main.grid.mean[best, i]
        on = i in main.columns
        rows.append({
            "coordinate": coordinate.name, "matched": on, "corpus": point[i], "low": low, "high": high, "nearest": near,
            "difference": (point[i] - near) / unit[i], "spread": unit[i], "note": "" if on else _why(main, i),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _why(main: Source, i: int) -> str:
    """Why a coordinate does not count."""
    if np.isnan(main.values[:, i]).all():
        return (
            f"does not exist for this corpus ({main.rows.alphabet} symbols in rows of {LENGTHS[main.grid.footing]:,})"
        )
    if i in matched(main.grid.footing):
        return "does not exist for every cell"
    return "shown, not matched"


def _readings(main: Source, other: Source | None, point: Floats) -> Iterator[Reading]:
    """The recommendation and its variants, each changed in one respect."""
    columns, grid = main.columns, main.grid

    def reading(
        name: str, changed: str, source: Source, x: Floats, columns: list[int], kind: Kind = "absolute"
    ) -> Reading:
        d = distances(x, source.grid, columns, kind)
        return Reading(name, changed, source.grid.cells[int(d.argmin())], float(d.min()))

    yield reading("recommended", "nothing", main, point, columns)
    if other is not None and other.columns:
        yield reading(
            other.grid.footing, f"measured on {other.grid.footing}", other, column_means(other.values), other.columns
        )
    if grid.footing == "symbols" and main.rows.sample.tokenizer is not None:
        rows = main.rows._replace(alphabet=256)
        wide = main._replace(rows=rows, values=vectors(rows))
        yield reading(
            "256 bytes",
            "all 256 bytes as symbols, not those in use",
            wide,
            column_means(wide.values),
            wide.columns,
        )
    if len(columns) > 1:
        yield reading("rms", "root mean square instead of mean absolute difference", main, point, columns, "rms")
        yield reading("whitened", "differences in units of their joint covariance", main, point, columns, "whitened")
        for i in columns:
            yield reading(f"without {NAMES[i]}", f"without {NAMES[i]}", main, point, [c for c in columns if c != i])
    extra = [i for i in range(len(NAMES)) if not math.isnan(point[i]) and not np.isnan(grid.mean[:, i]).any()]
    if extra != columns:
        yield reading("all measures", "the measures that are shown only count too", main, point, extra)


def _setting(
    axis: str,
    grid: Grid,
    spread: Floats,
    tied_cells: list[Cell],
    best: int,
    readings: tuple[Reading, ...],
    edge: Edge | None,
) -> Setting:
    """Judge one setting by the resamples and by the readings that change something."""
    values = np.array([value_of(cell, axis) for cell in grid.cells])
    mine = str(values[best])
    share = float((values[spread.argmin(axis=1)] == mine).mean())
    told = {r.reading: value_of(r.cell, axis) for r in readings[1:]}
    varied = len(set(values)) > 1
    failed = tuple(failures(mine, share, told, edge if axis != "level" else None)) if varied else ()
    tied = [value_of(cell, axis) for cell in tied_cells]
    others = tuple(v for v in dict.fromkeys([*tied, *told.values()]) if v != mine)
    verdict: Verdict = "not varied" if not varied else "inconclusive" if failed else "clear"
    return Setting(axis, mine, verdict, share, list(told.values()).count(mine), len(told), failed, others)


def failures(value: str, share: float, told: dict[str, str], edge: Edge | None = None) -> Iterator[Failure]:
    """What keeps a value from being clear, the most severe first: beyond the grid only complexity can be told, the other footing says otherwise, too few resamples,
    too few readings. `told` is the value under each changed reading, by its name."""
    if edge is not None:
        yield Failure("edge", f"the corpus lies {edge} the whole grid, where only complexity can be told")
    for footing in LENGTHS:
        if told.get(footing, value) != value:
            yield Failure("footing", f"measured on {footing} it is {told[footing]}")
    if share < LEVEL:
        yield Failure("resamples", f"nearest in {100 * share:.4g} % of the resamples (clear from {100 * LEVEL:.0f} %)")
    agree = list(told.values()).count(value)
    if agree < AGREE * len(told):
        yield Failure(
            "readings", f"the choice of {agree} of {len(told)} other ways of measuring (clear from {100 * AGREE:.0f} %)"
        )


def _axes(grid: Grid) -> list[str]:
    """The settings that are judged."""
    fields = [f for f in FIELDS if f not in ("band", *AXES)]
    return [*AXES, *(f for f in fields if len({getattr(cell.spec, f) for cell in grid.cells}) > 1)]


def value_of(cell: Cell, axis: str) -> str:
    """Of one setting, as text."""
    return cell.level if axis == "level" else str(getattr(cell.spec, axis))


def _notes(main: Source, other: Source | None) -> Iterator[str]:
    left = [NAMES[i] for i in matched(main.grid.footing) if i not in main.columns]
    if left:
        yield f"left out of the distance, because it does not exist here: {', '.join(left)}"
    if other is None:
        yield "the other footing could not be measured: the corpus is too short for it"
    if main.grid.unreachable:
        names = ", ".join(cell.name for cell, _ in main.grid.unreachable)
        yield f"out of reach of random rules, so not compared: {names}"
