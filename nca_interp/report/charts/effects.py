"""Charts of differences: effects with intervals, bars, speed-ups, accuracies, effect against complexity."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from nca_interp.report.charts.theme import regime_color, regime_shape, signal, sized


def _row_axis(limit: int = 190) -> alt.Axis:
    return alt.Axis(
        title=None,
        grid=False,
        ticks=False,
        domain=False,
        labelLimit=limit,
        labelPadding=8,
        labelFontSize=12,
        labelColor=signal("fg"),
    )


def forest(
    rows: pd.DataFrame, seeds: pd.DataFrame, regimes: list[str], x_title: str, margin: float | None = None
) -> alt.LayerChart:
    """Effects with intervals, one row each. `rows`: name, regime, effect, low, high; `seeds`: name, regime, difference."""
    order = list(rows.name)
    y = alt.Y("name:N", sort=order, axis=_row_axis(), scale=alt.Scale(domain=order))
    x = alt.X(
        "effect:Q",
        title=x_title,
        axis=alt.Axis(tickCount=5, format="+.3~f", titleAnchor="end"),
        scale=alt.Scale(zero=True, nice=True),
    )
    layers: list[Any] = []
    if margin:
        band = pd.DataFrame({"low": [-margin], "high": [margin]})
        layers.append(
            alt.Chart(band)
            .mark_rect(opacity=0.6, color=signal("grid"))
            .encode(x=alt.X("low:Q", title=x_title), x2=alt.X2("high:Q"))
        )
    layers.append(alt.Chart(pd.DataFrame({"effect": [0.0]})).mark_rule(strokeWidth=1).encode(x=x))
    known = rows.dropna(subset=["low", "high"])
    if len(known):
        layers.append(
            alt.Chart(known)
            .mark_rule(strokeWidth=2.4)
            .encode(x=alt.X("low:Q", title=x_title), x2=alt.X2("high:Q"), y=y, color=regime_color(regimes))
        )
    if len(seeds):
        ticks = alt.Chart(seeds).mark_point(size=42, strokeWidth=1.4, filled=False, yOffset=11)
        layers.append(
            ticks.encode(
                x=alt.X("difference:Q", title=x_title),
                y=y,
                color=regime_color(regimes),
                tooltip=[alt.Tooltip("name:N"), alt.Tooltip("seed:N"), alt.Tooltip("difference:Q", format="+.4f")],
            )
        )
    tip = [alt.Tooltip("name:N"), *(alt.Tooltip(f"{c}:Q", format="+.4f") for c in ("effect", "low", "high"))]
    layers.append(
        alt.Chart(rows)
        .mark_point(size=95, filled=True, opacity=1)
        .encode(x=x, y=y, color=regime_color(regimes), shape=regime_shape(regimes), tooltip=tip)
    )
    return sized(alt.layer(*layers), 46 * len(order))


def bars(rows: pd.DataFrame, seeds: pd.DataFrame, x_title: str) -> alt.LayerChart:
    """Bars from zero with the seeds as rings. `rows`: name, value, group (0 plain, 1 highlighted); `seeds`: name, value."""
    order = list(rows.name)
    y = alt.Y("name:N", sort=order, axis=_row_axis(210), scale=alt.Scale(domain=order, paddingInner=0.35))
    x = alt.X(
        "value:Q",
        title=x_title,
        axis=alt.Axis(tickCount=5, format="+.3~f", titleAnchor="end"),
        scale=alt.Scale(zero=True, nice=True),
    )
    fill = alt.Color(
        "group:N", scale=alt.Scale(domain=[0, 1], range=[{"expr": "ramp[2]"}, {"expr": "pal[1]"}]), legend=None
    )
    drawn = (
        alt.Chart(rows)
        .mark_bar(opacity=0.85)
        .encode(x=x, y=y, color=fill, tooltip=[alt.Tooltip("name:N"), alt.Tooltip("value:Q", format="+.4f")])
    )
    rule = alt.Chart(pd.DataFrame({"value": [0.0]})).mark_rule(strokeWidth=1).encode(x=x)
    rings = alt.Chart(seeds).mark_point(size=38, filled=True, opacity=0.9, color=signal("fg"))
    return sized(
        alt.layer(
            drawn,
            rule,
            rings.encode(
                x=x, y=y, tooltip=[alt.Tooltip("name:N"), alt.Tooltip("seed:N"), alt.Tooltip("value:Q", format="+.4f")]
            ),
        ),
        30 * len(order),
    )


def factors(rows: pd.DataFrame, regimes: list[str], where: str) -> alt.LayerChart:
    """Speed-ups, a point a seed, hollow where the regime never gets as low. `rows`: name, regime, seed, budget, speedup, target_of, kind."""
    order = list(dict.fromkeys(rows.name))
    y = alt.Y("name:N", sort=order, axis=_row_axis(), scale=alt.Scale(domain=order))
    x = alt.X(
        "speedup:Q",
        title="tokens (or FLOPs) of scratch / of the regime",
        axis=alt.Axis(tickCount=5, titleAnchor="end"),
        scale=alt.Scale(zero=False, nice=True, padding=12),
    )
    one = alt.Chart(pd.DataFrame({"speedup": [1.0]})).mark_rule(strokeWidth=1).encode(x=x)
    base = (
        alt.Chart(rows)
        .transform_filter(where)
        .encode(
            x=x,
            y=y,
            color=regime_color(regimes),
            tooltip=[
                alt.Tooltip("name:N"),
                alt.Tooltip("seed:N"),
                alt.Tooltip("kind:N"),
                alt.Tooltip("speedup:Q", format=".3f"),
            ],
        )
    )
    reached = (
        base.transform_filter("datum.target_of == 'scratch'")
        .mark_point(size=85, filled=True, opacity=0.9)
        .encode(shape=regime_shape(regimes))
    )
    bound = base.transform_filter("datum.target_of != 'scratch'").mark_point(
        size=85, filled=False, shape="triangle-left", strokeWidth=1.6
    )
    return sized(alt.layer(one, reached, bound), 42 * len(order))


def estimates(rows: pd.DataFrame, regimes: list[str]) -> alt.LayerChart:
    """Shares with intervals, a line a model. `rows`: name, regime, accuracy, low, high."""
    order = list(dict.fromkeys(rows.name))
    y = alt.Y("name:N", sort=order, axis=_row_axis(), scale=alt.Scale(domain=order))
    offset = alt.YOffset("seed:N")
    x_title = "exact-match accuracy"
    axis = alt.Axis(format=".0%", tickCount=5, titleAnchor="end")
    lines = (
        alt.Chart(rows)
        .mark_rule(strokeWidth=2)
        .encode(
            x=alt.X("low:Q", title=x_title, axis=axis),
            x2=alt.X2("high:Q"),
            y=y,
            yOffset=offset,
            color=regime_color(regimes),
        )
    )
    tip = [
        alt.Tooltip("name:N"),
        alt.Tooltip("seed:N"),
        *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("accuracy", "low", "high")),
    ]
    points = alt.Chart(rows).mark_point(size=60, filled=True, opacity=1)
    return sized(
        alt.layer(
            lines,
            points.encode(
                x=alt.X("accuracy:Q", title=x_title, axis=axis),
                y=y,
                yOffset=offset,
                color=regime_color(regimes),
                shape=regime_shape(regimes),
                tooltip=tip,
            ),
        ),
        int(14 * rows.groupby("name").size().max() * len(order) + 12),
    )


def scatter(
    rows: pd.DataFrame, seeds: pd.DataFrame, x_title: str, y_title: str, target: tuple[float, str] | None
) -> alt.LayerChart:
    """Effect against a measure of the source. `rows`: name, x, effect, low, high; `seeds`: x, difference; `target`: a marked x."""
    x = alt.X("x:Q", title=x_title, scale=alt.Scale(zero=False, nice=True, padding=24), axis=alt.Axis(tickCount=5))
    axis = alt.Axis(tickCount=5, format="+.3~f")
    y = alt.Y("effect:Q", title=y_title, axis=axis, scale=alt.Scale(padding=20, nice=False))
    layers: list[Any] = [alt.Chart(pd.DataFrame({"effect": [0.0]})).mark_rule(strokeWidth=1).encode(y=y)]
    if target:
        frame = pd.DataFrame({"x": [target[0]], "text": [target[1]]})
        mark = alt.Chart(frame).encode(x=x)
        layers.append(mark.mark_rule(strokeDash=[4, 3]).encode())
        layers.append(
            mark.mark_text(align="right", dx=-5, dy=-7, fontSize=11, color=signal("mut")).encode(
                y=alt.YValue("height"), text=alt.Text("text:N")
            )
        )
    blue = signal("pal[1]")
    known = rows.dropna(subset=["low", "high"])
    if len(known):
        layers.append(
            alt.Chart(known)
            .mark_rule(strokeWidth=2, color=blue)
            .encode(x=x, y=alt.Y("low:Q", title=y_title, axis=axis), y2=alt.Y2("high:Q"))
        )
    layers.append(
        alt.Chart(seeds)
        .mark_point(size=34, strokeWidth=1.3, xOffset=7, color=blue)
        .encode(x=x, y=alt.Y("difference:Q", title=y_title, axis=axis))
    )
    tip = [alt.Tooltip("name:N"), alt.Tooltip("x:Q", format=".3f"), alt.Tooltip("effect:Q", format="+.4f")]
    layers.append(alt.Chart(rows).mark_point(size=85, filled=True, opacity=1, color=blue).encode(x=x, y=y, tooltip=tip))
    layers.append(
        alt.Chart(rows)
        .mark_text(align="left", dx=-8, dy=-12, fontWeight=600)
        .encode(x=x, y=alt.Y("top:Q", title=y_title), text=alt.Text("name:N"))
    )
    return sized(alt.layer(*layers), 280)
