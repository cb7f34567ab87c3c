"""The table of causes: its columns and types."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nca_interp.analysis.probing.table import COLUMNS as PROBE_COLUMNS
from nca_interp.analysis.probing.table import table

EXTRA = ["metric", "by", "site", "how", "full", "rank", "worse", "p", "from_layer", "from_head", "at"]
COLUMNS = [*PROBE_COLUMNS, *EXTRA]
NUMBERS = ("value", "chance", "null_95", "sd", "full", "p")
INTEGERS = ("seed", "step", "tokens", "layer", "head", "hit", "n", "rank", "worse", "from_layer", "from_head")

Row = dict[str, Any]


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
