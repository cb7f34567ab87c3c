"""Which heads matter: ablations, matched random sets, cross-task load, lens, patching and circuits of one checkpoint, as a table."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from nca_interp.analysis.causes.ablation import HOW, Effects, Head, How, ablate, ablate_sets
from nca_interp.analysis.causes.composition import not_computed, weight_rows
from nca_interp.analysis.causes.effects import Task, tasks_for
from nca_interp.analysis.causes.random_sets import heads_by_layer, random_sets, ranked
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.causes.shared_heads import cross_load
from nca_interp.analysis.collection.run import CHECKPOINT
from nca_interp.analysis.probing.probe import TOP_SHARE
from nca_interp.analysis.probing.table import COLUMNS as PROBE_COLUMNS
from nca_interp.analysis.probing.table import table
from nca_interp.analysis.stimuli.base import NotApplicable, account
from nca_interp.base import UserError
from nca_interp.discover import Definition, load

EXTRA = ["metric", "by", "site", "how", "full", "rank", "worse", "p", "from_layer", "from_head", "at"]
COLUMNS = [*PROBE_COLUMNS, *EXTRA]
SETS = 50
"""Random sets that the top heads of a probe are compared with, where there are so many."""
EDGE_HEADS = 2
"""Previous-token and induction heads, the best of each, between which edges are tested."""
PARTS = {"ablation": "every head ablated", "top_heads": "top heads against random sets", "logit_lens": "logit lens"}
"""Stages of each stimulus, as they are announced."""

Row = dict[str, Any]
Scores = dict[str, dict[Head, float]]
"""Scores of all heads, by probe."""


def causes(
    checkpoint: Path | str,
    *,
    tokens: Path | str | None = None,
    tokenizer: Path | str | None = None,
    probes_folder: Path | str | None = None,
    how: How = "mean",
    k: int | None = None,
    sets: int = SETS,
    device: str = "cpu",
    scores: Scores | None = None,
    on_part: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Table of every causal measure of one checkpoint: COLUMNS, documented in docs/causes.md.

    `how`: what replaces a head's output: mean, zero or resample. `k`: heads in a probe's top set (default 2 % of all,
    at least one); `sets`: random sets without them, as many heads in each layer, at least 50 (all where there are fewer). `scores`: those of `scoring_probes`
    where they were measured for these weights before. `attrs`: "skipped", what does not apply to this model and why; "problems",
    stages that failed (the others are there); "provenance". Raises UserError for a checkpoint that cannot be opened or changes
    while it is read, a model whose layers have no known names or that takes no stimulus, and arguments out of range.
    """
    from nca_interp.analysis.probing.measure import open_scored
    from nca_interp.analysis.stimuli.source import Source, unchanged
    from nca_interp.analysis.stimuli.subject import describe
    from nca_interp.machine import package_versions
    from nca_interp.model.checkpoint import read_provenance

    if how not in get_args(How):
        raise UserError(f"how: {how!r}; legal: {', '.join(HOW)}")
    if sets < SETS:
        raise UserError(f"sets: {sets}; legal: {SETS} or more (fewer cannot tell)")
    tell = on_part or (lambda part: None)
    source = Source.find(checkpoint)
    with unchanged(source.directory):
        model = open_scored(source.directory, device)
        provenance = read_provenance(source.directory)
        subject = describe(source.directory, model.config, provenance, _path(tokens), _path(tokenizer))
        try:
            if scores is None:
                scores = _measure_scores(model, subject, scoring_probes(_path(probes_folder)))
            rows, skipped, problems = _rows(model, subject, scores, how, k, sets, tell)
        except NotApplicable as reason:
            raise UserError(f"{checkpoint}: {reason}") from None
    identity = {key: provenance.get(key) for key in CHECKPOINT}
    identity["run"] = identity["run"] or source.directory.resolve().name
    frame = as_table([{**identity, **row} for row in rows])
    frame.attrs = {
        "skipped": [f"{name}: {reason}" for name, reason in skipped.items()],
        "problems": problems,
        "provenance": {
            "checkpoint": str(checkpoint), "checkpoint_sha256": source.sha256(), "how": how, "k": k, "sets": sets,
            "tokens": account(subject), "device": device, "versions": package_versions(),
        },
    }  # fmt: skip
    return frame


def as_table(rows: list[Row]) -> pd.DataFrame:
    """Rows with the columns, order and types of the causes table."""
    frame, extra = table(rows), pd.DataFrame(rows, columns=EXTRA)
    for column in EXTRA:
        if column in ("rank", "worse", "from_layer", "from_head"):
            frame[column] = pd.to_numeric(extra[column]).astype("Int64")
        elif column in ("full", "p"):
            frame[column] = pd.to_numeric(extra[column]).astype(float)
        else:
            frame[column] = extra[column].astype(object).where(extra[column].notna(), "")
    return frame


