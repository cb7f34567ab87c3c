"""How far a corpus is from the cells of a grid, and how far that may be off.

Distance: mean over the matched coordinates (footing.py) of |corpus - cell| / spread, where spread is the standard
deviation between random rules of all alphabets; absolute, so that one measure in which a corpus is like no automaton
does not outvote the others. Uncertainty: documents are resampled as whole groups, and the cells' means are redrawn from
the normal distribution of their own sampling error.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from nca_interp.analysis.complexity.calibration import LENGTHS, Floats, Footing, Rows, matched
from nca_interp.analysis.matching.grid import ROWS, Grid
from nca_interp.base import UserError

Kind = Literal["absolute", "rms", "whitened"]
MIN_GROUPS = 16
"""Fewest documents (rules, strings) that a bootstrap is drawn from."""


class Source(NamedTuple):
    """A corpus and a grid on one footing."""

    rows: Rows
    values: Floats
    """[n, coordinates]"""
    grid: Grid

    @property
    def columns(self) -> list[int]:
        """Coordinates of the distance: those of the footing that exist for the corpus and for every cell."""
        known = np.asarray(~np.isnan(self.values).all(axis=0) & ~np.isnan(self.grid.mean).any(axis=0))
        return [i for i in matched(self.grid.footing) if known[i]]


def distances(
    x: Floats, grid: Grid, columns: list[int], kind: Kind = "absolute", cells: Floats | None = None
) -> Floats:
    """Distance [..., cells] of points x[..., coordinates] from the grid's cells, or from redrawn `cells`
    [..., cells, coordinates]."""
    centre = grid.mean if cells is None else cells
    gap = centre[..., columns] - x[..., None, columns]
    spread = np.sqrt(np.diag(grid.reference)[columns])
    z = gap / spread
    if kind == "whitened":
        # of the correlations, whose scale is known: coordinates that follow from others count once
        weight = np.linalg.pinv(
            grid.reference[np.ix_(columns, columns)] / np.outer(spread, spread), 1e-10, hermitian=True
        )
        return np.asarray(np.sqrt(np.einsum("...i,ij,...j->...", z, weight / len(columns), z)))
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


def check(rows: Rows, name: str, footing: Footing) -> None:
    """UserError where there are too few documents to resample."""
    if (n := len(set(rows.groups))) < MIN_GROUPS:
        found = [f"{n} {what}{'' if n == 1 else 's'}" for n, what in ((len(rows.groups), "row"), (n, "document"))]
        raise UserError(f"source: {name!r} is too small: it gives {found[0]} from {found[1]}; {need(footing)}")


def need(footing: Footing) -> str:
    """All that a corpus must hold, in words."""
    length = LENGTHS[footing]
    size = f", about {MIN_GROUPS * length // 1000} kB of text in all" if footing == "symbols" else ""
    return (
        f"match needs at least {MIN_GROUPS} rows of {length:,} {footing} from as many different documents{size}, or it cannot say "
        "how sure it is (short documents are joined; a .txt file is cut into documents of 4 kB and more)"
    )
