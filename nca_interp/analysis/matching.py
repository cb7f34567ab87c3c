"""Which NCA distribution is nearest to a corpus, how sure that is, and how much of it hangs on the way of measuring.

Distance: mean over the matched coordinates (footing.py) of |corpus - cell| / spread, where spread is the standard
deviation between random rules of all alphabets; absolute, so that one measure in which a corpus is like no automaton
does not outvote the others. Uncertainty: documents are resampled as whole groups, and the
cells' means are redrawn from the normal distribution of their own sampling error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from nca_interp.analysis.footing import COORDINATES, LENGTHS, NAMES, Floats, Footing, Rows, column_means, matched, vectors
from nca_interp.analysis.match_grid import ROWS, Cell, Grid
from nca_interp.base import UserError

Kind = Literal["absolute", "rms", "whitened"]
Verdict = Literal["clear", "inconclusive", "not varied"]
MIN_GROUPS = 16
"""Fewest documents (rules, strings) that a bootstrap is drawn from."""
RESAMPLES = 2000
LEVEL = 0.95
RIVAL = 0.05
"""A cell cannot be told apart from the nearest one if it is nearer in at least this share of the resamples."""
AGREE = 2 / 3
"""Share of the readings that must agree before a setting is called clear."""
AXES = ("level", "n_states", "dt")
CELLS = [
    "cell", "n_states", "level", "band_low", "band_high", "dt", "distance", "low", "high", "share", "rank", "rank_low",
    "rank_high", "tied", "acceptance",
]  # fmt: skip


class Source(NamedTuple):
    """A corpus and a grid on one footing."""

    rows: Rows
    values: Floats
    """[n, coordinates]"""
    grid: Grid

    @property
    def columns(self) -> list[int]:
        """Coordinates of the distance: those of the footing that exist for the corpus and for every cell."""
        known = ~np.isnan(self.values).all(axis=0) & ~np.isnan(self.grid.mean).any(axis=0)
        return [i for i in matched(self.grid.footing) if known[i]]


class Reading(NamedTuple):
    """The nearest cell under one way of measuring."""

    reading: str
    changed: str
    """What differs from the recommendation."""
    cell: Cell
    distance: float


class Setting(NamedTuple):
    """One recommended setting, and how sure it is."""

    setting: str
    value: str
    verdict: Verdict
    """Not varied: the grid has no other value."""
    share: float
    """Share of the resamples whose nearest cell has this value."""
    agree: int
    """Readings whose nearest cell has it, of `readings`."""
    readings: int
    others: tuple[str, ...]
    """Other values that cannot be excluded: of tied cells and of other readings."""


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


def distances(x: Floats, grid: Grid, columns: list[int], kind: Kind = "absolute", cells: Floats | None = None) -> Floats:
    """Distance [..., cells] of points x[..., coordinates] from the grid's cells, or from redrawn `cells`
    [..., cells, coordinates]."""
    centre = grid.mean if cells is None else cells
    gap = centre[..., columns] - x[..., None, columns]
    if kind == "whitened":
        weight = np.linalg.inv(grid.reference[np.ix_(columns, columns)]) / len(columns)
        return np.asarray(np.sqrt(np.einsum("...i,ij,...j->...", gap, weight, gap)))
    z = gap / np.sqrt(np.diag(grid.reference)[columns])
    return np.asarray(np.sqrt((z**2).mean(axis=-1)) if kind == "rms" else np.abs(z).mean(axis=-1))


def resampled_means(values: Floats, groups: list[str], n: int, rng: np.random.Generator) -> Floats:
    """Means [n, coordinates] of rows whose groups are drawn with replacement; missing values are left out."""
    codes = np.unique(groups, return_inverse=True)[1]
    member = (codes == np.arange(codes.max() + 1)[:, None]).astype(float)
    known = ~np.isnan(values)
    sums, counts = member @ np.where(known, values, 0.0), member @ known
    weights = rng.multinomial(len(member), np.full(len(member), 1 / len(member)), size=n).astype(float)
    with np.errstate(invalid="ignore"):
        return np.asarray((weights @ sums) / (weights @ counts))


def redrawn_cells(grid: Grid, columns: list[int], n: int, rng: np.random.Generator) -> Floats:
    """Cell means [n, cells, coordinates] as other rules of the same cells would have given them."""
    pick = np.ix_(range(len(grid.cells)), columns, columns)
    values, vectors_ = np.linalg.eigh(grid.cov[pick] / ROWS)
    root = vectors_ * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    drawn = np.repeat(grid.mean[None], n, axis=0)
    drawn[:, :, columns] += np.einsum("cij,ncj->nci", root, rng.standard_normal((n, len(grid.cells), len(columns))))
    return drawn


def check(rows: Rows, name: str) -> None:
    """UserError where there are too few documents to resample."""
    n = len(set(rows.groups))
    if n < MIN_GROUPS:
        length = rows.symbols.shape[1]
        raise UserError(
            f"source: {name!r} gives {n} different documents in {len(rows.groups)} rows of {length:,} symbols; match needs "
            f"at least {MIN_GROUPS} of each (about {MIN_GROUPS * length // 1000} kB of text), or it cannot say how sure it is"
        )


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
    spread = distances(means, grid, columns, cells=redrawn_cells(grid, columns, resamples, rng))
    best = int(found.argmin())
    cells = _cells(grid, found, spread, best)
    readings = tuple(_readings(main, other, point))
    z = np.diag(grid.cov[best])[columns] / np.diag(grid.reference)[columns]
    return Match(
        label=label, footing=grid.footing, alphabet=main.rows.alphabet, n_rows=len(main.values),
        n_groups=len(set(main.rows.groups)), description=main.rows.sample.description,
        ordered=tuple(grid.cells[i] for i in found.argsort(kind="stable")), own_spread=float(math.sqrt(2 / math.pi) * np.sqrt(z).mean()),
        coordinates=_coordinates(main, point, means, best), cells=cells, readings=readings,
        settings=tuple(_setting(axis, grid, spread, cells, best, readings) for axis in AXES),
        unreachable=tuple(grid.unreachable), notes=tuple(_notes(main, other)), resamples=resamples, seed=seed,
    )  # fmt: skip


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
        return f"does not exist for this corpus ({main.rows.alphabet} symbols in rows of {LENGTHS[main.grid.footing]:,})"
    if i in matched(main.grid.footing):
        return "does not exist for every cell"
    return "shown, not matched"


def _readings(main: Source, other: Source | None, point: Floats) -> Iterator[Reading]:
    """The recommendation and its variants, each changed in one respect."""
    columns, grid = main.columns, main.grid

    def reading(name: str, changed: str, source: Source, x: Floats, columns: list[int], kind: Kind = "absolute") -> Reading:
        d = distances(x, source.grid, columns, kind)
        return Reading(name, changed, source.grid.cells[int(d.argmin())], float(d.min()))

    yield reading("recommended", "nothing", main, point, columns)
    if other is not None and other.columns:
        yield reading(other.grid.footing, f"measured on {other.grid.footing}", other, column_means(other.values), other.columns)
    if grid.footing == "symbols" and main.rows.sample.tokenizer is not None:
        rows = main.rows._replace(alphabet=256)
        wide = main._replace(rows=rows, values=vectors(rows))
        yield reading("256 bytes", "an alphabet of all 256 bytes, not of those in use", wide, column_means(wide.values), wide.columns)
    if len(columns) > 1:
        yield reading("rms", "root mean square instead of mean absolute difference", main, point, columns, "rms")
        yield reading("whitened", "differences in units of their joint covariance", main, point, columns, "whitened")
        for i in columns:
            yield reading(f"without {NAMES[i]}", "one measure less", main, point, [c for c in columns if c != i])
    extra = [i for i in range(len(NAMES)) if not math.isnan(point[i]) and not np.isnan(grid.mean[:, i]).any()]
    if extra != columns:
        yield reading("all measures", "the measures that are only shown count as well", main, point, extra)


def _setting(
    axis: str, grid: Grid, spread: Floats, cells: pd.DataFrame, best: int, readings: tuple[Reading, ...]
) -> Setting:
    """Clear: the same value in nearly all resamples, in most readings, and on the other footing."""
    values = np.array([_value(cell, axis) for cell in grid.cells])
    mine = str(values[best])
    share = float((values[spread.argmin(axis=1)] == mine).mean())
    told = [_value(r.cell, axis) for r in readings]
    agree = told.count(mine)
    footings = [_value(r.cell, axis) for r in readings if r.reading in LENGTHS]
    sure = share >= LEVEL and agree >= AGREE * len(told) and all(v == mine for v in footings)
    tied = [str(v) for v in cells[cells.tied][axis]]
    others = tuple(v for v in dict.fromkeys([*tied, *told]) if v != mine)
    verdict: Verdict = "not varied" if len(set(values)) == 1 else "clear" if sure else "inconclusive"
    return Setting(axis, mine, verdict, share, agree, len(told), others)


def _value(cell: Cell, axis: str) -> str:
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
