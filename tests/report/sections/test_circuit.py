"""The rise of scores over the synthetic stage."""

from __future__ import annotations

import pandas as pd

from nca_interp.report.sections import circuit
from nca_interp.report.tables import Tables


def test_the_highest_head_of_each_checkpoint_is_drawn(study):
    tables = Tables(study)
    figure = circuit.phases(tables)[0]
    rows = tables.probes[(tables.probes.stage == "ppt") & tables.probes["head"].notna()]
    highest = rows[rows.probe == "induction"].groupby(["run", "step"]).value.max()
    drawn = figure.data[figure.data.probe == "induction"].set_index(["run", "step"]).value
    finished = highest[highest.index.get_level_values("run").isin(tables.finished)]
    pd.testing.assert_series_equal(drawn.sort_index(), finished.sort_index(), check_names=False, check_index_type=False)
