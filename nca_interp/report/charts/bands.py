"""Means with their intervals, a colour a regime."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from nca_interp.report.charts.curves import swap_rule
from nca_interp.report.charts.theme import fade, regime_color, regime_dash, regime_shape, sized


def bands(
    rows: pd.DataFrame,
    regimes: list[str],
    x_title: str,
    y_title: str,
    *,
    where: str | None = None,
    swap: bool = False,
    log: bool = False,
) -> alt.LayerChart:
    """A line and a band for each regime and stage. `rows`: regime, stage, x, value, low, high (empty: no interval), n, and what
    `where`, a Vega filter that selectors drive, reads; `swap` marks x = 0; `log`: a logarithmic axis of x to base 2."""
    scale = alt.Scale(type="log", base=2, nice=False) if log else alt.Scale(nice=False)
    x = alt.X("x:Q", title=x_title, scale=scale, axis=alt.Axis(format="~s", tickCount=5))
    y = alt.Y("value:Q", title=y_title, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5))
    color = regime_color(regimes)
    tip = [alt.Tooltip("regime:N"), *(alt.Tooltip(f"{c}:Q", format=f) for c, f in (("x", ",.0f"), ("value", ".4f"), ("low", ".4f"), ("high", ".4f"), ("n", "d")))]  # fmt: skip
    base = alt.Chart(rows) if where is None else alt.Chart(rows).transform_filter(where)
    known = base.transform_filter("isValid(datum.low)")
    one = {"detail": alt.Detail("stage:N")}
    layers: list[Any] = [
        known.mark_area(aria=False).encode(
            x, alt.Y("low:Q", title=y_title), y2=alt.Y2("high:Q"), color=color, opacity=fade(0.16), **one
        ),
        base.mark_line(strokeWidth=2.2).encode(x, y, color, strokeDash=regime_dash(regimes), opacity=fade(1), **one),
        base.mark_point(size=30, filled=True).encode(x, y, color, regime_shape(regimes), opacity=fade(1), tooltip=tip),
    ]
    if swap:
        layers.insert(0, _at_zero())
    return sized(alt.layer(*layers), 250)


def _at_zero() -> Any:
    return swap_rule().transform_calculate(x="datum.tokens").encode(x=alt.X("x:Q"))


def fates(rows: pd.DataFrame, names: list[str], x_title: str, y_title: str, where: str | None = None) -> alt.LayerChart:
    """The courses of several quantities of one group of heads, a colour each. `rows`: name, x, value, and what `where` reads."""
    frame = rows.assign(regime=rows["name"])
    x = alt.X("x:Q", title=x_title, scale=alt.Scale(nice=False), axis=alt.Axis(format="~s", tickCount=5))
    y = alt.Y("value:Q", title=y_title, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5))
    base = alt.Chart() if where is None else alt.Chart().transform_filter(where)
    named = [{"expr": f"pal[{i % 6}]"} for i in range(len(names))]
    legend = alt.Legend(title=None, orient="bottom", columns=3)
    color = alt.Color("name:N", scale=alt.Scale(domain=names, range=named), legend=legend)
    tip = [
        "name:N",
        alt.Tooltip("x:Q", format=",.0f"),
        alt.Tooltip("value:Q", format=".4f"),
        alt.Tooltip("n:Q", format="d"),
    ]
    shape = alt.Shape("name:N", scale=alt.Scale(domain=names), legend=legend)
    layers = [
        base.mark_line(strokeWidth=2).encode(x, y, color),
        base.mark_point(size=26, filled=True).encode(x, y, color, shape, tooltip=tip),
    ]
    return sized(alt.layer(*layers, data=frame), 220)  # altair prints the data of a layer to name it
