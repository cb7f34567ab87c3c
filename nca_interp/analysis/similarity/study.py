"""Are the regimes' networks alike inside? Kept run by run: what a run needs of itself and of the runs before it.

Every comparison is on the same validation rows. What makes a number readable: `seeds` compares two seeds of one regime (the
ceiling), `across` two regimes of two seeds (which share no initial weights either), `regimes` two regimes of one seed, `time` a
run with its own end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nca_interp.analysis.cache import code_hash, keep, kept
from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import CHECKPOINT, Run
from nca_interp.analysis.probing.opened import open_last
from nca_interp.analysis.similarity.apart import COLUMNS as DISTANCES
from nca_interp.analysis.similarity.apart import distances
from nca_interp.analysis.similarity.cka import Moments, cka, cka_matrix, open_streams
from nca_interp.analysis.similarity.rows import Rows
from nca_interp.analysis.similarity.seeds import alike
from nca_interp.analysis.similarity.weights import (
    COLUMNS,
    HEADS,
    UPDATES,
    CheckpointTensors,
    head_norms,
    model_head_norms,
    spectrum,
    update_cosines,
    weight_table,
)
from nca_interp.analysis.stimuli.base import NotApplicable
from nca_interp.analysis.stimuli.source import weights_sha256
from nca_interp.base import UserError
from nca_interp.measurement import Asked
from nca_interp.model.checkpoint import check_directory, load_config
from nca_interp.model.roles import roles_of

TABLES = {
    "similarity": [
        "comparison", "domain", "regime_a", "regime_b", "seed_a", "seed_b", "run_a", "run_b", "step_a", "step_b", "tokens",
        "layer_a", "layer_b", "value", "n",
    ],
    "streams": [*CHECKPOINT, "layer", "effective_rank", "participation", "n"],
    "updates": ["comparison", "domain", "regime_a", "regime_b", "seed", *UPDATES],
    "weights": [*CHECKPOINT, *COLUMNS],
    "head_norms": [*CHECKPOINT, *HEADS],
    "apart": ["run", "other", *DISTANCES],
}  # fmt: skip
"""Columns of each table (docs/compare.md)."""
TEXT = {
    "comparison", "run", "other", "run_a", "run_b", "regime", "regime_a", "regime_b", "domain", "stage", "tensor", "kind",
}  # fmt: skip
INTEGERS = {
    "seed", "seed_a", "seed_b", "step", "step_a", "step_b", "tokens", "layer", "layer_a", "layer_b", "head", "rank", "n",
}  # fmt: skip
CODE = (
    "causes/folded.py", "similarity/study.py", "similarity/cka.py", "similarity/weights.py", "similarity/apart.py",
    "../model/roles.py",
)  # fmt: skip
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


def compare_run(collection: Collection, run: Run) -> list[str]:
    """Measure and keep what a finished run adds to the tables, unless that is up to date; returns what is damaged."""
    peers = next((p for p in _all_peers(collection.runs) if p.run.id == run.id), None)
    if peers is None:
        return []
    rows = Rows(collection)
    sources = _made_from(peers, rows)
    missing = {name for name, made_from in sources.items() if _kept(peers.run, name, made_from) is None}
    try:
        made = _measure(peers, rows, missing)
    except UserError as error:
        return [str(error)]
    for name, frame in made.items():
        keep(peers.run.kept_whole("compare", name), frame[TABLES[name]], sources[name])
    return []


def _measure(peers: Peers, rows: Rows, wanted: set[str]) -> dict[str, pd.DataFrame]:
    if wanted:
        for step in peers.run.steps:
            check_directory(peers.run.checkpoint(step))
    makers: dict[str, Callable[[], pd.DataFrame]] = {
        "updates": lambda: _updates(peers),
        "weights": lambda: run_weights(peers.run),
        "head_norms": lambda: run_head_norms(peers.run),
        "apart": lambda: _apart(peers),
    }
    made = {name: make() for name, make in makers.items() if name in wanted}
    return made | _walk(peers, rows) if wanted & {"similarity", "streams"} else made


def measure(run: Run, asked: Asked) -> list[str]:
    """Measure what a run adds to the tables, unless that is up to date."""
    return compare_run(asked.collection, run)


def tables(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> dict[str, pd.DataFrame]:
    """The TABLES, `alike`, and `not_compared` with the reason."""
    return comparison_tables(collection)


def comparison_tables(collection: Collection) -> dict[str, pd.DataFrame]:
    """The TABLES from what is kept and still true, and `alike`; empty where `analyze --compare` has not been run."""
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    unlike: list[list[str]] = []
    unread: list[list[str]] = []
    rows = Rows(collection)
    for peers in _all_peers(collection.runs):
        if not any(peers.run.kept_whole("compare", name).is_file() for name in TABLES):
            continue
        for name, made_from in _made_from(peers, rows).items():
            frame = _kept(peers.run, name, made_from)
            if frame is not None and (reason := frame.attrs.get("not_read")):
                unread.append([peers.run.id, reason])
            if frame is not None and len(frame):
                unlike += frame.attrs.pop("not_compared", [])
                found[name].append(frame)
    if not found["apart"]:  # only models from elsewhere are compared weight by weight
        del found["apart"]
    empty = {name: pd.DataFrame(columns=columns) for name, columns in TABLES.items()}
    tables = {name: pd.concat(frames, ignore_index=True) if frames else empty[name] for name, frames in found.items()}
    told = {"not_compared": pd.DataFrame(unlike, columns=["run", "other", "reason"])} if unlike else {}
    told |= {"not_read": pd.DataFrame(unread, columns=["run", "reason"])} if unread else {}
    return {**tables, **told, "alike": alike(tables["similarity"])}


def run_weights(run: Run) -> pd.DataFrame:
    """`weight_table` of every checkpoint of a run, displacement counted from the run's own step 0."""
    start, role = tensors(run, run.steps[0]), roles_of(run.last)
    tables = [weight_table(tensors(run, step), start, role).assign(**run.at(step)) for step in run.steps]
    return pd.concat(tables, ignore_index=True)


