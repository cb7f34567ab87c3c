"""Attention of a head drawn on the grids of an NCA trajectory."""

from __future__ import annotations

from typing import Any, cast

import altair as alt
import pandas as pd

from nca_interp.report.charts.kinds import signal

SIDE = 132
"""Pixels a grid."""


def attended(cells: pd.DataFrame, patches: pd.DataFrame, frame: int, choice: str, side: int) -> alt.LayerChart:
    """The grid of one frame: its cells in grey, over them a head's attention by patch in orange; the patch that is predicted and the
    patches that its rule reads are outlined. `cells`: frame, row, column, state (0 to 1); `patches`: frame, query, top, left, bottom,
    right (in cells), attention, part ("", "predicted" or "cause"). The signal `choice` chooses the query; `side`: cells a side."""
    x = alt.X("left:Q", axis=None, scale=alt.Scale(domain=[0, side], nice=False))
    y = alt.Y("top:Q", axis=None, scale=alt.Scale(domain=[side, 0], nice=False))
    own = alt.Chart(patches).transform_filter(f"datum.frame == {frame} && '' + datum.query == {choice}")
    where = own.encode(x, y, x2=alt.X2("right:Q"), y2=alt.Y2("bottom:Q"))
    ground = (
        alt.Chart(cells)
        .transform_filter(f"datum.frame == {frame}")
        .transform_calculate(left="datum.column", right="datum.column + 1", top="datum.row", bottom="datum.row + 1")
        .mark_rect(aria=False, fill=signal("mut"))
        .encode(x, y, x2=alt.X2("right:Q"), y2=alt.Y2("bottom:Q"), fillOpacity=alt.FillOpacity("state:Q", scale=alt.Scale(domain=[0, 1], range=[0.06, 0.75]), legend=None))
    )  # fmt: skip
    tip = [alt.Tooltip("attention:Q", format=".1%"), alt.Tooltip("frame:O"), alt.Tooltip("part:N")]
    heat = where.mark_rect(aria=False, fill={"expr": "pal[2]"}).encode(
        opacity=alt.Opacity("attention:Q", scale=alt.Scale(type="sqrt", domain=[0, 0.4], range=[0, 0.9], clamp=True), legend=None),
        tooltip=tip,
    )  # fmt: skip
    causes = where.transform_filter("datum.part == 'cause'").mark_rect(
        aria=False, filled=False, stroke={"expr": "pal[1]"}, strokeWidth=1.6
    )
    asked = where.transform_filter("datum.part == 'predicted'").mark_rect(
        aria=False, filled=False, stroke={"expr": "pal[4]"}, strokeWidth=2.6
    )
    grid: Any = alt.layer(ground, heat, causes, asked)
    return cast(alt.LayerChart, grid.properties(width=SIDE, height=SIDE))
