"""One table of a study as a data frame: for a notebook."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nca_interp.base import UserError
from nca_interp.config import suggest
from nca_interp.readers import damaged, read_cells
from nca_interp.report.columns import columns_of, read_typed
from nca_interp.store import AnalysisDir, StudyDir


def table(study: str | Path, name: str) -> pd.DataFrame:
    """One table of a study, or of an analysis of checkpoints, with all its columns (docs/tables.md): numbers are floats (NaN where the
    cell is empty), text is text, yes and no are bools. `study`: its folder. UserError for an unknown name, and for a table that is
    damaged or was not made."""
    path = Path(study)
    directory = AnalysisDir(path) if AnalysisDir(path).collection.is_file() else StudyDir.open(path)
    known = columns_of()
    if name not in known:
        raise UserError(f"table {name!r}: no such table{suggest(name, sorted(known))}")
    mend = f"written again by: {directory.analyze()}"
    directory.check_tables()
    if not directory.table(name).is_file():
        raise damaged(directory.table(name), "no such table in this study", mend)
    found = read_typed(directory.table(name), known[name], mend)
    for column, cells in read_cells(directory.table(name), None, mend).items():
        if column not in found:  # what the report does not rely on
            numbers = pd.to_numeric(cells.replace("", None), errors="coerce")
            found[column] = (
                numbers.astype(float) if numbers.notna().sum() == (cells != "").sum() else cells.astype(object)
            )
    return found
