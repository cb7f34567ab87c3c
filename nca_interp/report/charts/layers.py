"""Charts against the depth of a network: lines of regimes, and a map of one network's layers by another's."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from nca_interp.report.charts.axes import whole_ticks
from nca_interp.report.charts.theme import fade, ramp_scale, regime_color, regime_dash, regime_shape, signal, sized


def by_layer(
    raw: pd.DataFrame, mean: pd.DataFrame, regimes: list[str], y_title: str, *, where: str, zero: bool = False
) -> alt.LayerChart:
    """Thin lines of single runs behind thick means. `raw`: regime, run, layer, value; `mean`: regime, layer, value; `where` is
    the Vega filter that selectors drive; `zero` draws a line there."""
    x = alt.X(
        "layer:Q",
        title="layer",
        axis=alt.Axis(format="d", values=whole_ticks(mean.layer)),
        scale=alt.Scale(nice=False, padding=6),
    )
    y = alt.Y("value:Q", title=y_title, scale=alt.Scale(zero=zero, nice=True), axis=alt.Axis(tickCount=5))
    color, dash = regime_color(regimes), regime_dash(regimes)
    tip = [alt.Tooltip("regime:N"), alt.Tooltip("layer:Q"), alt.Tooltip("value:Q", format=".4f")]
    marks = alt.Chart(mean).mark_point(size=34, filled=True)
    layers: list[Any] = [
        alt.Chart(raw)
        .mark_line(strokeWidth=1)
        .encode(x, y, color, detail=alt.Detail("run:N"), strokeDash=dash, opacity=fade(0.5)),
        alt.Chart(mean).mark_line(strokeWidth=2.4).encode(x, y, color, strokeDash=dash, opacity=fade(1)),
        marks.encode(x, y, color, regime_shape(regimes), opacity=fade(1), tooltip=tip),
    ]
    layers = [layer.transform_filter(where) for layer in layers]
    if zero:
        level = alt.Chart(pd.DataFrame({"value": [0.0]})).mark_rule(strokeWidth=1)
        layers.insert(0, level.encode(alt.Y("value:Q", title=y_title)))
    return sized(alt.layer(*layers), 240)


def layer_map(rows: pd.DataFrame, x_title: str, y_title: str, where: str | None) -> alt.LayerChart:
    """A cell for each pair of layers, colours from 0 to 1, numbers written where there are few. `rows`: layer_a, layer_b, value."""
    n = int(max(rows.layer_a.nunique(), rows.layer_b.nunique()))
    axis = alt.Axis(labelAngle=0, labelOverlap=True, ticks=False, domain=False)
    x = alt.X("layer_b:O", title=x_title, axis=axis)
    y = alt.Y("layer_a:O", title=y_title, axis=axis, sort="descending")
    color = alt.Color("value:Q", legend=None, scale=ramp_scale(domain=[0, 1], clamp=True))
    tip = [alt.Tooltip("layer_a:O"), alt.Tooltip("layer_b:O"), alt.Tooltip("value:Q", format=".4f")]
    base = alt.Chart(rows) if where is None else alt.Chart(rows).transform_filter(where)
    layers: list[Any] = [
        base.mark_rect(aria=False, stroke=signal("bg"), strokeWidth=1).encode(x, y, color, tooltip=tip)
    ]
    if n <= 8:
        tone = alt.ExprRef("datum.value > 0.55 ? bg : fg")
        layers.append(base.mark_text(fontSize=10.5, color=tone).encode(x, y, text=alt.Text("value:Q", format=".2f")))
    return sized(alt.layer(*layers), max(110, min(320, 30 * n)))
