"""Rows of the causes table on sets of heads lost together: the top heads of each probe against random sets."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from nca_interp.analysis.causes.ablation import Head, ablate_sets
from nca_interp.analysis.causes.effects import Task
from nca_interp.analysis.causes.random_sets import RandomSets, heads_by_layer, ranked
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.causes.rows import Scores, top_heads, unit_of
from nca_interp.analysis.causes.table import Row
from nca_interp.analysis.probing.probe import TOP_SHARE


def top_sets(trunk: Trunk, scores: Scores, k: int | None) -> dict[str, frozenset[Head]]:
    """The k best heads of each probe (default TOP_SHARE of all, at least one) whose best heads stand out."""
    size = k or max(1, math.ceil(TOP_SHARE * trunk.n_layers * trunk.n_heads))
    return {probe: frozenset(top) for probe, heads in scores.items() if (top := top_heads(heads, size))}


def set_rows(
    trunk: Trunk, task: Task, sets: Iterable[frozenset[Head]], means: Any = None, on_step: Any = None
) -> list[Row]:
    """Mean effect of each set of heads on each metric."""
    changes = ablate_sets(trunk, task, sets, on_step, means)
    return [
        {"probe": "set", "metric": name, "value": float(values.mean()), "at": heads_by_layer(heads), "unit": ""}
        for heads, found in changes.items() for name, values in found.items()
    ]  # fmt: skip


def held_against(
    task: Task, tops: dict[str, frozenset[Head]], drawn: dict[frozenset[Head], RandomSets], measured: list[Row]
) -> list[Row]:
    """The top heads of each probe mean-ablated together (`top_heads`), the mean and sd of random sets without them beside it,
    and each set of the round that they are ranked among (`random_heads`); from `measured`, rows of all these sets."""
    effect = {(row["at"], row["metric"]): row["value"] for row in measured}
    rows = []
    for probe, top in tops.items():
        found = drawn[top]
        for name, metric in task.metrics.items():
            value = effect[heads_by_layer(top), name]
            random = np.array([effect[heads_by_layer(s), name] for s in found.sets])
            of_round = random[: len(found.round)]
            same: Row = {
                "by": probe, "metric": name, "how": "mean", "worse": metric.harm, "unit": unit_of(metric.unit, task),
            }  # fmt: skip
            rows.append({
                **same, "probe": "top_heads", "value": value, "chance": float(random.mean()) if len(random) else None,
                "sd": float(random.std(ddof=1)) if len(random) > 1 else None, "n": len(random),
                "p": ranked([metric.harm * value], [(metric.harm * of_round).tolist()]).p,
                "at": f"{heads_by_layer(top)} against {len(random)} sets{', all there are' if found.complete else ''}",
            })  # fmt: skip
            rows += [
                {**same, "probe": "random_heads", "value": float(v), "at": heads_by_layer(s)}
                for s, v in zip(found.round, of_round, strict=True)
            ]
    return rows
