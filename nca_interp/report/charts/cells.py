"""Maps of a network on one text: a cell for each pair of token, layer or head."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from nca_interp.report.charts.theme import ramp_scale, signal, sized

WIDEST = 320
"""Pixels of height at most."""


def share_scale(largest: float = 1.0) -> alt.Scale:
    """Colours of a share from nothing to `largest`."""
    return ramp_scale(domain=[0, largest], clamp=True)


def signed_scale(largest: float) -> alt.Scale:
    """Colours from minus to plus `largest`; the page's background at zero."""
    colours = [{"expr": name} for name in ("pal[4]", "bg", "pal[1]")]
    return alt.Scale(domain=[-largest, 0, largest], range=colours, clamp=True)


def cells(
    rows: pd.DataFrame, x: tuple[str, str], y: tuple[str, str], scale: alt.Scale, tip: list[Any], where: str,
    *, from_top: bool = False, line: int = 13,
) -> Any:  # fmt: skip
    """Cells coloured by `value`. `x` and `y`: (column, title), each in the order of the columns `x_order` and `y_order` of `rows`;
    `where`: the Vega filter that selectors drive; `from_top`: the first of y stands at the top; `line`: pixels of a row."""

    def order(axis: str) -> Any:
        down = axis == "y" and not from_top
        return alt.EncodingSortField(field=f"{axis}_order", op="min", order="descending" if down else "ascending")

    axis: dict[str, Any] = {"labelOverlap": True, "ticks": False, "domain": False, "labelLimit": 90}
    wide = rows[x[0]].astype(str).str.len().max() > 3
    column, row = (
        alt.X(f"{x[0]}:N", title=x[1], sort=order("x"), axis=alt.Axis(labelAngle=-60 if wide else 0, **axis)),
        alt.Y(f"{y[0]}:N", title=y[1], sort=order("y"), axis=alt.Axis(**axis)),
    )
    chart = alt.Chart(rows).transform_filter(where).mark_rect(aria=False, stroke=signal("bg"), strokeWidth=0.5)
    height = max(90, min(WIDEST, line * int(rows[y[0]].nunique())))
    return sized(chart.encode(column, row, alt.Color("value:Q", legend=None, scale=scale), tooltip=tip), height)


def bars(rows: pd.DataFrame, title: str, tip: list[Any], where: str) -> Any:
    """A bar a layer, up or down from zero. `rows`: layer, value."""
    x = alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0, labelOverlap=True, ticks=False))
    y = alt.Y("value:Q", title=title, axis=alt.Axis(tickCount=5, format="+.3~f"))
    color: Any = alt.condition("datum.value < 0", alt.value(signal("pal[4]")), alt.value(signal("pal[1]")))
    return sized(alt.Chart(rows).transform_filter(where).mark_bar().encode(x, y, color=color, tooltip=tip), 180)
