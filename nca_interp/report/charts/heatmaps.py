"""Maps of layers and heads: scores, and differences of two models."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from nca_interp.report.charts.theme import ramp_scale, signal, sized

LAYER_PIXELS = 15
"""Least height of a layer in a map of heads: a finger finds it."""


def heat(
    rows: pd.DataFrame,
    spans: dict[str, tuple[float, float]],
    written: bool,
    where: str | None = "datum.domain == domain",
) -> alt.LayerChart:
    """Layer-by-head map; the signal `probe` and the filter `where` choose. `rows`: layer, head, a column for each probe, what
    `where` reads, and `hits`, the probes that the head is a hit of, each between two spaces. `spans`: probe -> shared (low, high)
    of the colours. The page sets the signal `at` to the chosen [layer, head]."""
    x = alt.X("head:O", title="head", axis=alt.Axis(labelAngle=0, labelOverlap=True, ticks=False, domain=False))
    y = alt.Y("layer:O", title="layer", axis=alt.Axis(labelOverlap=True, ticks=False, domain=False))
    color = alt.Color(
        "value:Q",
        legend=None,
        scale=ramp_scale(domainMin=alt.ExprRef("spans[probe][0]"), domainMax=alt.ExprRef("spans[probe][1]")),
    )
    tip = [alt.Tooltip("layer:O"), alt.Tooltip("head:O"), alt.Tooltip("value:Q", format=".4f")]
    base = alt.Chart() if where is None else alt.Chart().transform_filter(where)
    base = base.transform_calculate(value="datum[probe]")
    base = base.transform_filter("isValid(datum.value)")
    layers: list[Any] = [
        base.mark_rect(aria=False, stroke=signal("bg"), strokeWidth=1).encode(x, y, color, tooltip=tip)
    ]
    hits = base.transform_filter("indexof(datum.hits, ' ' + probe + ' ') >= 0")
    layers.append(hits.mark_rect(aria=False, filled=False, strokeWidth=2, stroke=signal("pal[2]")).encode(x, y))
    if written:
        tone = alt.ExprRef("(datum.value - spans[probe][0]) / (spans[probe][1] - spans[probe][0]) > 0.55 ? bg : fg")
        layers.append(base.mark_text(fontSize=10.5, color=tone).encode(x, y, text=alt.Text("value:Q", format=".2f")))
    chosen = base.transform_filter("datum.layer == at[0] && datum.head == at[1]")
    layers.append(chosen.mark_rect(aria=False, filled=False, strokeWidth=3, stroke=signal("fg")).encode(x, y))
    params = alt.param(name="spans", value={k: list(v) for k, v in spans.items()}), alt.param(name="at", value=[-1, -1])
    # of the whole, not of a layer: altair copies what a layer has several times, and prints its data to name it
    whole = alt.layer(*layers, data=rows, params=[one.param for one in params])
    return sized(whole, map_height(rows))


def map_height(rows: pd.DataFrame) -> int:
    """Pixels of a map with a row for each layer."""
    layers = int(rows.layer.nunique())
    return max(90, min(320, 26 * layers), LAYER_PIXELS * layers)


def changes(rows: pd.DataFrame, limits: dict[str, float]) -> alt.LayerChart:
    """Layer-by-head map of differences, blue below and orange above zero; the signal `probe` chooses. `rows`: run, layer, head, a
    column for each probe; `limits`: probe -> the largest absolute value."""
    axis = alt.Axis(labelAngle=0, labelOverlap=True, ticks=False, domain=False)
    x, y = alt.X("head:O", title="head", axis=axis), alt.Y("layer:O", title="layer", axis=axis)
    scale = alt.Scale(
        domain=[alt.ExprRef("-limits[probe]"), 0, alt.ExprRef("limits[probe]")],
        range=[{"expr": f"{color}"} for color in ("pal[1]", "ramp[0]", "pal[2]")],
    )
    legend = alt.Legend(title="difference", format="+.2~g", tickCount=5, gradientLength=120)
    tip = [alt.Tooltip("layer:O"), alt.Tooltip("head:O"), alt.Tooltip("value:Q", title="difference", format="+.4f")]
    base = alt.Chart(rows).transform_calculate(value="datum[probe]").transform_filter("isValid(datum.value)")
    mark = base.mark_rect(aria=False, stroke=signal("bg"), strokeWidth=1)
    layers = [mark.encode(x, y, alt.Color("value:Q", scale=scale, legend=legend), tooltip=tip)]
    return sized(alt.layer(*layers).add_params(alt.param(name="limits", value=limits)), map_height(rows))
