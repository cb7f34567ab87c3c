"""Every measure of one sequence by its name: what filters select rules on and what `analysis.complexity` reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nca_interp.data.complexity import measures
from nca_interp.data.complexity.measures import Rows
from nca_interp.data.nca import dynamics
from nca_interp.data.nca.dynamics import OWN, ROW
from nca_interp.data.nca.rules import STENCIL, Cells
from nca_interp.data.rng import U64
from nca_interp.data.specs import NcaSpec

MI_LAGS = 64
"""`mutual_information` is the mean over lags 1 to this (to a quarter of the row where that is shorter)."""


class Measure(NamedTuple):
    """What a number on a source is; the source and the pitfalls of each are in docs/measures.md."""

    name: str
    unit: str
    low: float
    """Smallest value it can take (-inf: none)."""
    high: float
    doc: str
    """One sentence."""
    on: Literal["tokens", "cells", "rule", "model"]
    """What it reads: a row of tokens, the grids behind it, the rule behind it, or the loss of a model trained on it."""
    pooled: bool = False
    """One number for all rows together instead of one a row."""
    min_tokens: int = 2
    """Fewest tokens (of a row; pooled: of all rows) on which it means something."""
    min_frames: int = 0
    """Fewest whole frames of a row."""
    min_kinds: int = 0
    """Fewest different tokens (of all rows)."""
    dear: bool = False
    """Takes seconds or more: computed only where it is asked for by name."""


class Material(NamedTuple):
    """Rows to be measured."""

    tokens: Rows
    """[n, length]"""
    vocab_size: int
    spec: NcaSpec | None = None
    frames: Cells | None = None
    """[n, n_frames, grid, grid]"""
    keys: U64 | None = None
    """[n] keys of the rules."""


Values = dict[str, npt.NDArray[np.float64]]
Family = Callable[[Material], Values]
"""Computes the values [n] of some measures together."""
SCORES: dict[str, Measure] = {}
"""All measures of single rows."""
_FAMILY: dict[str, Family] = {}
INF = math.inf


def _family(*members: Measure) -> Callable[[Family], Family]:
    def enter(function: Family) -> Family:
        for measure in members:
            SCORES[measure.name], _FAMILY[measure.name] = measure, function
        return function

    return enter


def scores(material: Material, names: Iterable[str]) -> Values:
    """Values [n] of the measures `names`; each family of measures is computed once."""
    names = list(names)
    out: Values = {}
    for name in names:
        if name not in out:
            out |= _FAMILY[name](material)
    return {name: out[name] for name in names}


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """How tokens are stored before they are gzipped: uint16, uint32 above 65,536 kinds."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


@_family(
    Measure("gzip_ratio_normalised", "0 constant, 1 iid uniform", 0, 1.1, "gzip ratio between its floor and its ceiling for this length, alphabet and dtype", "tokens", min_tokens=64),
    Measure("gzip_ratio", "compressed / raw bytes", 0, INF, "gzip -9 of the tokens as uint16 (uint32 above 65,536 kinds), header included", "tokens", min_tokens=64),
)  # fmt: skip
def _gzip(m: Material) -> Values:
    found = measures.gzip_rows(m.tokens, m.vocab_size, token_dtype(m.vocab_size))
    return {"gzip_ratio_normalised": found.normalised, "gzip_ratio": found.ratio}


@_family(
    Measure("gzip_ratio_shuffled", "compressed / raw bytes", 0, INF, "gzip ratio after the row's tokens are permuted: where it equals gzip_ratio, that saw nothing of the order", "tokens", min_tokens=64),
)  # fmt: skip
def _gzip_shuffled(m: Material) -> Values:
    permuted = measures.shuffled(m.tokens)
    return {"gzip_ratio_shuffled": measures.gzip_rows(permuted, m.vocab_size, token_dtype(m.vocab_size)).ratio}


@_family(
    Measure("token_entropy", "share of ln min(V, n)", 0, 1.1, "entropy of the row's own tokens", "tokens", min_tokens=64),
)  # fmt: skip
def _token_entropy(m: Material) -> Values:
    most = math.log(min(m.vocab_size, m.tokens.shape[1]))
    return {"token_entropy": measures.row_entropies(m.tokens) / most}


@_family(
    Measure("lempel_ziv", "0 constant, 1 iid uniform", 0, 1.2, "Lempel-Ziv 1976 phrases between their floor and their ceiling for this length and alphabet", "tokens", min_tokens=64),
    Measure("lempel_ziv_rate", "nats per token", 0, INF, "Lempel-Ziv 1976 phrases * ln(n) / n, a rough entropy rate: it converges like ln ln n / ln n", "tokens", min_tokens=64),
)  # fmt: skip
def _lempel_ziv(m: Material) -> Values:
    found = measures.lempel_ziv(m.tokens, m.vocab_size)
    return {"lempel_ziv": found.normalised, "lempel_ziv_rate": found.rate}


