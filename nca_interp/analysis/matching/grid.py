"""The grid of NCA distributions that a corpus is compared with: its cells, and what their rows measure.

A cell's numbers are a pure function of its specification, so they are computed once: those of the default grid come
with the package (match_grid.json), others are kept in the user's cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nca_interp.analysis.complexity.calibration import LENGTHS, NAMES, Floats, Footing, column_means, rows_of, vectors
from nca_interp.base import UserError, digest
from nca_interp.config import suggest
from nca_interp.data.specs import NcaSpec
from nca_interp.data.tokens import GENERATOR_VERSION
from nca_interp.overrides import with_overrides
from nca_interp.readers import read_object
from nca_interp.store import read_json, write_record
from nca_interp.sweep import band_of

STATES, DTS = (2, 4, 6, 8, 10, 15), (1, 2, 4)
LEVELS = 5
"""Default bands: equal parts of the gzip ratio's reach, from constant to iid uniform, of each alphabet."""
ROWS, SEED, SPLIT = 192, 0, "match"
"""Rows of a cell: each has a rule of its own, and the split's rules are in no training set."""
VERSION = "1"
"""Changes with the meaning of a coordinate."""
DIGITS = 6
FILE = Path(__file__).with_name("grid.json")
FIELDS = tuple(f for f in NcaSpec.model_fields if f not in ("kind", "where", "n_rules", "n_trajectories", "control"))
Report = Callable[[str, float], None]


class Cell(NamedTuple):
    """One NCA distribution."""

    spec: NcaSpec
    level: str
    """Its band in words: "40-60 %" of the alphabet's reach for a default band, else the band itself."""

    @property
    def name(self) -> str:
        """For tables."""
        own = self.spec.model_dump(mode="json", exclude_defaults=True, exclude={"n_states", "band", "dt"})
        rest = "".join(f", {key} {value}" for key, value in own.items())
        return f"{self.spec.n_states} states, {self.level}, dT {self.spec.dt}{rest}"


class Stats(NamedTuple):
    """What the rows of a cell measure on one footing."""

    mean: Floats
    """[coordinates]; NaN: does not exist there."""
    cov: Floats
    """[coordinates, coordinates] between rows."""
    acceptance: float
    """Share of random rules that lie in the band."""


class Grid(NamedTuple):
    """Cells of a grid on one footing."""

    footing: Footing
    cells: list[Cell]
    mean: Floats
    """[cells, coordinates]"""
    cov: Floats
    """[cells, coordinates, coordinates]"""
    acceptance: Floats
    """[cells]"""
    reference: Floats
    """[coordinates, coordinates] covariance of the reference population, see `reference_cells`."""
    unreachable: list[tuple[Cell, str]]
    """Cells whose band no random rule reaches, and what was said of each."""


def default_bands(spec: NcaSpec) -> list[tuple[str, tuple[float, float]]]:
    """(level, band) pairs: the `LEVELS` equal parts of the reach of the gzip ratio of this alphabet and serialisation."""
    bands = [band_of(spec, (i / LEVELS, (i + 1) / LEVELS)) for i in range(LEVELS)]
    step = 100 // LEVELS
    return [(f"{i * step}-{(i + 1) * step} %", band) for i, band in enumerate(bands)]


def make_cells(axes: Iterable[str] = ()) -> list[Cell]:
    """Every combination of the grid's axes: the default ones, replaced or extended by "field=value,value" strings.

    Values of `band` are lo:hi gzip ratios. UserError for an unknown field, a value out of range or an empty axis.
    """
    chosen: dict[str, list[str]] = {"n_states": [str(n) for n in STATES], "dt": [str(d) for d in DTS]}
    for axis in axes:
        field, separator, values = axis.partition("=")
        field = field.strip()
        parts = [v.strip() for v in values.split(",") if v.strip()]
        if not separator or not parts:
            raise UserError(
                f"--grid {axis}: expected field=value,value; for example n_states=2,10 or band=0.3:0.4,0.5:1"
            )
        if field not in FIELDS:
            raise UserError(f"--grid {axis}: unknown field {field!r}{suggest(field, FIELDS)}")
        chosen[field] = [_toml_band(axis, v) if field == "band" else v for v in parts]
    cells = []
    for combination in product(*chosen.values()):
        try:
            spec = with_overrides(NcaSpec(), [f"{f}={v}" for f, v in zip(chosen, combination, strict=True)])
        except UserError as error:
            raise UserError(f"--grid: {error}") from None
        if "band" in chosen:
            cells.append(Cell(spec, _in_words(spec.band)))
        else:
            cells += [Cell(spec.model_copy(update={"band": band}), level) for level, band in default_bands(spec)]
    return cells


