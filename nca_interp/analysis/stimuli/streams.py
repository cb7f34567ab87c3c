"""Synthetic streams whose causes are known: NCA frames and Dyck brackets, in a checkpoint's own vocabulary or laid over it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nca_interp.analysis.stimuli.base import (
    Batch,
    Frame,
    NotApplicable,
    Stimulus,
    Subject,
    drawable,
    prefixed,
    rows_batch,
)
from nca_interp.base import stream_seed
from nca_interp.data.specs import DyckSpec, NcaSpec

LONGEST = 512
"""Streams for other vocabularies are cut to this many tokens (and to the context)."""
FRAMES = 4
"""Frames that an NCA stream for another vocabulary must hold; smaller grids are taken where the context is short."""
STATES = (10, 8, 6, 5, 4, 3, 2)
GRIDS = (12, 8, 6)
BRACKETS = 64
"""Bracket types of a Dyck stream for another vocabulary, or as many as fit."""


@dataclass(frozen=True)
class NcaFrames(Stimulus):
    """NCA trajectories with the geometry of their frames (arXiv 2603.10055)."""

    def build(self, subject: Subject) -> Batch:
        """The first validation rows of an NCA token file, where the checkpoint has one; else trajectories of new rules
        whose tokens are laid over the vocabulary, each patch one random ordinary token."""
        spec = subject.spec or {}
        if subject.rows is not None and spec.get("kind") == "nca":
            own = NcaSpec.model_validate(spec)
            return _framed(rows_batch(subject, self.sequences), own, 0)
        return self._laid_over(subject)

    def _laid_over(self, subject: Subject) -> Batch:
        from nca_interp.data.nca.rows import Search, nca_rows

        spec, start = _fitting(subject), len(subject.prefix)
        length = min(subject.n_ctx, LONGEST) + 1 - start
        rows = np.concatenate(list(nca_rows(spec, 0, "probe", self.sequences, length, 1, Search())))
        plain = Batch(rows[:, :-1].astype(np.int64), rows[:, 1:].astype(np.int64))
        note = f"{spec.n_states} states on {spec.grid} x {spec.grid} cells, laid over the vocabulary"
        return lay_over(_framed(plain, spec, start), spec.vocab_size, subject, note)


def _fitting(subject: Subject) -> NcaSpec:
    """The largest alphabet and grid whose tokens fit vocabulary and context."""
    room, tokens = subject.n_ctx - len(subject.prefix), len(drawable(subject))
    # small alphabets and grids cannot reach the default band of gzip ratios
    specs = [
        NcaSpec(grid=g, n_states=n, band=(0.5, 1.0) if g == 12 and n >= 8 else None) for g in GRIDS for n in STATES
    ]
    for spec in specs:
        if spec.tokens_per_frame * FRAMES <= room and spec.vocab_size <= tokens:
            return spec
    smallest = specs[-1]
    raise NotApplicable(
        f"NCA frames need {smallest.vocab_size} ordinary tokens and a context of {FRAMES * smallest.tokens_per_frame}; "
        f"this model has {tokens} and {room}"
    )


def _framed(batch: Batch, spec: NcaSpec, start: int) -> Batch:
    """The stimulus with the geometry of its frames and what each patch's surroundings look like."""
    side = spec.grid // spec.patch
    frame = Frame(side, side, start, reach=-(-spec.dt // spec.patch))
    return replace(batch, frame=frame, places=_places(batch.inputs, spec))


def _places(tokens: np.ndarray, spec: NcaSpec) -> np.ndarray:
    """Batch.places of rows that start with a frame: a patch and `dt` cells around it decide the patch `dt` steps later."""
    from nca_interp.data.nca.rules import tokens_to_frames

    frames = np.stack([tokens_to_frames(spec, row) for row in tokens])  # [batch, grid, row, column]
    around = np.pad(frames, [(0, 0), (0, 0), (spec.dt, spec.dt), (spec.dt, spec.dt)], mode="wrap")
    side = spec.patch + 2 * spec.dt
    windows = np.lib.stride_tricks.sliding_window_view(around, (side, side), axis=(2, 3))
    windows = windows[:, :, :: spec.patch, :: spec.patch].reshape(*frames.shape[:2], spec.patches_per_frame, -1)
    _, same = np.unique(windows.reshape(-1, side * side), axis=0, return_inverse=True)
    places = np.full(tokens.shape, -1, dtype=np.int64)
    n, width = frames.shape[1], spec.tokens_per_frame
    places[:, : n * width].reshape(len(tokens), n, width)[:, :, 1:-1] = same.reshape(windows.shape[:3])
    return places


@dataclass(frozen=True)
class Dyck(Stimulus):
    """Nested balanced brackets with the place of each closing bracket's opener (Hu et al. 2025, arXiv 2502.19249)."""

    def build(self, subject: Subject) -> Batch:
        """Strings of the checkpoint's own bracket types, where it knows brackets; else laid over its vocabulary."""
        from nca_interp.data.dyck.rows import dyck_rows

        known = subject.spec if (subject.spec or {}).get("kind") == "dyck" else None
        types = known["k"] if known else min(BRACKETS, len(drawable(subject)) // 2)
        start = 0 if known else len(subject.prefix)
        length = min(subject.n_ctx, LONGEST) - start
        if types < 2 or length < 8:
            raise NotApplicable(
                f"brackets need 4 ordinary tokens and a context of 8; this model has too few ({types} types)"
            )
        spec = DyckSpec(k=types, max_depth=known["max_depth"] if known else 16)
        rows = np.concatenate(list(dyck_rows(spec, 0, "probe", self.sequences, length + 1))).astype(np.int64)
        batch = Batch(rows[:, :-1], rows[:, 1:], start=start, opener=openers(rows[:, :-1], types))
        return (
            batch if known else lay_over(batch, 2 * types, subject, f"{types} bracket types, laid over the vocabulary")
        )


def openers(tokens: np.ndarray, types: int) -> np.ndarray:
    """For each closing bracket (token types to 2 types - 1) of nested strings the place of its opener, else -1."""
    found = np.full(tokens.shape, -1, dtype=np.int64)
    for row, string in enumerate(tokens):
        stack: list[int] = []
        for place, token in enumerate(string):
            if token < types:
                stack.append(place)
            else:
                found[row, place] = stack.pop()
    return found


def lay_over(batch: Batch, kinds: int, subject: Subject, note: str) -> Batch:
    """The stimulus with each of its `kinds` tokens replaced by one ordinary token of the vocabulary, drawn once, behind
    the subject's prefix (the batch's `start`, or that of its frame, leaves the room)."""
    rng = np.random.default_rng(stream_seed("lay_over", kinds, subject.vocab_size))
    names = rng.permutation(drawable(subject))[:kinds]
    width = len(subject.prefix)
    rows = prefixed(subject, names[np.concatenate([batch.inputs, batch.targets[:, -1:]], axis=1)])
    changed: dict[str, Any] = {"memo": {}, "inputs": rows[:, :-1], "targets": rows[:, 1:], "note": note}
    if batch.places is not None:
        changed["places"] = np.pad(batch.places, ((0, 0), (width, 0)), constant_values=-1)
    if batch.opener is not None:
        moved = np.where(batch.opener >= 0, batch.opener + width, -1)
        changed["opener"] = np.pad(moved, ((0, 0), (width, 0)), constant_values=-1)
    return replace(batch, **changed)


def nca_frames(sequences: int = 16) -> NcaFrames:
    """Stimulus: NCA frames, the checkpoint's own or laid over its vocabulary."""
    return NcaFrames(sequences)


def dyck(sequences: int = 16) -> Dyck:
    """Stimulus: nested brackets, of the checkpoint's own types or laid over its vocabulary."""
    return Dyck(sequences)
