"""Charts of what happens when: a dot and its interval for each run, and a score before, at and after the swap."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from nca_interp.report.charts.theme import fade, regime_color, regime_dash, regime_shape, signal, sized

SINCE_SWAP = "tokens since the embedding swap"
"""Title of the axis of training of a study."""
ROW = 17
"""Pixels a run."""


def appearances(
    rows: pd.DataFrame, regimes: list[str], where: str | None, title: str = SINCE_SWAP, swap: bool = True
) -> alt.LayerChart:
    """When something appeared in each run, on a time axis called `title`; `swap` marks its 0. `rows`: name (a row of the chart), regime,
    state, low, high, x (where the mark stands), tokens (within its stage); `where`: the Vega filter of a selector, or None.

    Dot and bar: between two checkpoints. Arrow to the right: not until there. Arrow to the left: there from the start.
    """
    names = list(dict.fromkeys(rows.name))
    low, high = min(0.0, float(rows.low.min())), float(rows.high.max())
    x = alt.X(
        "x:Q", title=title, axis=alt.Axis(format="~s", tickCount=5),
        scale=alt.Scale(domain=[low - 0.03 * (high - low), high + 0.03 * (high - low)], nice=False),
    )  # fmt: skip
    y = alt.Y(
        "name:N", title=None, sort=names, scale=alt.Scale(domain=names), axis=alt.Axis(labelLimit=150, domain=False)
    )
    color = regime_color(regimes)
    tip = [
        alt.Tooltip("name:N"), alt.Tooltip("stage:N"), alt.Tooltip("state:N"), alt.Tooltip("after_tokens:Q", format=",.0f"),
        alt.Tooltip("by_tokens:Q", format=",.0f"), alt.Tooltip("level:Q", format=".3f"), alt.Tooltip("last:Q", format=".3f"),
    ]  # fmt: skip
    base = alt.Chart(rows) if where is None else alt.Chart(rows).transform_filter(where)
    bars = base.transform_filter("datum.state == 'reached'").mark_rule(strokeWidth=3).encode(
        alt.X("low:Q", title=title), y, x2=alt.X2("high:Q"), color=color, opacity=fade(0.55)
    )  # fmt: skip
    layers: list[Any] = [bars]
    for states, mark in (
        ("['reached']", {"size": 46}),
        ("['from start']", {"size": 60, "shape": "triangle-left"}),
        ("['never', 'unconfirmed']", {"size": 60, "shape": "triangle-right"}),
    ):
        points = base.transform_filter(f"indexof({states}, datum.state) >= 0").mark_point(filled=True, **mark)
        shape = {} if "shape" in mark else {"shape": regime_shape(regimes)}
        layers.append(points.encode(x, y, color=color, tooltip=tip, opacity=fade(1), **shape))
    if swap:
        origin = alt.Chart(pd.DataFrame({"x": [0.0]}))
        layers.insert(0, origin.mark_rule(strokeDash=[2, 3], strokeWidth=1.2).encode(x=alt.X("x:Q")))
    return sized(alt.layer(*layers), max(90, ROW * len(names)))


def moments(rows: pd.DataFrame, regimes: list[str], order: list[str], where: str) -> alt.LayerChart:
    """A thin line a run and the mean of each regime over a few named moments. `rows`: regime, run, moment, value, probe."""
    x = alt.X(
        "moment:N", title=None, sort=order, axis=alt.Axis(labelAngle=0, labelLimit=96), scale=alt.Scale(padding=0.35)
    )
    y = alt.Y("value:Q", title="score", scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5))
    color, dash = regime_color(regimes), regime_dash(regimes)
    tip = [alt.Tooltip("run:N"), alt.Tooltip("moment:N"), alt.Tooltip("value:Q", format=".4f")]
    base = alt.Chart(rows).transform_filter(where)
    mean = base.transform_aggregate(value="mean(value)", groupby=["regime", "moment"])
    layers = [
        base.mark_line(strokeWidth=1).encode(
            x, y, color, detail=alt.Detail("run:N"), strokeDash=dash, opacity=fade(0.5)
        ),
        base.mark_point(size=16, filled=True).encode(x, y, color, opacity=fade(0.5), tooltip=tip),
        mean.mark_line(strokeWidth=2.4).encode(x, y, color, strokeDash=dash, opacity=fade(1)),
        mean.mark_point(size=44, filled=True).encode(x, y, color, regime_shape(regimes), opacity=fade(1)),
    ]
    chance = base.transform_aggregate(chance="mean(chance)").mark_rule(
        strokeDash=[4, 3], strokeWidth=1.2, color=signal("mut")
    )
    return sized(alt.layer(chance.encode(y=alt.Y("chance:Q")), *layers), 240)
