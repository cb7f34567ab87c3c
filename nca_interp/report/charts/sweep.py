"""Charts of a sweep: gain over two axes of complexity, and gain against the distance from a corpus."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from nca_interp.report.charts.cells import signed_scale
from nca_interp.report.charts.theme import signal, sized

TIP = [
    "regime:N", alt.Tooltip("complexity:Q", format=".3f"), alt.Tooltip("second_value:Q", format=".3f"),
    alt.Tooltip("distance:Q", format=".2f"), alt.Tooltip("gain:Q", format="+.4f"), alt.Tooltip("low:Q", format="+.4f"),
    alt.Tooltip("high:Q", format="+.4f"), "learned:N",
]  # fmt: skip
HEIGHT = 300


def gain_map(
    rows: pd.DataFrame, x_title: str, y_title: str, largest: float, corpus: tuple[float, float | None] | None
) -> alt.LayerChart:
    """A square an arm at its place on both axes, coloured by gain, a ring around those that are not in the verdict. `rows`: complexity,
    second_value, gain, counted and what TIP shows; `corpus`: its place, on the second axis where it has one."""
    x = alt.X(
        "complexity:Q", title=x_title, scale=alt.Scale(zero=False, nice=True, padding=26), axis=alt.Axis(tickCount=5)
    )
    y = alt.Y(
        "second_value:Q", title=y_title, scale=alt.Scale(zero=False, nice=True, padding=22), axis=alt.Axis(tickCount=5)
    )
    legend = alt.Legend(title="gain", format="+.2~g", tickCount=5, gradientLength=120)
    color = alt.Color("gain:Q", scale=signed_scale(largest), legend=legend)
    layers: list[Any] = _corpus(corpus, x_title, y_title)
    square = alt.Chart(rows).mark_square(size=620, opacity=1, stroke=signal("mut"), strokeWidth=0.8)
    layers.append(square.encode(x, y, color, tooltip=TIP))
    rest = alt.Chart(rows[~rows.counted]).mark_point(
        shape="cross", size=110, filled=True, color=signal("fg"), opacity=0.85
    )
    layers.append(rest.encode(x, y, tooltip=TIP))
    names = alt.Chart(rows).mark_text(dy=-20, fontSize=10, color=signal("mut"))
    layers.append(names.encode(x, y, text="short:N"))
    return sized(alt.layer(*layers), HEIGHT)


def _corpus(corpus: tuple[float, float | None] | None, x_title: str, y_title: str) -> list[Any]:
    if corpus is None:
        return []
    frame = pd.DataFrame({"complexity": [corpus[0]], "second_value": [corpus[1]], "text": ["this corpus"]})
    mark = alt.Chart(frame).encode(x=alt.X("complexity:Q", title=x_title))
    text = mark.mark_text(align="right", dx=-5, dy=-7, fontSize=11, color=signal("mut"))
    layers: list[Any] = [mark.mark_rule(strokeDash=[4, 3]).encode(), text.encode(y=alt.YValue("height"), text="text:N")]
    if corpus[1] is not None:
        star = alt.Chart(frame).mark_point(shape="diamond", size=180, filled=True, color=signal("fg"))
        layers.append(star.encode(alt.X("complexity:Q", title=x_title), alt.Y("second_value:Q", title=y_title)))
    return layers


def against_distance(rows: pd.DataFrame, seeds: pd.DataFrame, y_title: str) -> alt.LayerChart:
    """Gain against the distance from the corpus: a ring a seed, mean with interval; hollow where an arm is not in the verdict. `rows`:
    distance, gain, low, high, counted and what TIP shows; `seeds`: distance, gain, seed, regime."""
    x = alt.X(
        "distance:Q", title="distance from the corpus, sd over arms", scale=alt.Scale(zero=True, nice=True, padding=14), axis=alt.Axis(tickCount=5)
    )  # fmt: skip
    axis = alt.Axis(tickCount=5, format="+.3~f")
    y = alt.Y("gain:Q", title=y_title, axis=axis)
    layers: list[Any] = [alt.Chart(pd.DataFrame({"gain": [0.0]})).mark_rule(strokeWidth=1).encode(y=y)]
    blue = signal("pal[1]")
    known = rows.dropna(subset=["low", "high"])
    if len(known):
        low = alt.Y("low:Q", title=y_title, axis=axis)
        layers.append(
            alt.Chart(known).mark_rule(strokeWidth=1.6, color=blue, opacity=0.7).encode(x=x, y=low, y2="high:Q")
        )
    ring = alt.Chart(seeds).mark_point(size=26, strokeWidth=1.2, xOffset=6, color=blue)
    layers.append(ring.encode(x, y, tooltip=["regime:N", "seed:O", alt.Tooltip("gain:Q", format="+.4f")]))
    for counted, filled in ((True, True), (False, False)):
        mark = alt.Chart(rows[rows.counted == counted]).mark_point(
            size=95, filled=filled, opacity=1, strokeWidth=1.8, color=blue
        )
        layers.append(mark.encode(x, y, tooltip=TIP))
    return sized(alt.layer(*layers), HEIGHT)
