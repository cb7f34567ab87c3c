"""Rule inference for the terminal: a table for each kind of rules, and what changed contexts cost."""

from __future__ import annotations

from typing import Any

import pandas as pd

CONTROLS = ("context swap", "frame shuffle")


def by_frame(frame: pd.DataFrame) -> list[tuple[str, list[str], list[list[str]]]]:
    """Of what `rule_inference` returned a table for each kind of rules: title, columns, a row a frame; no controls."""
    tables = []
    group: Any
    for rules, group in frame.groupby("rules", sort=False):
        cells = group[(group["quantity"] == "cell_accuracy") & ~group["predictor"].isin(CONTROLS)]
        wide = cells.pivot(index="frame", columns="predictor", values="value")[list(dict.fromkeys(cells["predictor"]))]
        loss = group[(group["quantity"] == "loss") & (group["predictor"] == "teacher-forced")]
        wide.insert(0, "loss", loss.set_index("frame")["value"])
        low, high = group[["band_low", "band_high"]].iloc[0]
        band = "" if pd.isna(low) else f" [{low:g}, {high:g})"
        rows = [
            [str(index), *("" if pd.isna(v) else f"{v:.3f}" for v in values)]
            for index, values in zip(wide.index, wide.to_numpy(), strict=True)
        ]
        title = f"{rules}{band}, {group['n'].max()} rules: nats a patch token, shares of cells predicted"
        tables.append((title, ["frame", *(str(c).replace("-", "-\n") for c in wide.columns)], rows))
    return tables


def what_changed_contexts_cost(learned: dict[str, Any]) -> str:
    """The two controls and the slope of `rule_inference` in a sentence."""

    def told(name: str) -> str:
        value, low, high = (learned[f"{name}{end}"] for end in ("", "_low", "_high"))
        return "not measured" if value is None else f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"

    return (
        f"Nats a patch token: last frame minus first {told('gain')}, slope in ln(frame) {told('slope')}; at the last frame a "
        f"context swap adds {told('swap')}, a frame shuffle {told('shuffle')}."
    )
