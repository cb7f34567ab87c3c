# mypy: ignore-errors
"""What the NCA kernel passes around: rules, noise and work space, made in Python so that the compiled code stays small."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from nca_interp.data.nca.vectors import GROUP, LANES, LOWEST

PAIR_STATES = 24
"""Largest alphabet whose pairs are tabulated: 4 * n**2 rows of 64 bytes, 147 kB."""
BATCH = 3
"""Blocks that go through each stage of a step together."""
TABLE_STATES = 3
"""Largest alphabet whose neighbourhoods may all be tabulated: n**9 bytes."""
PAIRS = ((0, 1), (2, 5), (7, 8), (3, 6))
"""Neighbours (row-major, 4 the centre) whose rows are added first; then these sums in this order, then the centre's row."""


class Rule(NamedTuple):
    """One rule as the step needs it."""

    rows: Any
    """Flat float32: rows of pairs of states and of the centre, or of single states."""
    readout: Any
    """[groups, width, GROUP] float32."""
    n: Any
    pairs: Any
    """Whether `rows` are those of pairs."""
    bias: Any


class Noise(NamedTuple):
    """Noise of one step."""

    stream: Any
    """Cell c has the random number u of word mix(stream + GOLDEN * c)."""
    hold: Any
    """Nothing is drawn, near ties become NEAR."""
    tau: Any
    limit: Any
    """Leads below this are near ties, which the noise may decide; 0: none are."""
    sure: Any
    step: Any
    """With u < 1 - 2**-b, a lead above sure + step * b wins: the others together weigh less than 1 - u of the best."""


class Lanes(NamedTuple):
    """Work space of one block."""

    hidden: Any
    """[BATCH * LANES units, LANES cells]."""
    logits: Any
    """[BATCH * states, LANES cells], states padded to whole groups."""
    start: Any
    """Like logits: what their sums start from, 0 or LOWEST for padding."""
    gap: Any
    states: Any
    weights: Any


class Work(NamedTuple):
    """Work space of one call of `advance`, made by `work_space`: allocating in Python keeps the compiled code small."""

    lanes: Any
    rows: Any
    """Rows of pairs of states; empty without pairs."""
    state: Any
    """[(grid + 2) * grid]: in the first row the grid's last one, and so on; `following`, `left`, `right`, `codes` alike."""
    following: Any
    left: Any
    right: Any
    codes: Any
    indices: Any
    """[5 or 9 terms, cells]: where in `rows` the terms of a cell begin."""
    cells: Any
    near: Any
    drawn: Any
    all_indices: Any
    """Like `indices` for the cells of all neighbourhoods; empty where they are not tabulated."""
    best_of: Any


def _aligned(*shape: int) -> Any:
    """float32 zeros that begin at a multiple of 64 bytes: a vector load across two cache lines costs twice."""
    raw = np.zeros(math.prod(shape) + LANES, np.float32)
    skip = -(raw.ctypes.data // 4) % LANES
    return raw[skip : skip + math.prod(shape)].reshape(shape)


def work_space(n: int, width: int, size: int, n_steps: int) -> Work:
    """For rules of n states and `width` hidden units on size**2 cells; all neighbourhoods are tabulated where it pays."""
    cells, length, states = size * size, (size + 2) * size, -(-n // GROUP) * GROUP
    pairs = n <= PAIR_STATES
    known = n**9 if n <= TABLE_STATES and 2 * n**9 < cells * n_steps else 0
    start = _aligned(BATCH * states, LANES)
    start.reshape(BATCH, states, LANES)[:, n:] = LOWEST
    digits = np.arange(known)[:, None] // n ** np.arange(9) % n
    terms = [n * digits[:, a] + digits[:, b] for a, b in PAIRS] + [digits[:, 4]]
    all_indices = np.zeros((len(PAIRS) + 1, known + LANES), np.uint32)
    all_indices[:, :known] = np.multiply(terms, width)
    bytes_, words = [np.zeros(length + LANES, np.uint8) for _ in range(4)], np.zeros(length + LANES, np.uint32)
    hidden, logits = _aligned(BATCH * LANES, LANES), _aligned(BATCH * states, LANES)
    return Work(
        Lanes(hidden, logits, start, _aligned(LANES), np.empty(n + 1, np.int64), np.empty(n)),
        _aligned((4 * n * n + n) * width * pairs), *bytes_, words, np.zeros((5 if pairs else 9, cells + LANES), np.uint32),
        np.arange(max(cells, known) + LANES), np.zeros(cells + LANES, np.int64), np.empty(cells + LANES, np.uint8),
        all_indices, np.empty(known + LANES, np.uint8),
    )  # fmt: skip
