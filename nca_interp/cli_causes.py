"""`nca-interp analyze --checkpoint DIR --causes`: what the model loses without each head, printed and as a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nca_interp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 5
"""Heads shown for each metric: those whose loss harms most."""


def show_causes(checkpoint: str, options: dict[str, Any], path: Path | None) -> None:
    """Measure, print the heads that matter, and write the whole table to `path` if given."""
    from rich.console import Console
    from rich.table import Table

    from nca_interp.analysis.causes import causes
    from nca_interp.analysis.probe_table import SUFFIXES, save

    if path is not None and path.suffix not in SUFFIXES:
        raise UserError(f"--table {path}: unknown kind of table {path.suffix!r}; legal: {', '.join(SUFFIXES)}")
    with Console(stderr=True).status("opening") as status:
        frame = causes(checkpoint, on_part=status.update, **options)
    for title, columns, rows in (
        (f"{checkpoint}: change where a head is ablated, +- sd over sequences (rank)", *ablations(frame)),
        ("top heads of each probe ablated together, against random sets of the same layers", *tops(frame)),
        ("do the same heads carry both?", *loads(frame)),
    ):
        if rows:
            table = Table(title=title, title_justify="left")
            for column in columns:
                table.add_column(column)
            for row in rows:
                table.add_row(*row)
            Console().print(table)
    if path is not None:
        print(f"table: {', '.join(map(str, save(frame, path)))}")
    else:
        print("the whole table (knock-outs, logit lens, patching, edges, circuits): --table FILE")
    for reason in frame.attrs["skipped"]:
        print(f"skipped: {reason}", file=sys.stderr)


def ablations(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """One row a head that is among the SHOWN most harmful of some metric, one column a metric."""
    heads = frame[frame.probe == "ablation"]
    metrics = list(dict.fromkeys(heads.metric))
    shown = heads[heads["rank"] <= SHOWN][["layer", "head"]].drop_duplicates().sort_values(["layer", "head"])
    cells = {(r.layer, r.head, r.metric): f"{r.value:+.4f} +- {r.sd:.4f} ({r.rank})" for r in heads.itertuples()}
    rows = [[f"{n}.{h}", *(cells[n, h, m] for m in metrics)] for n, h in shown.itertuples(index=False)]
    full = heads.drop_duplicates("metric").set_index("metric").full
    return ["head", *(f"{m} (full {full[m]:.4f})" for m in metrics)], rows


def tops(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """One row a probe and metric."""
    found = frame[frame.probe == "top_heads"]
    return ["probe", "metric", "effect", "random", "p", "heads"], [
        [str(r.by), str(r.metric), f"{r.value:+.4f}", f"{r.chance:+.4f}", f"{r.p:.3f}", str(r.at)]
        for r in found.itertuples()
    ]


def loads(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """One row a pair of metrics."""
    found = frame[frame.probe == "cross_task"]
    return ["metric", "and", "Spearman", "p", "heads"], [
        [str(r.metric), str(r.by), f"{r.value:.3f}", f"{r.p:.4f}", str(r.n)] for r in found.itertuples()
    ]
