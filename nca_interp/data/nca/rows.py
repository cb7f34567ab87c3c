"""Rows of NCA tokens: which rules lie in the band, and their trajectories, computed in chunks on threads.

The result does not depend on chunks or threads: chunks are consumed in the order of the candidates.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from nca_interp.base import UserError
from nca_interp.data.complexity.scores import Values
from nca_interp.data.nca.filters import check_length, passed
from nca_interp.data.nca.rules import (
    Cells,
    Rules,
    Tokens,
    frames_to_tokens,
    gzip_scores,
    make_rules,
    rule_keys,
    simulate,
    trajectory_keys,
)  # fmt: skip
from nca_interp.data.rng import below, bits, stream_key
from nca_interp.data.specs import NcaSpec

CHUNK = 64
"""Candidates or rows computed at a time by one thread; changes speed only."""
TRIES, ACCEPTANCE = 20_000, 1 / 2000
"""After TRIES candidates a band that takes less than this share of them is given up."""
POOL_ROWS = 512
"""Rows whose patch tokens make up the distribution of the unigram control."""
T = TypeVar("T")
Item = TypeVar("Item")


class Judged(NamedTuple):
    """One chunk of candidates: their scores, and what the accepted ones gave."""

    candidates: npt.NDArray[np.int64]
    """[accepted] candidate numbers."""
    scores: npt.NDArray[np.float64]
    """[candidates of the chunk] gzip ratios; empty without a band."""
    measured: Values
    """Values of each measure of `where`, of the candidates that reached it."""
    frames: Cells | None
    """[accepted, n_frames, grid, grid] of trajectory 0, if asked for."""


class Search:
    """Counts of a search for rules: how many candidates were tried, which were accepted, and how they scored."""

    def __init__(self) -> None:
        self.tried = 0
        self.accepted = 0
        self._chunks: list[Judged] = []

    def add(self, chunk: Judged, tried: int) -> None:
        """Count one chunk."""
        self.tried += tried
        self.accepted += len(chunk.candidates)
        self._chunks.append(chunk._replace(frames=None))

    def rules(self) -> npt.NDArray[np.int64]:
        """[accepted] candidate numbers of the accepted rules, in order."""
        return np.concatenate([np.empty(0, np.int64), *(c.candidates for c in self._chunks)])

    def scores(self) -> npt.NDArray[np.float64]:
        """[tried] gzip ratios; empty without a band."""
        return np.concatenate([np.empty(0), *(c.scores for c in self._chunks)])

    def measured(self, name: str) -> npt.NDArray[np.float64]:
        """Values of a measure of `where` of the candidates that reached it."""
        return np.concatenate([np.empty(0), *(c.measured[name] for c in self._chunks if name in c.measured)])

    def summary(self, spec: NcaSpec) -> dict[str, Any]:
        """For provenance: candidates tried, acceptance rate, quantiles of all and of accepted gzip ratios, and of the
        measures of `where` (of the candidates that reached them)."""
        out: dict[str, Any] = {"candidates_tried": self.tried, "acceptance_rate": self.accepted / max(self.tried, 1)}
        scores = self.scores()
        if spec.band is not None and len(scores):
            inside = scores[(scores >= spec.band[0]) & (scores < spec.band[1])]
            out["gzip_of_candidates"] = _quantiles(scores)
            out["gzip_of_accepted"] = _quantiles(inside)
        if spec.where:
            out["where"] = {name: _quantiles(self.measured(name)) for name in spec.where}
        return out

    def check(self, spec: NcaSpec) -> None:
        """UserError once the band, or the band and the filters together, have proved out of reach."""
        if self.tried < TRIES or self.accepted >= self.tried * ACCEPTANCE:
            return
        asked = [] if spec.band is None else [f"band: [{spec.band[0]:g}, {spec.band[1]:g})"]
        asked += [f"where.{name}: [{low:g}, {high:g})" for name, (low, high) in spec.where.items()]
        if not asked:
            return
        out = "is out of reach" if len(asked) == 1 else "are out of reach together"
        reach = [] if spec.band is None else [f"their gzip ratios: {_shown(self.scores())}"]
        for name in spec.where:
            values = self.measured(name)
            reach.append(f"{name} of the {len(values):,} that came to it: {_shown(values)}")
        raise UserError(
            f"{' and '.join(asked)} {out}: {self.accepted} of {self.tried:,} random rules lie in it "
            f"(n_states {spec.n_states}, patch {spec.patch}, tau {spec.tau:g}, variant {spec.variant}); "
            f"{'; '.join(reach)}; choose a band inside this range"
        )


def _shown(values: npt.NDArray[np.float64]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in _quantiles(values).items()) or "none"


def _quantiles(values: npt.NDArray[np.float64]) -> dict[str, float]:
    values = values[~np.isnan(values)]
    if not len(values):
        return {}
    names = ("min", "5%", "50%", "95%", "max")
    return dict(zip(names, np.quantile(values, [0, 0.05, 0.5, 0.95, 1]).round(4).tolist(), strict=True))


def judge(spec: NcaSpec, seed: int, split: str, first: int, n: int, n_frames: int = 0) -> Judged:
    """Score candidates first .. first + n - 1; for those accepted, `n_frames` frames of trajectory 0 (0: none)."""
    candidates = np.arange(first, first + n)
    keys = rule_keys(seed, split, candidates)
    noise = trajectory_keys(keys, 0)
    if spec.band is None and not spec.where:
        frames = simulate(spec, make_rules(spec, keys), noise, n_frames) if n_frames else None
        return Judged(candidates, np.empty(0), {}, frames)
    rules = make_rules(spec, keys)
    scored = simulate(spec, rules, noise, spec.score_frames)
    scores, measured, inside = np.empty(0), Values(), np.ones(n, bool)
    if spec.band is not None:
        scores = gzip_scores(spec, scored)
        inside = (scores >= spec.band[0]) & (scores < spec.band[1])
    if spec.where:
        inside, measured = passed(spec, keys, scored, inside)
    if not n_frames:
        return Judged(candidates[inside], scores, measured, None)
    start = scored[inside]
    if n_frames > spec.score_frames:
        kept = Rules(rules.table[inside], rules.readout[inside])
        rest = simulate(
            spec, kept, noise[inside], n_frames - spec.score_frames + 1, after=start[:, -1], done=spec.score_frames - 1
        )
        start = np.concatenate([start, rest[:, 1:]], axis=1)
    return Judged(candidates[inside], scores, measured, start[:, :n_frames])


def search(
    spec: NcaSpec, seed: int, split: str, n_rules: int, n_frames: int, threads: int | None, found: Search
) -> Iterator[Judged]:
    """Chunks of candidates until `n_rules` of them are accepted. Raises UserError when the band is out of reach."""
    check_length(spec)
    for chunk in in_order(lambda first: judge(spec, seed, split, first, CHUNK, n_frames), count(0, CHUNK), threads):
        found.add(chunk, CHUNK)
        found.check(spec)
        yield chunk
        if found.accepted >= n_rules:
            return


class Shown(NamedTuple):
    """What rows show: numbers of accepted rules, and of each one's trajectories."""

    rule: npt.NDArray[np.int64]
    trajectory: npt.NDArray[np.int64]


