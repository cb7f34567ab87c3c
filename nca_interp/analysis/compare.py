"""Are the regimes' networks alike inside? Similarity between the runs of one domain, at their end and over time.

Every comparison is on the same validation rows. What makes a number readable: `seeds` compares two seeds of one regime (the
ceiling), `regimes` two regimes of one seed, `time` a run with its own end.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nca_interp.analysis.engine import write_table
from nca_interp.analysis.records import Run, read_runs
from nca_interp.analysis.similarity import Moments, cka, cka_matrix, open_streams
from nca_interp.analysis.weights import COLUMNS, UPDATES, Tensors, spectrum, update_cosines, weight_table
from nca_interp.data.tokens import TokenFile
from nca_interp.store import StudyDir

SIMILARITY = [
    "comparison", "domain", "regime_a", "regime_b", "seed_a", "seed_b", "run_a", "run_b", "step_a", "step_b", "tokens",
    "layer_a", "layer_b", "value", "n",
]  # fmt: skip
STREAMS = [
    "run",
    "regime",
    "domain",
    "seed",
    "stage",
    "step",
    "tokens",
    "layer",
    "effective_rank",
    "participation",
    "n",
]
WEIGHTS = ["run", "regime", "domain", "seed", "stage", "step", "tokens", *COLUMNS]
UPDATE_PAIRS = ["comparison", "domain", "regime_a", "regime_b", "seed", *UPDATES]


class Comparison(NamedTuple):
    """The tables of one domain."""

    similarity: pd.DataFrame
    """One CKA value a row (SIMILARITY): layer 0 is the embedding, layer l the residual stream after l blocks."""
    streams: pd.DataFrame
    """Directions that the residual stream uses (STREAMS), one row a run, checkpoint and layer."""
    updates: pd.DataFrame
    """Cosines of updates (UPDATE_PAIRS): `regimes`, what language changed in a regime and in scratch of the same seed;
    `stages`, what the synthetic stage and what language changed in one network."""


def compare_study(folder: Path) -> dict[str, pd.DataFrame]:
    """Write tables/similarity, streams, updates and weights .csv of a study (docs/compare.md) and return them by name.

    Raises UserError where the folder holds no study.
    """
    directory = StudyDir.open(folder)
    runs = read_runs(directory)
    domains = sorted({r.config.domain for r in runs if r.config.domain is not None})
    parts = [compare_domain(directory, runs, domain) for domain in domains]
    found = {name: [getattr(part, name) for part in parts] for name in Comparison._fields}
    found["weights"] = [run_weights(run) for run in runs if run.done and run.config.stage != "ft"]
    tables = {name: _joined(frames) for name, frames in found.items()}
    for name, frame in tables.items():
        write_table(directory.table(name), frame)
    return tables


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """One table of several, of which empty ones have no say in the types."""
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else frames[0] if frames else pd.DataFrame()


def compare_domain(study: StudyDir, runs: list[Run], domain: str) -> Comparison:
    """Compare the finished pre-training runs of a domain; only full-transfer regimes and controls are worth the time.

    Whole layer-by-layer matrices between regimes at their last checkpoint; equal layers for everything else.
    """
    chosen = [r for r in runs if _wanted(r, domain)]
    if not chosen:
        return Comparison(*(pd.DataFrame(columns=columns) for columns in (SIMILARITY, STREAMS, UPDATE_PAIRS)))
    rows = np.asarray(TokenFile.open(study.path / chosen[0].config.tokens, verify=False).val[:, :-1])

    @lru_cache(maxsize=4 * len(chosen))
    def streams(run_id: str, step: int) -> tuple[Moments, ...]:
        return tuple(open_streams(study.run(run_id).checkpoint(step), rows))

    similarity = [*_ends(chosen, streams), *_over_time(chosen, streams)]
    ranks = [row for run in chosen for row in _ranks(run, streams)]
    return Comparison(
        pd.DataFrame(similarity, columns=SIMILARITY),
        pd.DataFrame(ranks, columns=STREAMS),
        _updates(chosen, {run.config.id: run for run in runs}),
    )


def run_weights(run: Run) -> pd.DataFrame:
    """`weight_table` of every checkpoint of a run, displacement counted from the run's own step 0 (WEIGHTS)."""
    steps = run.dir.steps()
    start = tensors(run, steps[0])
    frames = []
    for step in steps:
        table = weight_table(tensors(run, step), start)
        tokens = step * run.config.config.batch_size * run.config.model.n_ctx
        frames.append(table.assign(**run.identity, step=step, tokens=tokens)[WEIGHTS])
    return pd.concat(frames, ignore_index=True)


