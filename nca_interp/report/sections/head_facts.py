"""What is known of single heads beside scores and effects: norms of their weights, and whatever measurements say in words."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nca_interp.report.charts.numbers import plain, whole
from nca_interp.report.render import columnar
from nca_interp.report.tables import Tables

NORMS = {"ov_norm": "size of its OV circuit, |W_V W_O|", "qk_norm": "size of its QK circuit, |W_Q W_Kᵀ|"}
WEIGHTS = "Its weights"
COLUMNS = ["run", "layer", "head", "group", "fact", "text"]


def of(tables: Tables, runs: list[str]) -> dict[str, Any] | None:
    """Columns of the facts on the heads of `runs`; None where there are none."""
    facts = tables.head_facts
    found = pd.concat([_norms(tables), facts], ignore_index=True) if len(facts) else _norms(tables)
    found = found[found.run.isin(runs)]
    return columnar(found) if len(found) else None


def _norms(tables: Tables) -> pd.DataFrame:
    """Norms at the last checkpoint of each run, with their rank in it."""
    rows = tables.head_norms
    rows = rows[rows.step == rows.groupby("run").step.transform("max")]
    parts = []
    for column, fact in NORMS.items():
        known = rows[rows[column].notna()]
        rank = known.groupby("run")[column].rank(ascending=False, method="min")
        of_all = known.groupby("run")[column].transform("size")
        text = [
            f"{plain(v)}, rank {whole(r)} of {whole(n)}" for v, r, n in zip(known[column], rank, of_all, strict=True)
        ]
        parts.append(known[["run", "layer", "head"]].assign(group=WEIGHTS, fact=fact, text=text))
    return pd.concat(parts, ignore_index=True)[COLUMNS]
