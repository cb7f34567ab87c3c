"""A table of probes for the terminal: where each is largest, and what chance would give."""

from __future__ import annotations

from typing import Any

import pandas as pd


def summarise(frame: pd.DataFrame) -> list[tuple[str, str, str, str, str, str, str]]:
    """One row a probe: name, largest head (or the model's value), its place, mean over heads, chance, unit, n."""
    rows = []
    group: Any
    for name, group in frame.groupby("probe", sort=True):
        heads = group[group["layer"].notna()]
        if heads.empty:
            first = group.iloc[0]
            rows.append((str(name), _number(first["value"]), "model", "", "", str(first["unit"]), str(first["n"])))
            continue
        best: Any = heads.loc[heads["value"].idxmax()]
        rows.append(
            (
                str(name),
                _number(best["value"]),
                f"{int(best['layer'])}.{int(best['head'])}",
                _number(heads["value"].mean()),
                _number(best["chance"]),
                str(best["unit"]),
                str(best["n"]),
            )
        )
    return rows


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.4f}"
