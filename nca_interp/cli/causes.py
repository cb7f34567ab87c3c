"""`nca-interp analyze --checkpoint DIR --causes`: what the model loses without each head, printed and as a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nca_interp.cli.plan import print_table

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 5
"""Heads shown for each metric: those whose loss harms most."""


def show_causes(checkpoint: str, options: dict[str, Any], path: Path | None) -> None:
    """Measure, print the heads that matter, and write the whole table to `path` if given."""
    from rich.console import Console

    from nca_interp.analysis.causes.causes import causes
    from nca_interp.analysis.probing.table import save

    with Console(stderr=True).status("opening") as status:
        frame = causes(checkpoint, on_part=status.update, **options)
    print_table(f"{checkpoint}: heads whose ablation harms most, +- sd over sequences", *ablations(frame))
    for metric, columns, rows in tops(frame):
        print_table(
            f"{metric}: top heads of each probe ablated together, against random sets",
            columns,
            rows,
            left=("heads", "against"),
        )
    print_table("do the same heads carry both?", *loads(frame), left=("and",))
    if path is not None:
        print(f"table: {', '.join(map(str, save(frame, path)))}")
    else:
        print("the whole table (knock-outs, logit lens, patching, edges, circuits): --table FILE")
    for reason in frame.attrs["skipped"]:
        print(f"skipped: {reason}", file=sys.stderr)


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