def _rows(
    model: Any, subject: Any, scores: Scores, how: How, k: int | None, sets: int, tell: Callable[[str], None]
) -> tuple[list[Row], dict[str, str], list[str]]:
    """Rows, what does not apply and why, what failed."""
    problems: list[str] = []
    trunk = Trunk(model)
    if k is not None and not 1 <= k <= trunk.n_layers * trunk.n_heads:
        raise UserError(f"k: {k}; legal: 1 to {trunk.n_layers * trunk.n_heads}, the model's heads")
    tasks, skipped = tasks_for(subject)
    if not tasks:
        raise NotApplicable(f"nothing to measure effects on: {'; '.join(f'{n}: {why}' for n, why in skipped.items())}")
    rows: list[Row] = []
    effects: dict[str, Effects] = {}

    def attempt(name: str, part: str, stage: Callable[[], list[Row]]) -> None:
        """Add the rows of a stage; what it raises costs its own rows only."""
        tell(part)
        try:
            rows.extend(stage())
        except NotApplicable as reason:
            skipped[name] = str(reason)
        except UserError:
            raise
        except Exception as error:
            problems.append(f"{name}: {type(error).__name__}: {str(error).strip()} ({_place(error)})")

    def ablated(task: Task) -> list[Row]:
        effects[task.name] = ablate(trunk, task, how)
        return effect_rows(task, effects[task.name], how)

    for task in tasks:
        for name, stage in {
            "ablation": partial(ablated, task), "top_heads": partial(top_rows, trunk, task, scores, k, sets),
            "logit_lens": partial(lens_rows, trunk, task),
        }.items():  # fmt: skip
            attempt(f"{name} on {task.name}", f"{PARTS[name]}: {task.name}", stage)
        if task.name == "repeated_tokens":
            attempt("patching", "patching", partial(patching_rows, trunk, task))
            attempt("edge", "edges", partial(edge_rows, trunk, task, scores))
    attempt("cross_task", "cross_task", lambda: load_rows([task for task in tasks if task.name in effects], effects))
    attempt("weights", "weights", lambda: weight_rows(model))
    if not rows and not problems:
        raise NotApplicable("; ".join(dict.fromkeys(skipped.values())))
    return rows, skipped | not_computed(rows), problems


