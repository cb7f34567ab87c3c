"""Are the regimes' networks alike inside? Kept run by run: what a run needs of itself and of the runs before it.

Every comparison is on the same validation rows. What makes a number readable: `seeds` compares two seeds of one regime (the
ceiling), `across` two regimes of two seeds (which share no initial weights either), `regimes` two regimes of one seed, `time` a
run with its own end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nca_interp.analysis.cache import code_hash, keep, kept
from nca_interp.analysis.records import CHECKPOINT, Run, read_runs
from nca_interp.analysis.similarity.cka import Moments, cka, cka_matrix, open_streams
from nca_interp.analysis.similarity.seeds import alike
from nca_interp.analysis.similarity.weights import (
    COLUMNS,
    HEADS,
    UPDATES,
    CheckpointTensors,
    head_norms,
    spectrum,
    update_cosines,
    weight_table,
)
from nca_interp.base import UserError
from nca_interp.data.tokens import TokenFile
from nca_interp.model.checkpoint import check_directory
from nca_interp.store import StudyDir, checkpoint_hash

TABLES = {
    "similarity": [
        "comparison", "domain", "regime_a", "regime_b", "seed_a", "seed_b", "run_a", "run_b", "step_a", "step_b", "tokens",
        "layer_a", "layer_b", "value", "n",
    ],
    "streams": [*CHECKPOINT, "layer", "effective_rank", "participation", "n"],
    "updates": ["comparison", "domain", "regime_a", "regime_b", "seed", *UPDATES],
    "weights": [*CHECKPOINT, *COLUMNS],
    "head_norms": [*CHECKPOINT, *HEADS],
}  # fmt: skip
"""Columns of each table (docs/compare.md)."""
TEXT = {
    "comparison", "run", "run_a", "run_b", "regime", "regime_a", "regime_b", "domain", "stage", "tensor", "kind",
}  # fmt: skip
INTEGERS = {
    "seed", "seed_a", "seed_b", "step", "step_a", "step_b", "tokens", "layer", "layer_a", "layer_b", "head", "rank", "n",
}  # fmt: skip
CODE = ("similarity/study.py", "similarity/cka.py", "similarity/weights.py")
"""Files that decide a number."""


class Peers(NamedTuple):
    """A finished run and the runs that it is compared with."""

    run: Run
    earlier: list[Run]
    """Runs of the domain before it, all of which are compared with its end: a pair belongs to the later of the two."""
    scratch: Run | None
    """Scratch of its seed, at every step that both kept; None for scratch itself."""
    parent: Run | None
    """The run whose weights it started from."""


def compare_run(study: StudyDir, run_id: str) -> list[str]:
    """Measure and keep what a finished run adds to the tables, unless that is up to date; returns what is damaged."""
    peers = next((p for p in _all_peers(read_runs(study)) if p.run.config.id == run_id), None)
    if peers is None:
        return []
    sources = _made_from(peers)
    missing = {name for name, made_from in sources.items() if _kept(peers.run, name, made_from) is None}
    try:
        made = _measure(study, peers, missing)
    except UserError as error:
        return [str(error)]
    for name, frame in made.items():
        keep(peers.run.dir.compared(name), frame[TABLES[name]], sources[name])
    return []


def _measure(study: StudyDir, peers: Peers, wanted: set[str]) -> dict[str, pd.DataFrame]:
    if wanted:
        for step in peers.run.dir.steps():
            check_directory(peers.run.dir.checkpoint(step))
    makers: dict[str, Callable[[], pd.DataFrame]] = {
        "updates": lambda: _updates(peers),
        "weights": lambda: run_weights(peers.run),
        "head_norms": lambda: run_head_norms(peers.run),
    }
    made = {name: make() for name, make in makers.items() if name in wanted}
    return made | _walk(study, peers) if wanted & {"similarity", "streams"} else made


def comparison_tables(runs: list[Run]) -> dict[str, pd.DataFrame]:
    """The TABLES from what is kept and still true, and `alike`; empty where `analyze --compare` has not been run."""
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    for peers in _all_peers(runs):
        if not any(peers.run.dir.compared(name).is_file() for name in TABLES):
            continue
        for name, made_from in _made_from(peers).items():
            frame = _kept(peers.run, name, made_from)
            if frame is not None and len(frame):
                found[name].append(frame)
    empty = {name: pd.DataFrame(columns=columns) for name, columns in TABLES.items()}
    tables = {name: pd.concat(frames, ignore_index=True) if frames else empty[name] for name, frames in found.items()}
    return {**tables, "alike": alike(tables["similarity"])}


def run_weights(run: Run) -> pd.DataFrame:
    """`weight_table` of every checkpoint of a run, displacement counted from the run's own step 0."""
    start = tensors(run, run.dir.steps()[0])
    tables = [weight_table(tensors(run, step), start).assign(**run.at(step)) for step in run.dir.steps()]
    return pd.concat(tables, ignore_index=True)


