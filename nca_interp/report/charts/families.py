"""Charts of whole families of arms: all comparisons in one forest, effects over parts and layers as a map."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from nca_interp.report.charts.cells import signed_scale
from nca_interp.report.charts.theme import signal, sized

LINE = 26
"""Pixels a row."""


def forest(rows: pd.DataFrame, seeds: pd.DataFrame, title: str, margin: float) -> alt.LayerChart:
    """Effects with intervals and single seeds, a row each in the order given. `rows`: name, effect, low, high, kind (primary, better,
    worse or other), verdict; `seeds`: name, difference, seed; `margin`: half the width of the band of equivalence."""
    order = list(rows.name)
    axis = alt.Axis(
        title=None, grid=False, ticks=False, domain=False, labelLimit=330, labelPadding=8, labelColor=signal("fg")
    )
    y = alt.Y("name:N", sort=order, axis=axis, scale=alt.Scale(domain=order))
    ticks = alt.Axis(tickCount=5, format="+.3~f", titleAnchor="end")

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=title, axis=ticks, scale=alt.Scale(zero=True, nice=True))

    colour = alt.Color(
        "kind:N", legend=None,
        scale=alt.Scale(domain=["primary", "better", "worse", "other"], range=[{"expr": e} for e in ("pal[1]", "fg", "fg", "mut")]),
    )  # fmt: skip
    shape = alt.Shape(
        "kind:N", legend=None,
        scale=alt.Scale(domain=["primary", "better", "worse", "other"], range=["diamond", "triangle-left", "triangle-right", "circle"]),
    )  # fmt: skip
    layers: list[Any] = []
    if margin > 0:
        band = alt.Chart(pd.DataFrame({"low": [-margin], "high": [margin]}))
        layers.append(band.mark_rect(opacity=0.6, color=signal("grid")).encode(x=x("low"), x2="high:Q"))
    layers.append(alt.Chart(pd.DataFrame({"effect": [0.0]})).mark_rule(strokeWidth=1).encode(x=x("effect")))
    known = rows.dropna(subset=["low", "high"])
    if len(known):
        layers.append(alt.Chart(known).mark_rule(strokeWidth=2).encode(x=x("low"), x2="high:Q", y=y, color=colour))
    if len(seeds):
        rings = alt.Chart(seeds).mark_point(size=26, strokeWidth=1.1, filled=False, yOffset=7, color=signal("mut"))
        tip = ["name:N", "seed:N", alt.Tooltip("difference:Q", format="+.4f")]
        layers.append(rings.encode(x=x("difference"), y=y, tooltip=tip))
    tip = ["name:N", "verdict:N", *(alt.Tooltip(f"{c}:Q", format="+.4f") for c in ("effect", "low", "high"))]
    points = alt.Chart(rows).mark_point(size=60, filled=True, opacity=1)
    layers.append(points.encode(x=x("effect"), y=y, color=colour, shape=shape, tooltip=tip))
    return sized(alt.layer(*layers), LINE * len(order))


def matrix(rows: pd.DataFrame, largest: float) -> alt.LayerChart:
    """A cell for each part and range of layers, coloured from minus to plus `largest` and written in. `rows`: part, part_order, layers,
    layers_order, effect, share, low, high, verdict, text."""

    def order(field: str) -> list[str]:
        return list(rows.sort_values(f"{field}_order")[field].drop_duplicates())

    axis: dict[str, Any] = {"ticks": False, "domain": False, "labelLimit": 200}
    columns, lines = order("layers"), order("part")
    x = alt.X(
        "layers:N",
        title="layers",
        sort=columns,
        scale=alt.Scale(domain=columns),
        axis=alt.Axis(labelAngle=0, orient="top", **axis),
    )
    y = alt.Y("part:N", title=None, sort=lines, scale=alt.Scale(domain=lines), axis=alt.Axis(**axis))
    tip = [
        "part:N", "layers:N", "verdict:N", *(alt.Tooltip(f"{c}:Q", format="+.4f") for c in ("effect", "low", "high")),
        alt.Tooltip("share:Q", format=".0%"),
    ]  # fmt: skip
    base = alt.Chart(rows).encode(x, y)
    tiles = base.mark_rect(stroke=signal("bg"), strokeWidth=1).encode(
        alt.Color("effect:Q", legend=None, scale=signed_scale(largest)), tooltip=tip
    )
    written = base.mark_text(fontSize=11.5, color=signal("fg")).encode(text="text:N")
    return sized(alt.layer(tiles, written), max(80, 34 * int(rows.part.nunique())))