def shown(spec: NcaSpec, split: str, rows: npt.NDArray[np.int64]) -> Shown:
    """Which rule and which of its trajectories each row shows; outside the training split every row has its own rule."""
    if split != "train" or (spec.n_rules is None and spec.n_trajectories is None):
        return Shown(rows, np.zeros_like(rows))
    if spec.n_rules is None:
        assert spec.n_trajectories is not None
        return Shown(rows // spec.n_trajectories, rows % spec.n_trajectories)
    trajectory = rows // spec.n_rules
    return Shown(rows % spec.n_rules, trajectory if spec.n_trajectories is None else trajectory % spec.n_trajectories)


def nca_rows(
    spec: NcaSpec, seed: int, split: str, n_rows: int, n_tokens: int, threads: int | None, found: Search
) -> Iterator[Tokens]:
    """Rows [chunk, n_tokens] of a split, `n_rows` of them in all, each starting with a whole frame; see `shown`."""
    if spec.control == "unigram":
        yield from _iid_rows(spec, seed, split, n_rows, n_tokens, threads, found)
        return
    n_frames = -(-n_tokens // spec.tokens_per_frame)
    left = n_rows
    for frames in _trajectories(spec, seed, split, n_rows, n_frames, threads, found):
        chunk = frames[:left]
        if len(chunk):
            yield _controlled(spec, frames_to_tokens(spec, chunk)[:, :n_tokens], seed, split, n_rows - left)
        left -= len(chunk)


def _trajectories(
    spec: NcaSpec, seed: int, split: str, n_rows: int, n_frames: int, threads: int | None, found: Search
) -> Iterator[Cells]:
    rule, trajectory = shown(spec, split, np.arange(n_rows))
    n_rules = int(rule.max()) + 1
    if n_rules == n_rows:
        for chunk in search(spec, seed, split, n_rows, n_frames, threads, found):
            assert chunk.frames is not None
            yield chunk.frames
        return
    for _ in search(spec, seed, split, n_rules, 0, threads, found):
        pass
    keys = rule_keys(seed, split, found.rules()[:n_rules])

    def run(first: int) -> Cells:
        rows = slice(first, min(first + CHUNK, n_rows))
        mine = keys[rule[rows]]
        return simulate(spec, make_rules(spec, mine), trajectory_keys(mine, trajectory[rows]), n_frames)

    yield from in_order(run, iter(range(0, n_rows, CHUNK)), threads)


def _iid_rows(
    spec: NcaSpec, seed: int, split: str, n_rows: int, n_tokens: int, threads: int | None, found: Search
) -> Iterator[Tokens]:
    """Rows of independent patch tokens with the frequencies of POOL_ROWS rows of the source, delimiters in their places."""
    source = spec.model_copy(update={"control": "none"})
    pool = np.concatenate(list(nca_rows(source, seed, "unigram pool", POOL_ROWS, n_tokens, threads, found)))
    places = np.flatnonzero(~np.isin(np.arange(n_tokens) % spec.tokens_per_frame, (0, spec.tokens_per_frame - 1)))
    patches = pool[:, places].ravel()
    key = stream_key(seed, "nca", split, spec.control)
    for first in range(0, n_rows, CHUNK):
        rows = np.repeat(pool[:1], min(CHUNK, n_rows - first), axis=0)
        keys = bits(key, first + np.arange(len(rows)))
        rows[:, places] = patches[below(keys[:, None], np.arange(len(places)), len(patches))]
        yield rows


def _controlled(spec: NcaSpec, rows: Tokens, seed: int, split: str, first: int) -> Tokens:
    """Apply the control: permute patch tokens, or whole frames, within each row by the order of random words."""
    if spec.control == "none":
        return rows
    per_frame, n_tokens = spec.tokens_per_frame, rows.shape[1]
    if spec.control == "shuffle_tokens":
        places = np.flatnonzero(~np.isin(np.arange(n_tokens) % per_frame, (0, per_frame - 1)))[:, None]
    else:
        places = np.arange(n_tokens // per_frame * per_frame).reshape(-1, per_frame)
    keys = bits(stream_key(seed, "nca", split, spec.control), first + np.arange(len(rows)))
    order = np.argsort(bits(keys[:, None], np.arange(len(places))), axis=1, kind="stable")
    out = rows.copy()
    out[:, places.ravel()] = np.take_along_axis(rows, places[order].reshape(len(rows), -1), axis=1)
    return out


def trajectory(
    spec: NcaSpec, seed: int, split: str, candidate: npt.ArrayLike, number: npt.ArrayLike, n_frames: int
) -> Cells:
    """Frames [n, n_frames, grid, grid] of candidates' trajectories: with what `TokenFile.row_rules` gives, the rows of a
    token file before its control."""
    keys = rule_keys(seed, split, np.atleast_1d(np.asarray(candidate)))
    return simulate(spec, make_rules(spec, keys), trajectory_keys(keys, number), n_frames)


def in_order(work: Callable[[Item], T], items: Iterator[Item], threads: int | None) -> Iterator[T]:
    """work(item) for each item, in order, computed on `threads` threads (null: one a core) a little ahead of the consumer."""
    threads = threads or available_cores()
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[T]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def available_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