def run_head_norms(run: Run) -> pd.DataFrame:
    """`head_norms` of every checkpoint of a run."""
    n_heads = run.config.model.n_heads
    tables = [head_norms(tensors(run, step), n_heads).assign(**run.at(step)) for step in run.dir.steps()]
    return pd.concat(tables, ignore_index=True)


def tensors(run: Run, step: int) -> CheckpointTensors:
    """Weights of one checkpoint by name, on the CPU, read one at a time."""
    return CheckpointTensors(run.dir.checkpoint(step))


def _all_peers(runs: list[Run]) -> Iterator[Peers]:
    """Every finished run before fine-tuning; only full-transfer regimes and controls are compared with each other."""
    by_id = {run.config.id: run for run in runs}
    # scratch first, so that it is the second of each of its pairs; seeds before regimes: a new seed changes no earlier run
    order = sorted(runs, key=lambda r: (r.config.seed, r.config.regime != "scratch", r.config.regime))
    compared: dict[str | None, list[Run]] = {}
    for run in order:
        c = run.config
        if not run.done or c.stage == "ft" or not run.dir.steps():
            continue
        if not _is_compared(run):
            yield Peers(run, [], None, None)
            continue
        earlier = compared.setdefault(c.domain, [])
        scratch = next((r for r in earlier if r.config.regime == "scratch" and r.config.seed == c.seed), None)
        parent = by_id.get(c.parent or "")
        yield Peers(
            run, list(earlier), scratch, parent if parent is not None and parent.done and parent.dir.steps() else None
        )
        earlier.append(run)


def _is_compared(run: Run) -> bool:
    return run.config.stage == "pt" and run.config.role in ("regime", "control")


def _made_from(peers: Peers) -> dict[str, dict[str, Any]]:
    """By table: hashes of the checkpoints, rows and code that decide it."""
    run = peers.run
    own = [_hash(run, step) for step in run.dir.steps()]
    alone = {"code": code_hash(CODE), "own": own}
    if not _is_compared(run):
        return {"weights": alone, "head_norms": alone}
    scratch = [_hash(peers.scratch, step) for step in peers.scratch.dir.steps()] if peers.scratch else []
    parent = [_hash(peers.parent, step) for step in _ends(peers.parent)] if peers.parent else []
    ends = {r.config.id: _hash(r, r.dir.steps()[-1]) for r in peers.earlier}
    with_others = alone | {"tokens": run.meta.sha256, "scratch": scratch, "ends": ends}
    return {
        "similarity": with_others, "streams": with_others, "updates": alone | {"scratch": scratch, "parent": parent},
        "weights": alone, "head_norms": alone,
    }  # fmt: skip


def _hash(run: Run, step: int) -> str:
    return checkpoint_hash(run.dir.checkpoint(step))


def _kept(run: Run, name: str, made_from: dict[str, Any]) -> pd.DataFrame | None:
    columns = set(TABLES[name])
    return kept(
        run.dir.compared(name), made_from, numbers=columns - TEXT - INTEGERS, integers=columns & INTEGERS,
    )  # fmt: skip