def run_head_norms(run: Run) -> pd.DataFrame:
    """`head_norms` of every checkpoint of a run; where they cannot be read none, and the reason as `not_read` of its attrs."""
    config = load_config(run.last)
    n_heads = config.get_text_config().num_attention_heads if config.model_type == "llama" else 0
    tables = []
    try:
        for step in run.steps:
            if n_heads:
                norms = head_norms(tensors(run, step), int(n_heads))
            else:
                norms = model_head_norms(open_last(run.checkpoint(step)))
            tables.append(norms.assign(**run.at(step)))
    except (NotApplicable, UserError) as reason:
        empty = pd.DataFrame(columns=TABLES["head_norms"])
        empty.attrs = {"not_read": str(reason)}
        return empty
    return pd.concat(tables, ignore_index=True)


def tensors(run: Run, step: int) -> CheckpointTensors:
    """Weights of one checkpoint by name, on the CPU, read one at a time."""
    return CheckpointTensors(run.checkpoint(step))


def _all_peers(runs: Sequence[Run]) -> Iterator[Peers]:
    """Every finished run before fine-tuning; only full-transfer regimes and controls are compared with each other."""
    by_id = {run.id: run for run in runs}
    # scratch first, so that it is the second of each of its pairs; seeds before regimes: a new seed changes no earlier run;
    # models from elsewhere as they were named
    order = sorted(
        runs, key=lambda r: (-1 if r.seed is None else r.seed, r.regime != "scratch", r.regime if r.trained else "")
    )
    compared: dict[str | None, list[Run]] = {}
    for run in order:
        if not run.done or run.stage == "ft" or not run.steps:
            continue
        if not _is_compared(run):
            yield Peers(run, [], None, None)
            continue
        earlier = compared.setdefault(run.domain, [])
        scratch = next((r for r in earlier if r.regime == "scratch" and r.seed == run.seed), None)
        parent = by_id.get(run.parent or "")
        yield Peers(
            run, list(earlier), scratch, parent if parent is not None and parent.done and parent.steps else None
        )
        earlier.append(run)


def _is_compared(run: Run) -> bool:
    return (run.stage == "pt" or run.trained is None) and run.role in ("regime", "control")