def _place(error: Exception) -> str:
    """File and line that raised, in this package where possible."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename).is_relative_to(Path(__file__).parent)]
    return f"{Path((own or frames)[-1].filename).name}:{(own or frames)[-1].lineno}"


def effect_rows(task: Task, effects: Effects, how: How) -> list[Row]:
    """One row for each site and metric: mean and sd over sequences of metric(ablated) - metric(full); rank 1 harms most,
    among sites of the same kind."""
    rows = []
    for name, metric in task.metrics.items():
        for kind in ("head", "attn", "mlp", "layer"):
            sites = [site for site in effects.after if site.kind == kind]
            changes = {site: effects.change(site, name) for site in sites}
            order = sorted(sites, key=lambda s: -metric.harm * float(changes[s].mean()))
            for site in sites:
                rows.append({
                    "probe": "ablation" if kind == "head" else "knock_out", "layer": site.layer, "head": site.head,
                    "value": float(changes[site].mean()), "sd": float(changes[site].std()), "n": len(changes[site]),
                    "unit": _unit(metric.unit, task), "metric": name, "site": kind,
                    "how": how if kind == "head" else "zero", "full": float(effects.full[name].mean()),
                    "rank": order.index(site) + 1, "worse": metric.harm,
                })  # fmt: skip
    return rows


def _unit(unit: str, task: Task) -> str:
    return f"{unit}, {task.batch.note}" if task.batch.note else unit


def scoring_probes(folder: Path | None = None) -> dict[str, Definition]:
    """The probes that name a kind of head, by name: what top heads are the best of. Files that do not load are left out."""
    found = load("probes", folder, lambda problem: None)
    return {
        n: d for n, d in sorted(found.items()) if d.value.hit is not None and d.value.reads in ("attention", "heads")
    }


def _measure_scores(model: Any, subject: Any, probes: dict[str, Definition]) -> Scores:
    from nca_interp.analysis.probing.measure import Measurer

    return as_scores(Measurer(probes).measure(model, subject).rows)


def as_scores(rows: Iterable[Row]) -> Scores:
    """Rows of a probes table by probe and head."""
    scores: Scores = {}
    for row in rows:
        scores.setdefault(row["probe"], {})[row["layer"], row["head"]] = row["value"]
    return scores


def top_heads(scores: dict[Head, float], k: int) -> list[Head]:
    """The k heads with the highest scores, best first; without those that share the score of one that would be left out, for
    nothing says which of them are above. So fewer than k, or none, where many heads score alike."""
    ordered = sorted(scores, key=lambda head: (-scores[head], head))
    left_out = {scores[head] for head in ordered[k:]}
    return [head for head in ordered[:k] if scores[head] not in left_out]


def top_rows(trunk: Trunk, task: Task, scores: Scores, k: int | None, sets: int) -> list[Row]:
    """The top heads of each probe mean-ablated together (`top_heads`), the mean and sd of random sets without them beside it,
    and each set of the round that they are ranked among (`random_heads`)."""
    size = k or max(1, math.ceil(TOP_SHARE * trunk.n_layers * trunk.n_heads))
    tops = {probe: frozenset(top) for probe, heads in scores.items() if (top := top_heads(heads, size))}
    drawn = {top: random_sets(top, trunk.n_heads, sets) for top in dict.fromkeys(tops.values())}
    changes = ablate_sets(trunk, task, [*drawn, *(s for found in drawn.values() for s in found.sets)])
    rows = []
    for probe, top in tops.items():
        found = drawn[top]
        for name, metric in task.metrics.items():
            value = float(changes[top][name].mean())
            random = np.array([float(changes[s][name].mean()) for s in found.sets])
            of_round = random[: len(found.round)]
            same: Row = {
                "by": probe, "metric": name, "how": "mean", "worse": metric.harm, "unit": _unit(metric.unit, task),
            }  # fmt: skip
            rows.append({
                **same, "probe": "top_heads", "value": value, "chance": float(random.mean()) if len(random) else None,
                "sd": float(random.std(ddof=1)) if len(random) > 1 else None, "n": len(random),
                "p": ranked([metric.harm * value], [metric.harm * of_round]).p,
                "at": f"{heads_by_layer(top)} against {len(random)} sets{', all there are' if found.complete else ''}",
            })  # fmt: skip
            rows += [
                {**same, "probe": "random_heads", "value": float(v), "at": heads_by_layer(s)}
                for s, v in zip(found.round, of_round, strict=True)
            ]
    return rows


def load_rows(tasks: list[Task], effects: dict[str, Effects]) -> list[Row]:
    """cross_load of the first metrics of every two tasks (loss on repeated tokens, on own data, on NCA frames)."""
    harms, layers = {}, np.zeros(0)
    for task in tasks:
        name, metric = next(iter(task.metrics.items()))
        found = effects[task.name]
        heads = [site for site in found.after if site.kind == "head"]
        harms[name] = [metric.harm * float(found.change(site, name).mean()) for site in heads]
        layers = np.array([site.layer for site in heads])
    rows = []
    names = list(harms)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if len(harms[one]) >= 3:
                load = cross_load(harms[one], harms[other], layers)
                rows.append({
                    "probe": "cross_task", "metric": one, "by": other, "value": load.rho, "p": load.p, "n": load.n,
                    "chance": 0.0, "unit": "Spearman correlation",
                })  # fmt: skip
    return rows


def lens_rows(trunk: Trunk, task: Task) -> list[Row]:
    """The logit lens at every layer; layer n_layers is the model itself."""
    from nca_interp.analysis.causes.lens import logit_lens

    lens, units = logit_lens(trunk, task), {"nll": "nats", "kl": "nats", "agreement": "share", "entropy": "nats"}
    return [
        {
            "probe": "logit_lens", "metric": name, "at": task.name, "layer": layer, "site": "resid_pre",
            "value": float(values.mean()), "sd": float(values.std()), "n": len(values), "unit": _unit(units[name], task),
        }
        for name, layers in lens._asdict().items() for layer, values in enumerate(layers)
    ]  # fmt: skip


def patching_rows(trunk: Trunk, task: Task) -> list[Row]:
    """Share of the repeated-token loss that one clean activation recovers; the unit tells of how much."""
    from nca_interp.analysis.causes.patching import METRIC, patch

    found = patch(trunk, task)
    return [
        {
            "probe": "patching", "metric": METRIC, "site": site.kind, "layer": site.layer, "head": site.head,
            "value": found.recovery(site), "chance": 0.0, "full": float(found.clean.mean()), "n": len(found.clean),
            "unit": _unit(f"share of {found.denominator:.4f} nats", task),
        }
        for site in found.patched
    ]  # fmt: skip


def edge_rows(trunk: Trunk, task: Task, scores: Scores) -> list[Row]:
    """Path ablation between the best previous-token and induction heads; `full` is what losing the later head costs."""
    from nca_interp.analysis.causes.patching import METRIC, edge

    if not {"previous_token", "induction"} <= scores.keys():
        return []
    first, second = (top_heads(scores[name], EDGE_HEADS) for name in ("previous_token", "induction"))
    rows = []
    for earlier in first:
        for later in second:
            if earlier[0] < later[0]:
                found = edge(trunk, task, earlier, later)
                rows.append({
                    "probe": "edge", "metric": METRIC, "from_layer": earlier[0], "from_head": earlier[1],
                    "layer": later[0], "head": later[1], "value": float(found.change.mean()), "how": "mean",
                    "sd": float(found.change.std()), "full": float(found.later.mean()), "n": len(found.change),
                    "unit": _unit("nats per token", task),
                })  # fmt: skip
    return rows


def _path(value: Path | str | None) -> Path | None:
    return None if value is None else Path(value)