def _walk(study: StudyDir, peers: Peers) -> dict[str, pd.DataFrame]:
    """Tables `similarity` and `streams`: every checkpoint is read once, three at most are held."""
    run, scratch = peers.run, peers.scratch
    rows = np.asarray(TokenFile.open(study.path / run.config.tokens, verify=False).val[:, :-1])
    last = run.dir.steps()[-1]

    @lru_cache(maxsize=1)
    def end_of(index: int) -> list[Moments]:
        other = peers.earlier[index]
        return open_streams(other.dir.checkpoint(other.dir.steps()[-1]), rows)

    end = open_streams(run.dir.checkpoint(last), rows)
    similarity: list[dict[str, Any]] = []
    ranks: list[dict[str, Any]] = []
    for step in run.dir.steps()[:-1]:
        now = open_streams(run.dir.checkpoint(step), rows)
        ranks += _ranks(run, step, now)
        similarity += _diagonal(_pair("time", run, run, step, last), now, end)
        if scratch is not None and step in scratch.dir.steps():
            similarity += _diagonal(
                _pair("regimes", run, scratch, step, step), now, open_streams(scratch.dir.checkpoint(step), rows)
            )
    for index, other in enumerate(peers.earlier):
        same_seed, same_regime = (getattr(other.config, k) == getattr(run.config, k) for k in ("seed", "regime"))
        kind = "regimes" if same_seed else "seeds" if same_regime else "across"
        where = _pair(kind, run, other, last, other.dir.steps()[-1])
        compare = _matrix if kind == "regimes" else _diagonal
        similarity += compare(where, end, end_of(index))
    ranks += _ranks(run, last, end)
    return {
        "similarity": pd.DataFrame(similarity, columns=TABLES["similarity"]),
        "streams": pd.DataFrame(ranks, columns=TABLES["streams"]),
    }


def _diagonal(where: dict[str, Any], a: list[Moments], b: list[Moments]) -> Iterator[dict[str, Any]]:
    """Equal layers."""
    return (_value(where, i, i, cka(x, y), x) for i, (x, y) in enumerate(zip(a, b, strict=True)))


def _matrix(where: dict[str, Any], a: list[Moments], b: list[Moments]) -> Iterator[dict[str, Any]]:
    """Every layer with every layer."""
    return (_value(where, i, j, value, a[0]) for (i, j), value in np.ndenumerate(cka_matrix(a, b)))


def _pair(comparison: str, a: Run, b: Run, step_a: int, step_b: int) -> dict[str, Any]:
    return {
        "comparison": comparison, "domain": a.config.domain, "regime_a": a.config.regime, "regime_b": b.config.regime,
        "seed_a": a.config.seed, "seed_b": b.config.seed, "run_a": a.config.id, "run_b": b.config.id,
        "step_a": step_a, "step_b": step_b, "tokens": a.at(step_a)["tokens"],
    }  # fmt: skip


def _value(where: dict[str, Any], i: int, j: int, value: float, features: Moments) -> dict[str, Any]:
    return {**where, "layer_a": i, "layer_b": j, "value": float(value), "n": len(features.features)}


def _ranks(run: Run, step: int, streams: list[Moments]) -> Iterator[dict[str, Any]]:
    for layer, stream in enumerate(streams):
        found = spectrum(stream.features)
        yield {
            **run.at(step), "layer": layer, "effective_rank": found.effective_rank, "participation": found.participation,
            "n": len(stream.features),
        }  # fmt: skip


def _updates(peers: Peers) -> pd.DataFrame:
    """What language changed in a run, against scratch of its seed and against what the stage before changed."""
    run, frames = peers.run, []
    for comparison, other in (("regimes", peers.scratch), ("stages", peers.parent)):
        if other is None:
            continue
        (start, end), (other_start, other_end) = ([tensors(r, step) for step in _ends(r)] for r in (run, other))
        found = update_cosines(end, start, other_end, other_start)
        where = {"domain": run.config.domain, "regime_a": run.config.regime, "regime_b": other.config.regime}
        frames.append(found.assign(comparison=comparison, seed=run.config.seed, **where))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=TABLES["updates"])


def _ends(run: Run) -> tuple[int, int]:
    steps = run.dir.steps()
    return steps[0], steps[-1]
