"""The causes table as a report reads it: final checkpoints, places in words, effects signed so that more is worse."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from nca_interp.report.page import Choice
from nca_interp.report.tables import Tables

INCONCLUSIVE = "inconclusive"
BEFORE = "end of pre-pre-training"
LOSSES = ("repeated_token_loss", "own_loss", "nca_loss")


class Causes(NamedTuple):
    """Final checkpoints of the compared regimes: rows of the causes table with `place` (the domain in words, or BEFORE) and `harm`
    (the effect, signed so that more is worse)."""

    rows: pd.DataFrame
    places: list[str]
    metrics: dict[str, str]
    """Metric -> unit, in the order of the table."""

    def of(self, probe: str) -> pd.DataFrame:
        """Rows of one measure."""
        return self.rows[self.rows.probe == probe]


def read(tables: Tables) -> Causes | None:
    """None where no head was ablated."""
    rows = tables.causes
    rows = rows[
        rows.run.isin(tables.finished)
        & rows.regime.isin(tables.main)
        & rows.stage.isin(["ppt", "pt"])
        & rows.value.notna()
    ]
    rows = rows[rows.step == rows.groupby("run").step.transform("max")]
    ablated = rows[rows.probe == "ablation"]
    if ablated.empty:
        return None
    rows = placed(tables, rows).assign(harm=lambda f: f.value * f.worse)
    places = [p for p in [*tables.domains.values(), BEFORE] if p in set(rows.place)]
    metrics = {str(m): str(u).split(",")[0] for m, u in ablated.groupby("metric", sort=False).unit.first().items()}
    return Causes(rows, places, metrics)


def placed(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with their `place` in front."""
    place = rows.domain.map(tables.domain_label).where(rows.stage == "pt", BEFORE)
    return rows.assign(place=place)[["place", *rows.columns]]


def choice(found: Causes, order: list[str] | None = None) -> Choice:
    """Which metric is drawn."""
    return Choice("metric", "What is lost", tuple((m, f"{m} ({found.metrics[m]})") for m in order or found.metrics))
