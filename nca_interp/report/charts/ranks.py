"""The heads of one network in the order of their scores."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from nca_interp.report.charts.heatmaps import map_height
from nca_interp.report.charts.theme import signal, sized


def ranked(rows: pd.DataFrame, levels: pd.DataFrame) -> alt.LayerChart:
    """A mark a head, highest first; the signal `probe` names the column that is drawn. `rows`: as of `heat`; `levels`: probe,
    value, text (chance and the like). The page sets the signal `at` to the chosen [layer, head]."""
    x = alt.X("place:Q", title="heads, highest first", axis=alt.Axis(tickCount=5, format="d"), scale=alt.Scale(nice=False, padding=8))  # fmt: skip
    y = alt.Y("value:Q", title="score", scale=alt.Scale(zero=False, nice=True, padding=10), axis=alt.Axis(tickCount=5))
    base = alt.Chart(rows).transform_calculate(value="datum[probe]").transform_filter("isValid(datum.value)")
    order: list[Any] = [alt.SortField("value", order="descending")]
    base = base.transform_window(place="row_number()", sort=order)
    tip = [
        alt.Tooltip("layer:O"),
        alt.Tooltip("head:O"),
        alt.Tooltip("value:Q", format=".4f"),
        alt.Tooltip("place:Q", title="rank"),
    ]
    hit = "indexof(datum.hits, ' ' + probe + ' ') >= 0"
    marks = base.mark_point(size=38, filled=True, opacity=0.9).encode(
        x, y, color=alt.condition(hit, alt.value(signal("pal[2]")), alt.value(signal("mut"))), tooltip=tip
    )
    lines = alt.Chart(levels).transform_filter("datum.probe == probe").encode(y=alt.Y("value:Q"))
    text = lines.mark_text(align="right", dx=-2, dy=-6, fontSize=11, color=signal("mut"))
    chosen = base.transform_filter("datum.layer == at[0] && datum.head == at[1]")
    layers: list[Any] = [
        lines.mark_rule(strokeDash=[4, 3], strokeWidth=1.2),
        text.encode(x=alt.XValue("width"), text=alt.Text("text:N")),
        marks,
        chosen.mark_point(size=160, strokeWidth=2.5, color=signal("fg")).encode(x, y),
    ]
    return sized(alt.layer(*layers).add_params(alt.param(name="at", value=[-1, -1])), map_height(rows))