def _toml_band(axis: str, value: str) -> str:
    if value == "null":
        return value
    low, colon, high = value.partition(":")
    if not (colon and low and high):
        raise UserError(f"--grid {axis}: {value!r} is no band; legal: lo:hi, for example 0.3:0.4, or null")
    return f"[{low},{high}]"


def _in_words(band: tuple[float, float] | None) -> str:
    return "no band" if band is None else f"band {band[0]:g}-{band[1]:g}"


def reference_cells() -> list[NcaSpec]:
    """The population whose spread is the unit of distance: random rules of every default alphabet, without a band."""
    return [NcaSpec(n_states=n, band=None) for n in STATES]


def load_grid(cells: Sequence[Cell], footing: Footing, report: Report, threads: int | None = None) -> Grid:
    """The cells' numbers: from the package or the cache, the rest computed now (seconds each) and cached."""
    reference = reference_cells()
    wanted = {key(spec, footing): spec for spec in (*reference, *(c.spec for c in cells))}
    found = {name: entry for name in wanted if (entry := known(name)) is not None}
    missing = [name for name in wanted if name not in found]
    for i, name in enumerate(missing):
        report(f"measuring {len(missing)} cells of the grid", i / len(missing))
        found[name] = measure(wanted[name], footing, threads)
        write_record(_cache() / f"{name}.json", found[name])
    mine = [(cell, found[key(cell.spec, footing)]) for cell in cells]
    reached = [(cell, _stats(entry)) for cell, entry in mine if "unreachable" not in entry]
    if not reached:
        raise UserError(f"--grid: no cell of it can be reached; {mine[0][1]['unreachable']}")
    population = [_stats(found[key(spec, footing)]) for spec in reference]
    between = np.cov(np.array([s.mean for s in population]).T, ddof=0)
    return Grid(
        footing,
        [cell for cell, _ in reached],
        np.array([s.mean for _, s in reached]),
        np.array([s.cov for _, s in reached]),
        np.array([s.acceptance for _, s in reached]),
        np.mean([s.cov for s in population], axis=0) + between,
        [(cell, entry["unreachable"]) for cell, entry in mine if "unreachable" in entry],
    )


def _stats(entry: dict[str, Any]) -> Stats:
    # None becomes NaN
    return Stats(np.array(entry["mean"], float), np.array(entry["cov"], float), entry["acceptance"])


def key(spec: NcaSpec, footing: Footing) -> str:
    """Name of a cell's numbers: changes with everything that decides them."""
    made = {"rows": ROWS, "length": LENGTHS[footing], "seed": SEED, "split": SPLIT, "version": VERSION}
    told = spec.model_dump(mode="json", exclude_defaults=True)
    return digest({"spec": told, "footing": footing, "generator": GENERATOR_VERSION, **made}, 16)


def measure(spec: NcaSpec, footing: Footing, threads: int | None = None) -> dict[str, Any]:
    """The stored numbers of a cell: mean and covariance of its rows' coordinates, or why it cannot be reached."""
    told = {"footing": footing, "spec": spec.model_dump(mode="json", exclude_defaults=True)}
    try:
        rows = rows_of(spec, footing, ROWS, SEED, SPLIT, threads)
    except UserError as error:
        if "out of reach" not in str(error):
            raise
        return {**told, "unreachable": str(error)}
    values = vectors(rows)
    mean = column_means(values)
    filled = np.where(np.isnan(values), mean, values)
    found = rows.sample.found or {}
    return {
        **told, "mean": _plain(mean), "cov": _plain(np.cov(filled.T)), "acceptance": _plain(found.get("acceptance_rate", 1.0)),
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """Rounded numbers and lists of them; NaN becomes None."""
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value]
    return None if np.isnan(value) else float(f"{float(value):.{DIGITS}g}")


def known(name: str) -> dict[str, Any] | None:
    """The numbers stored under a key, or None."""
    if name in (packaged := shipped()):
        return dict(packaged[name])
    path = _cache() / f"{name}.json"
    try:
        return read_object(path)
    except UserError:  # not there, or damaged: measured again
        return None


@cache
def shipped() -> dict[str, Any]:
    """The numbers that come with the package, by key; empty where they belong to another version of the coordinates."""
    if not FILE.is_file():
        return {}
    stored = read_json(FILE)
    return stored["cells"] if stored["coordinates"] == list(NAMES) else {}


def _cache() -> Path:
    import platformdirs

    return Path(os.environ.get("NCA_INTERP_CACHE") or platformdirs.user_cache_dir("nca-interp")) / "match"
