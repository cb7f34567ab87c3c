"""Causes for the terminal: the heads that matter, the top heads of each probe against random sets, what they share."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import fill
from typing import Any

import pandas as pd

from nca_interp.analysis.causes.circuit_edges import sentence
from nca_interp.analysis.collection.collection import Collection
from nca_interp.measurement import Shown

WIDTH = 80
SHOWN = 5
"""Heads shown for each metric: those whose loss harms most."""


def summary(collection: Collection, tables: dict[str, pd.DataFrame]) -> Iterator[Shown | str]:
    """Of each run that comes from elsewhere, where it was measured."""
    causes = tables.get("causes")
    if collection.study is not None or causes is None:
        return
    for run in collection.runs:
        frame = causes[causes.run == run.id]
        if frame.empty:
            continue
        edges = tables.get("circuit_edges")
        if edges is not None and (told := sentence(edges[edges.run == run.id])):
            yield fill(f"{run.label}: {told}", WIDTH)
        if checks := ranking(frame):
            yield fill(f"{run.label}: {checks}", WIDTH)
        yield Shown(f"{run.label}: heads whose ablation harms most, +- sd over sequences", *ablations(frame))
        for metric, columns, rows in tops(frame):
            yield Shown(
                f"{metric}: top heads ablated together, against random sets",
                columns,
                rows,
                ("heads", "against"),
            )
        if (compositions := strongest(edges[edges.run == run.id] if edges is not None else None))[1]:
            yield Shown("strongest compositions of two heads", *compositions, ("kind", "from", "to"))
        yield Shown("do the same heads carry both?", *loads(frame), ("and",))


def ablations(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Of each metric, one row for each of the SHOWN heads whose loss harms it most."""
    rows = []
    for metric, group in frame[frame.probe == "ablation"].groupby("metric", sort=False):
        for r in group[group["rank"] <= SHOWN].sort_values("rank").itertuples():
            named = [str(metric), f"{r.full:.4f}"] if r.rank == 1 else ["", ""]
            rows.append([*named, f"{r.layer}.{r.head}", f"{r.value:+.4f}", f"{r.sd:.4f}"])
    return ["metric", "of the model", "head", "change", "sd"], rows


def tops(frame: pd.DataFrame) -> list[tuple[str, list[str], list[list[str]]]]:
    """For each metric: its name, columns, one row a probe."""
    tables = []
    for metric, group in frame[frame.probe == "top_heads"].groupby("metric", sort=False):
        rows = [
            [str(r.by), f"{r.value:+.4f}", f"{r.chance:+.4f}", f"{r.p:.3f}", *str(r.at).split(" against ")]
            for r in group.itertuples()
        ]
        tables.append((str(metric), ["probe", "effect", "random", "p", "heads", "against"], rows))
    return tables


def loads(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """One row a pair of metrics."""
    found = frame[frame.probe == "cross_task"]
    return ["metric", "and", "Spearman", "p", "heads"], [
        [str(r.metric), str(r.by), f"{r.value:.3f}", f"{r.p:.4f}", str(r.n)] for r in found.itertuples()
    ]


def ranking(frame: pd.DataFrame) -> str:
    """How well attribution ranks what ablation of single heads does."""
    checks = frame[frame.probe == "attribution_check"]
    told = [
        f"{metric} {', '.join(f'{r.value:.2f} ({r.n} {r.by})' for r in group.itertuples())}"
        for metric, group in checks.groupby("metric", sort=False)
    ]
    return f"rank correlation of attribution with exact ablation: {'; '.join(told)}." if told else ""


def strongest(edges: pd.DataFrame | None) -> tuple[list[str], list[list[str]]]:
    """The first SHOWN compositions of each kind; kinds of heads cut to the first two."""
    columns = ["kind", "from", "to", "value", "chance", "z"]
    if edges is None:
        return columns, []

    def named(layer: Any, head: Any, kinds: Any) -> str:
        names = [name for name in ("previous_token", "induction") if name in str(kinds).split()]
        return " ".join([f"{layer}.{head}", *names])

    return columns, [
        [
            str(r.kind), named(r.from_layer, r.from_head, r.from_kinds), named(r.layer, r.head, r.kinds), f"{r.value:.3f}",
            f"{r.chance:.3f}", f"{r.z:.1f}",
        ]
        for r in edges[edges.order <= SHOWN].itertuples()
    ]  # fmt: skip
