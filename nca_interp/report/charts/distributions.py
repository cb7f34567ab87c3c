"""Charts of one source: histograms, curves with an interval, ranks, depth of brackets. Tidy rows in, a chart out."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from nca_interp.report.charts.axes import spread, whole_ticks
from nca_interp.report.charts.theme import regime_color, regime_shape, signal, sized

BINS = 24
PLAIN, CHOSEN = "pal[0]", "pal[1]"
"""Signals of the colour of everything and of what was asked for."""


def binned(values: pd.Series, parts: pd.Series, edges: np.ndarray) -> pd.DataFrame:
    """Histogram of values by part: part, low, high, count, share (of the part)."""
    rows = []
    for part in parts.unique():
        count = np.histogram(values[parts == part], edges)[0]
        rows.append(pd.DataFrame({
            "part": part, "low": edges[:-1], "high": edges[1:], "count": count, "share": count / max(count.sum(), 1),
        }))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def even_edges(values: pd.Series, bins: int = BINS) -> np.ndarray:
    """Edges of equal bins over finite values; one bin around a single value."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-12 * max(1.0, abs(high)):
        half = 0.05 * abs(high) or 0.5
        return np.array([low - half, high + half])
    return np.linspace(low, high, bins + 1)


def histogram(
    rows: pd.DataFrame,
    x_title: str,
    colors: dict[str, str],
    *,
    y: str = "share",
    marks: list[float] | None = None,
    height: int = 130,
) -> alt.LayerChart:
    """Bars of `binned` rows, the parts of `colors` (part -> signal) one over the other; `marks` are dashed vertical lines."""
    x = alt.X(
        "low:Q",
        title=x_title,
        axis=alt.Axis(tickCount=4, labelOverlap=True, titleLimit=signal("width")),
        scale=alt.Scale(zero=False, nice=False),
    )
    vertical = alt.Y(f"{y}:Q", title=y, stack=None, axis=alt.Axis(tickCount=3, format="%" if y == "share" else "~s"))
    color = alt.Color(
        "part:N", legend=None, scale=alt.Scale(domain=list(colors), range=[{"expr": c} for c in colors.values()])
    )
    tip = [alt.Tooltip("part:N"), *(alt.Tooltip(f"{c}:Q", format=".4~g") for c in ("low", "high", "count", "share"))]
    bars = alt.Chart(rows[rows["count"] > 0]).mark_rect(opacity=0.6, aria=False)
    layers: list[Any] = [bars.encode(x, vertical, x2=alt.X2("high:Q"), y2=alt.Y2Datum(0), color=color, tooltip=tip)]
    if marks:
        frame = pd.DataFrame({"low": marks})
        layers.append(alt.Chart(frame).mark_rule(strokeDash=[3, 3]).encode(x=alt.X("low:Q", title=x_title)))
    return sized(alt.layer(*layers), height)


def columns(rows: pd.DataFrame, x_title: str, height: int = 200) -> alt.Chart:
    """A bar of `share` for each `label`, in the order of the rows. `rows`: label, count, share."""
    x = alt.X("label:O", title=x_title, sort=None, axis=alt.Axis(labelAngle=0, labelOverlap=True))
    y = alt.Y("share:Q", title="share", axis=alt.Axis(tickCount=4, format="%"))
    tip = [alt.Tooltip("label:N"), alt.Tooltip("count:Q"), alt.Tooltip("share:Q", format=".3~g")]
    return sized(alt.Chart(rows).mark_bar(color=signal(CHOSEN), aria=False).encode(x, y, tooltip=tip), height)


def labelled(rows: pd.DataFrame, names: list[str], x_title: str, y_title: str, height: int = 260) -> alt.LayerChart:
    """A line with its interval and its name for each of `names`. `rows`: name, x, value, low, high."""
    frame = rows.assign(regime=rows["name"])
    few = rows.x.max() < 1000
    axis = alt.Axis(values=whole_ticks(rows.x), format="d") if few else alt.Axis(tickCount=5, format="~s")
    x = alt.X("x:Q", title=x_title, axis=axis, scale=alt.Scale(nice=False, zero=False))
    top, bottom = float(frame.high.fillna(frame.value).max()), float(frame.low.fillna(frame.value).min())
    low, high = min(bottom, 0.0), max(top * 1.02, 1e-3)
    y = alt.Y("value:Q", title=y_title, scale=alt.Scale(domain=[low, high], nice=False), axis=alt.Axis(tickCount=5))
    color = regime_color(names)
    tip = [
        alt.Tooltip("name:N"),
        alt.Tooltip("x:Q"),
        *(alt.Tooltip(f"{c}:Q", format=".4f") for c in ("value", "low", "high")),
    ]
    band = alt.Chart(frame.dropna(subset=["low"])).mark_area(opacity=0.18, aria=False)
    line = alt.Chart(frame).mark_line(strokeWidth=2.2).encode(x, y, color)
    points = alt.Chart(frame).mark_point(size=26, filled=True).encode(x, y, color, regime_shape(names), tooltip=tip)
    last = frame[frame.x == frame.x.max()].copy()
    last["label"] = spread(list(last.value), low, high, height)
    text = alt.Chart(last).mark_text(align="left", dx=7, fontSize=11.5, fontWeight=600)
    return sized(
        alt.layer(
            band.encode(x, alt.Y("low:Q", title=y_title), color=color, y2=alt.Y2("high:Q")),
            line,
            points,
            text.encode(x=x, y=alt.Y("label:Q", title=y_title), text=alt.Text("name:N"), color=color),
        ),
        height,
    )