def tensors(run: Run, step: int) -> Tensors:
    """Weights of one checkpoint by name, on the CPU."""
    from safetensors.torch import load_file

    parts = [load_file(path) for path in sorted(run.dir.checkpoint(step).glob("*.safetensors"))]
    return {name: tensor for part in parts for name, tensor in part.items()}


def _updates(runs: list[Run], by_id: dict[str, Run]) -> pd.DataFrame:
    scratch = {r.config.seed: r for r in runs if r.config.regime == "scratch"}
    frames = []
    for run in runs:
        moved = _ends_of(run)
        baseline, parent = scratch.get(run.config.seed), by_id.get(run.config.parent or "")
        where = {"domain": run.config.domain, "regime_a": run.config.regime, "seed": run.config.seed}
        if baseline is not None and baseline is not run:
            found = update_cosines(*moved, *_ends_of(baseline))
            frames.append(found.assign(comparison="regimes", regime_b="scratch", **where))
        if parent is not None and parent.done:
            found = update_cosines(*moved, *_ends_of(parent))
            frames.append(found.assign(comparison="stages", regime_b=parent.config.regime, **where))
    return pd.concat(frames, ignore_index=True)[UPDATE_PAIRS] if frames else pd.DataFrame(columns=UPDATE_PAIRS)


def _ends_of(run: Run) -> tuple[Tensors, Tensors]:
    steps = run.dir.steps()
    return tensors(run, steps[-1]), tensors(run, steps[0])


def _wanted(run: Run, domain: str) -> bool:
    c = run.config
    return c.stage == "pt" and c.domain == domain and run.done and c.role in ("regime", "control")


def _ends(runs: list[Run], streams: Any) -> Iterator[dict[str, Any]]:
    for a, b in combinations(runs, 2):
        same_seed, same_regime = a.config.seed == b.config.seed, a.config.regime == b.config.regime
        if not (same_seed or same_regime):
            continue
        left, right = (streams(r.config.id, r.dir.steps()[-1]) for r in (a, b))
        where = _pair("seeds" if same_regime else "regimes", a, b, a.dir.steps()[-1], b.dir.steps()[-1])
        if same_regime:
            yield from (_value(where, i, i, cka(x, y), x) for i, (x, y) in enumerate(zip(left, right, strict=True)))
            continue
        matrix = cka_matrix(left, right)
        yield from (_value(where, i, j, value, left[0]) for (i, j), value in np.ndenumerate(matrix))


def _over_time(runs: list[Run], streams: Any) -> Iterator[dict[str, Any]]:
    """Every run against its own end, and against scratch of the same seed at the steps that both kept."""
    scratch = {r.config.seed: r for r in runs if r.config.regime == "scratch"}
    for run in runs:
        last = run.dir.steps()[-1]
        baseline = scratch.get(run.config.seed)
        for step in run.dir.steps()[:-1]:
            now = streams(run.config.id, step)
            yield from _diagonal(_pair("time", run, run, step, last), now, streams(run.config.id, last))
            if baseline is not None and baseline is not run and step in baseline.dir.steps():
                yield from _diagonal(
                    _pair("regimes", run, baseline, step, step), now, streams(baseline.config.id, step)
                )


def _diagonal(where: dict[str, Any], a: Any, b: Any) -> Iterator[dict[str, Any]]:
    return (_value(where, i, i, cka(x, y), x) for i, (x, y) in enumerate(zip(a, b, strict=True)))


def _pair(comparison: str, a: Run, b: Run, step_a: int, step_b: int) -> dict[str, Any]:
    return {
        "comparison": comparison, "domain": a.config.domain, "regime_a": a.config.regime, "regime_b": b.config.regime,
        "seed_a": a.config.seed, "seed_b": b.config.seed, "run_a": a.config.id, "run_b": b.config.id,
        "step_a": step_a, "step_b": step_b, "tokens": step_a * a.config.config.batch_size * a.config.model.n_ctx,
    }  # fmt: skip


def _value(where: dict[str, Any], i: int, j: int, value: float, features: Moments) -> dict[str, Any]:
    return {**where, "layer_a": i, "layer_b": j, "value": float(value), "n": len(features.features)}


def _ranks(run: Run, streams: Any) -> Iterator[dict[str, Any]]:
    for step in run.dir.steps():
        tokens = step * run.config.config.batch_size * run.config.model.n_ctx
        for layer, stream in enumerate(streams(run.config.id, step)):
            found = spectrum(stream.features)
            yield {
                **run.identity, "step": step, "tokens": tokens, "layer": layer, "effective_rank": found.effective_rank,
                "participation": found.participation, "n": len(stream.features),
            }  # fmt: skip