@_family(
    Measure("mutual_information", "nats", -INF, INF, "mutual information of tokens 1 to 64 apart within the row, mean over the lags, shuffle bias taken off", "tokens", min_tokens=256),
    Measure("mutual_information_1", "nats", -INF, INF, "the same for neighbours", "tokens", min_tokens=256),
)  # fmt: skip
def _mutual_information(m: Material) -> Values:
    lags = np.arange(1, min(MI_LAGS, m.tokens.shape[1] // 4) + 1)
    found = measures.mutual_information(m.tokens, lags)
    return {"mutual_information": found.value.mean(axis=1), "mutual_information_1": found.value[:, 0]}


@_family(
    Measure("cell_gzip_normalised", "0 constant, 1 iid uniform", 0, 1.1, "as gzip_ratio_normalised, of the cells as uint8", "cells", min_frames=1),
    Measure("cell_entropy", "share of ln n_states", 0, 1.1, "entropy of the states of all cells", "cells", min_frames=1),
)  # fmt: skip
def _cells(m: Material) -> Values:
    assert m.frames is not None
    assert m.spec is not None
    flat = m.frames.reshape(len(m.frames), -1)
    return {
        "cell_gzip_normalised": measures.gzip_rows(flat, m.spec.n_states, np.uint8).normalised,
        "cell_entropy": dynamics.cell_entropies(m.frames) / math.log(m.spec.n_states),
    }


@_family(
    Measure(
        "activity", "share of cells", 0, 1, "cells that differ from the recorded frame before", "cells", min_frames=2
    )
)
def _activity(m: Material) -> Values:
    assert m.frames is not None
    return {"activity": dynamics.activity(m.frames)}


@_family(
    Measure(
        "own_cell_entropy",
        "nats per cell",
        0,
        INF,
        "entropy of a cell given itself one frame before",
        "cells",
        min_frames=2,
    )
)
def _own_cell(m: Material) -> Values:
    assert m.frames is not None
    return {"own_cell_entropy": dynamics.cell_conditional_entropies(m.frames, OWN).value}


@_family(Measure("row_cells_entropy", "nats per cell", -INF, INF, "entropy of a cell given itself and its neighbours left and right, one frame before", "cells", min_frames=2))  # fmt: skip
def _row_cells(m: Material) -> Values:
    assert m.frames is not None
    return {"row_cells_entropy": dynamics.cell_conditional_entropies(m.frames, ROW).value}


@_family(
    Measure("stencil_entropy", "nats per cell", -INF, INF, "entropy of a cell given its 3x3 cells one frame before, by counting", "cells", min_frames=2),
    Measure("stencil_coverage", "share of transitions", 0, 1, "transitions whose 3x3 cells occur at least twice in the row: near 0, stencil_entropy says nothing", "cells", min_frames=2),
)  # fmt: skip
def _stencil(m: Material) -> Values:
    assert m.frames is not None
    found = dynamics.cell_conditional_entropies(m.frames, STENCIL)
    return {"stencil_entropy": found.value, "stencil_coverage": found.coverage}


@_family(
    Measure("recurs", "0 or 1", 0, 1, "whether a whole grid is shown again within the row", "cells", min_frames=2),
    Measure("transient", "frames", 0, INF, "frames before the first grid that is shown again; none: censored", "cells", min_frames=2),
    Measure("period", "frames", 1, INF, "frames until that grid is shown again (1: a fixed point); none: censored", "cells", min_frames=2),
)  # fmt: skip
def _recurrence(m: Material) -> Values:
    assert m.frames is not None
    found = dynamics.recurrence(m.frames)
    recurs = (~np.isnan(found.period)).astype(float)
    return {"recurs": recurs, "transient": found.transient, "period": found.period}


@_family(
    Measure("damage", "share of saturation", 0, INF, "cells that differ 12 steps after one cell was flipped, same noise; 1: as different as independent grids", "rule"),
    Measure("damage_slope", "1 / step", -INF, INF, "slope of ln(differing cells) over steps 1 to 4, until half of saturation", "rule"),
    Measure("light_cone_speed", "cells a step", 0, 1, "how fast the farthest differing cell moves away, steps 1 to 4", "rule"),
)  # fmt: skip
def _damage(m: Material) -> Values:
    assert m.spec is not None
    assert m.keys is not None
    found = dynamics.damage(m.spec, m.keys)
    return {"damage": found.spread, "damage_slope": found.slope, "light_cone_speed": found.speed}


@_family(Measure("noise_entropy", "nats per cell", 0, INF, "entropy of the rule's own distribution of the next cell: 0 for tau to 0", "rule", min_frames=1))  # fmt: skip
def _noise(m: Material) -> Values:
    assert m.spec is not None
    assert m.keys is not None
    assert m.frames is not None
    return {"noise_entropy": dynamics.noise_entropies(m.spec, m.keys, m.frames)}
