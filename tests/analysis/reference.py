"""Every attention probe once more, straight from its definition, on whole attention maps: slow, and another way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from nca_interp.analysis.stimuli.base import Batch, Frame

Keys = Callable[[int, int], list[int]]
"""(sequence, query) -> the keys whose mass counts; empty: the query does not count."""


def score(name: str, a: torch.Tensor, batch: Batch) -> np.ndarray:
    """Score [head] of one probe; a [batch, head, query, key] in fp64."""
    maps = a.numpy()
    if name in SHAPES:
        return SHAPES[name](maps, batch)
    return mass(maps, KEYS[name](batch))


def mass(a: np.ndarray, keys: Keys) -> np.ndarray:
    """Mean over queries with keys of the mass on them, then over sequences that have such a query."""
    found = []
    for b in range(len(a)):
        rows = [(q, k) for q in range(a.shape[2]) if (k := keys(b, q))]
        if rows:
            found.append(np.mean([a[b, :, q, k].sum(0) for q, k in rows], axis=0))
    return np.mean(found, axis=0)


def patches(frame: Frame, length: int) -> dict[int, tuple[int, int, int]]:
    """Place -> (grid, row, column) of every patch token up to the last target."""
    found = {}
    for place in range(frame.start, length + 1):
        grid, inside = divmod(place - frame.start, frame.rows * frame.columns + 2)
        if 0 < inside <= frame.rows * frame.columns:
            found[place] = (grid, *divmod(inside - 1, frame.columns))
    return found


def _repeat(batch: Batch, repeat: int | None = None) -> range:
    first = batch.start + batch.period * ((repeat or 2) - 1)
    return range(first, first + batch.period)


def _prefix(batch: Batch, repeat: int | None = None) -> Keys:
    x, late = batch.inputs, _repeat(batch, repeat)
    return lambda b, q: [k for k in range(batch.start + 1, q + 1) if x[b, k - 1] == x[b, q]] if q in late else []


def _same(batch: Batch) -> Keys:
    x, late = batch.inputs, _repeat(batch)
    return lambda b, q: [k for k in range(q) if x[b, k] == x[b, q]] if q in late else []


def _around(batch: Batch, back: int = 1, shift: tuple[int, int] = (0, 0), from_grid: int | None = None) -> Keys:
    frame = batch.frame
    where = patches(frame, batch.length)
    place = {value: key for key, value in where.items()}

    def keys(b: int, q: int) -> list[int]:
        grid, r, c = where.get(q + 1, (-1, 0, 0))
        if grid < (back if from_grid is None else from_grid):
            return []
        near = range(-frame.reach, frame.reach + 1)
        cells = {((r + shift[0] + i) % frame.rows, (c + shift[1] + j) % frame.columns) for i in near for j in near}
        return [place[grid - back, *cell] for cell in cells]

    return keys


def _grid_time(batch: Batch) -> Keys:
    where = patches(batch.frame, batch.length)
    back = batch.frame.rows * batch.frame.columns + 2
    return lambda b, q: [q + 1 - back] if where.get(q + 1, (0,))[0] >= 1 else []


def _frames(wanted: Callable[[int], bool]) -> Callable[[Batch], Keys]:
    def of(batch: Batch) -> Keys:
        frame, where = batch.frame, patches(batch.frame, batch.length)

        def keys(b: int, q: int) -> list[int]:
            grid = where.get(q + 1, (0,))[0]
            if grid < 2:
                return []
            return [k for k in range(q + 1) if wanted(grid - (k - frame.start) // (frame.rows * frame.columns + 2))]

        return keys

    return of


def _lookup(ids: Callable[[Batch], np.ndarray]) -> Callable[[Batch], Keys]:
    def of(batch: Batch) -> Keys:
        where, known, back = patches(batch.frame, batch.length), ids(batch), batch.frame.rows * batch.frame.columns + 2
        late = {p for p, (grid, _, _) in where.items() if grid >= 1}

        def keys(b: int, q: int) -> list[int]:
            if q + 1 not in late:
                return []
            return [p for p in late if p <= q and known[b, p - back] == known[b, q + 1 - back]]

        return keys

    return of


def _opener(ahead: int) -> Callable[[Batch], Keys]:
    def of(batch: Batch) -> Keys:
        def keys(b: int, q: int) -> list[int]:
            o = batch.opener[b, q + ahead] if q + ahead < batch.length else -1
            return [int(o)] if 0 <= o < q + ahead - 1 else []

        return keys

    return of


def _near(w: int) -> Callable[[Batch], Keys]:
    return lambda batch: lambda b, q: list(range(q - w, q + 1)) if q >= w else []


def _after_ngram(n: int) -> Callable[[Batch], Keys]:
    def of(batch: Batch) -> Keys:
        x = batch.inputs.tolist()
        return lambda b, q: [k for k in range(n, q) if q >= n - 1 and x[b][k - n : k] == x[b][q - n + 1 : q + 1]]

    return of


def in_class(belongs: Callable[[str], bool]) -> Callable[[Batch], Keys]:
    """Keys of a class of tokens, for batches that know the texts of theirs."""
    return lambda batch: lambda b, q: [k for k in range(q + 1) if belongs(batch.texts[batch.inputs[b, k]])]


KEYS: dict[str, Callable[[Batch], Keys]] = {
    **{f"natural_induction_{n}": _after_ngram(n) for n in (1, 2, 3)},
    "induction": _prefix,
    "induction_repeat_2": lambda batch: _prefix(batch, 2),
    "induction_repeat_3": lambda batch: _prefix(batch, 3),
    "induction_repeat_4": lambda batch: _prefix(batch, 4),
    "duplicate_token": _same,
    "previous_token": lambda batch: lambda b, q: [q - 1] if q else [],
    "self_attention": lambda batch: lambda b, q: [q],
    "first_token": lambda batch: lambda b, q: [0],
    "locality_1": _near(1),
    "locality_4": _near(4),
    "locality_16": _near(16),
    "nca_grid_time": _grid_time,
    "nca_stencil": _around,
    "nca_current_frame": _frames(lambda back: back == 0),
    "nca_previous_frame": _frames(lambda back: back == 1),
    "nca_older_frames": _frames(lambda back: back >= 2),
    "nca_induction": _lookup(lambda batch: batch.inputs),
    "nca_induction_stencil": _lookup(lambda batch: batch.places),
    "dyck_opener": _opener(1),
    "dyck_match": _opener(0),
}


def _entropy(a: np.ndarray, batch: Batch) -> np.ndarray:
    h = -np.where(a > 0, a * np.log(np.where(a > 0, a, 1)), 0).sum(-1)
    return (h[..., 1:] / np.log(np.arange(2, a.shape[-1] + 1))).mean((0, 2))


def _distance(a: np.ndarray, batch: Batch) -> np.ndarray:
    place = np.arange(a.shape[-1])
    far = (a * (place[:, None] - place)).sum(-1)
    return (far[..., 1:] / (place[1:] / 2)).mean((0, 2))


def _variability(a: np.ndarray, batch: Batch) -> np.ndarray:
    return (np.abs(a - a.mean(0)).sum((-1, -2)) / (2 * a.sum((-1, -2)))).mean(0)


def _profile(a: np.ndarray) -> np.ndarray:
    half = a.shape[-1] // 2
    return np.stack([np.diagonal(a, -d, -2, -1).mean(-1) for d in range(half + 1)], -1).mean(0)


def _excess(a: np.ndarray, batch: Batch) -> np.ndarray:
    """Per key of the stencil minus, on average, per key of each control, times the size of the stencil; grids t >= 2."""
    true, older = _around(batch, from_grid=2), _around(batch, back=2)
    moved = _around(batch, shift=(batch.frame.rows // 2, batch.frame.columns // 2), from_grid=2)
    places = range(a.shape[-1])
    sets = [
        {q: set(keys(0, q)) - (set(true(0, q)) if keys is moved else set()) for q in places}
        for keys in (true, older, moved)
    ]
    queries = [q for q in places if all(chosen[q] for chosen in sets)]
    size = len(sets[0][queries[0]])
    per_key = [np.mean([a[:, :, q, list(s[q])].mean(-1) for q in queries], axis=(0, 1)) for s in sets]
    return size * (per_key[0] - (per_key[1] + per_key[2]) / 2)


SHAPES: dict[str, Callable[[np.ndarray, Batch], np.ndarray]] = {
    "entropy": _entropy,
    "distance": _distance,
    "variability": _variability,
    "sink": lambda a, batch: (a[..., 0].mean(-1) > 0.3).mean(0),
    "offset_peak": lambda a, batch: _profile(a).argmax(-1),
    "offset_peak_mass": lambda a, batch: _profile(a).max(-1),
    "nca_stencil_excess": _excess,
}