def _made_from(peers: Peers, rows: Rows) -> dict[str, dict[str, Any]]:
    """By table: hashes of the checkpoints, rows and code that decide it."""
    run = peers.run
    own = [_hash(run, step) for step in run.steps]
    alone = {"code": code_hash(CODE), "own": own}
    if not _is_compared(run) or not rows.known(run):
        return {"weights": alone, "head_norms": alone}
    scratch = [_hash(peers.scratch, step) for step in peers.scratch.steps] if peers.scratch else []
    parent = [_hash(peers.parent, step) for step in _ends(peers.parent)] if peers.parent else []
    ends = {r.id: _hash(r, r.steps[-1]) for r in peers.earlier}
    with_others = alone | {"tokens": rows.sha256(run), "scratch": scratch, "ends": ends}
    return {
        "similarity": with_others, "streams": with_others, "updates": alone | {"scratch": scratch, "parent": parent},
        "weights": alone, "head_norms": alone,
    } | ({} if run.trained is not None else {"apart": alone | {"ends": ends}})  # fmt: skip


def _hash(run: Run, step: int) -> str:
    return weights_sha256(run.checkpoint(step))


def _kept(run: Run, name: str, made_from: dict[str, Any]) -> pd.DataFrame | None:
    columns = set(TABLES[name])
    return kept(
        run.kept_whole("compare", name), made_from, numbers=columns - TEXT - INTEGERS, integers=columns & INTEGERS,
    )  # fmt: skip


def _walk(peers: Peers, of: Rows) -> dict[str, pd.DataFrame]:
    """Tables `similarity` and `streams`: every checkpoint is read once, three at most are held."""
    run, scratch = peers.run, peers.scratch
    rows = of.rows(run)
    last = run.steps[-1]

    @lru_cache(maxsize=1)
    def end_of(index: int) -> list[Moments]:
        other = peers.earlier[index]
        return open_streams(other.checkpoint(other.steps[-1]), rows)

    end = open_streams(run.checkpoint(last), rows)
    similarity: list[dict[str, Any]] = []
    ranks: list[dict[str, Any]] = []
    for step in run.steps[:-1]:
        now = open_streams(run.checkpoint(step), rows)
        ranks += _ranks(run, step, now)
        similarity += _diagonal(_pair("time", run, run, step, last), now, end)
        if scratch is not None and step in scratch.steps:
            similarity += _diagonal(
                _pair("regimes", run, scratch, step, step), now, open_streams(scratch.checkpoint(step), rows)
            )
    apart: list[list[str]] = []
    for index, other in enumerate(peers.earlier):
        if not of.known(other) or of.sha256(other) != of.sha256(run):
            apart.append(
                [run.id, other.id, "their tokens differ (another tokenizer or text): positions do not correspond"]
            )
            continue
        same_seed, same_regime = (getattr(other, k) == getattr(run, k) for k in ("seed", "regime"))
        kind = "regimes" if same_seed else "seeds" if same_regime else "across"
        where = _pair(kind, run, other, last, other.steps[-1])
        compare = _matrix if kind == "regimes" or len(end) != len(end_of(index)) else _diagonal
        similarity += compare(where, end, end_of(index))
    ranks += _ranks(run, last, end)
    alike_in = pd.DataFrame(similarity, columns=TABLES["similarity"])
    alike_in.attrs = {"not_compared": apart} if apart else {}
    return {
        "similarity": alike_in,
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
        "comparison": comparison, "domain": a.domain, "regime_a": a.regime, "regime_b": b.regime,
        "seed_a": a.seed, "seed_b": b.seed, "run_a": a.id, "run_b": b.id,
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
        found = update_cosines(end, start, other_end, other_start, roles_of(run.last))
        where = {"domain": run.domain, "regime_a": run.regime, "regime_b": other.regime}
        frames.append(found.assign(comparison=comparison, seed=run.seed, **where))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=TABLES["updates"])


def _apart(peers: Peers) -> pd.DataFrame:
    """From the end of each earlier model to that of this one."""
    own = tensors(peers.run, peers.run.steps[-1])
    found = [
        distances(tensors(other, other.steps[-1]), own, roles_of(other.last)).assign(run=peers.run.id, other=other.id)
        for other in peers.earlier
    ]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=TABLES["apart"])


def _ends(run: Run) -> tuple[int, int]:
    steps = run.steps
    return steps[0], steps[-1]