def against_lag(rows: pd.DataFrame, column: str, y_title: str, labels: pd.DataFrame | None = None) -> alt.LayerChart:
    """`column` of rows (lag, low, high, ...) against the lag on a logarithmic axis, with interval where it is `value`; the lags
    of `labels` are written at their points."""
    x = alt.X(
        "lag:Q", title="lag, tokens", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(tickCount=6, format="~s")
    )
    y = alt.Y(f"{column}:Q", title=y_title, axis=alt.Axis(tickCount=5), scale=alt.Scale(zero=True))
    tip = [
        alt.Tooltip("lag:Q"),
        alt.Tooltip("name:N"),
        *(alt.Tooltip(f"{c}:Q", format=".4f") for c in ("value", "low", "high", "bias")),
    ]
    base = alt.Chart(rows)
    color = signal(CHOSEN if column == "value" else PLAIN)
    layers: list[Any] = []
    if column == "value":
        layers.append(
            alt.Chart(pd.DataFrame({"value": [0.0]})).mark_rule(strokeWidth=1).encode(y=alt.Y("value:Q", title=y_title))
        )
        layers.append(
            base.mark_area(opacity=0.2, aria=False, color=color).encode(
                x, alt.Y("low:Q", title=y_title), y2=alt.Y2("high:Q")
            )
        )
    layers.append(base.mark_line(strokeWidth=2, color=color).encode(x, y))
    layers.append(base.mark_point(size=24, filled=True, color=color).encode(x, y, tooltip=tip))
    if labels is not None and len(labels):
        text = alt.Chart(labels).mark_text(dy=-9, fontSize=11)
        layers.append(text.encode(x, y, text=alt.Text("lag:Q")))
    return sized(alt.layer(*layers), 240)


def _decades(values: pd.Series, title: str, form: str) -> dict[str, Any]:
    """A logarithmic axis from one power of ten to another."""
    first, last = math.floor(math.log10(values.min())), math.ceil(math.log10(values.max()) + 1e-9)
    powers = [10.0**k for k in range(first, last + 1)]
    scale = alt.Scale(type="log", domain=[powers[0], powers[-1]], nice=False)
    return {"title": title, "scale": scale, "axis": alt.Axis(values=powers, format=form)}


def rank_plot(rows: pd.DataFrame) -> alt.LayerChart:
    """Share against rank on logarithmic axes with the fitted line. `rows`: rank, share, count, fitted."""
    share = "share of all tokens"
    x, y = (
        alt.X("rank:Q", **_decades(rows["rank"], "rank", "~s")),
        alt.Y("share:Q", **_decades(rows.share, share, "~e")),
    )
    fitted = alt.Y("fitted:Q", **_decades(rows.share, share, "~e"))
    tip = [
        alt.Tooltip("rank:Q"),
        alt.Tooltip("count:Q"),
        alt.Tooltip("share:Q", format=".3g"),
        alt.Tooltip("fitted:Q", format=".3g"),
    ]
    line = alt.Chart(rows[rows.fitted.notna()]).mark_line(strokeDash=[5, 3], strokeWidth=1.6, color=signal("mut"))
    points = alt.Chart(rows).mark_point(size=30, filled=True, color=signal(CHOSEN)).encode(x, y, tooltip=tip)
    return sized(alt.layer(line.encode(x, fitted), points), 260)


def depths(rows: pd.DataFrame, k: int) -> alt.LayerChart:
    """Depth of each bracket as a bar in the colour of its type, closing ones paler. `rows`: position, end, depth, type, bracket."""
    x = alt.X("position:Q", title="position", scale=alt.Scale(nice=False, zero=False), axis=alt.Axis(tickCount=8))
    y = alt.Y("depth:Q", title="depth", axis=alt.Axis(tickCount=4, tickMinStep=1))
    color = alt.Color("type:Q", legend=None, scale=alt.Scale(scheme="turbo", domain=[-1, k]))
    opacity = alt.condition("datum.bracket == 'opens'", alt.value(1), alt.value(0.45))
    bars = alt.Chart(rows).mark_rect(aria=False)
    return sized(
        alt.layer(
            bars.encode(
                x,
                y,
                x2=alt.X2("end:Q"),
                y2=alt.Y2Datum(0),
                color=color,
                opacity=opacity,
                tooltip=[
                    alt.Tooltip("position:Q"),
                    alt.Tooltip("bracket:N"),
                    alt.Tooltip("type:Q"),
                    alt.Tooltip("depth:Q"),
                ],
            )
        ),
        110,
    )
