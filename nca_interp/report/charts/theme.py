"""Colours and type of the charts. Colours are Vega signals, so a page changes its theme without drawing anew."""

from __future__ import annotations

from typing import Any

import altair as alt

# Petroff's six (arXiv 2107.02270), darkened or lightened for contrast with the background; grey comes first, for scratch.
LIGHT = ("#73777f", "#2f6fe0", "#d9760b", "#8c3f82", "#c81f31", "#6a1fc4")
DARK = ("#a4a8b0", "#6fa2ff", "#f8a637", "#d08cc6", "#ff6673", "#ab7bff")
RAMP_LIGHT = ("#f4f6f9", "#bcd3ee", "#6fa0d8", "#2f65b0", "#12305f")
RAMP_DARK = ("#1b2027", "#1f3f66", "#3570ad", "#7fb2e5", "#eaf4ff")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3])
"""Of the lines of the first regimes, one for each colour, of the next as many, and so on: solid first."""
THEMES: dict[str, dict[str, Any]] = {
    "light": {"fg": "#1d2126", "mut": "#565c64", "grid": "#e4e7eb", "pal": LIGHT, "ramp": RAMP_LIGHT, "bg": "#ffffff"},
    "dark": {"fg": "#e8eaed", "mut": "#a3a9b2", "grid": "#2c323a", "pal": DARK, "ramp": RAMP_DARK, "bg": "#14171a"},
}
"""Values of the Vega signals (app.js sets them; style.css holds the same background and text colours)."""


def config() -> dict[str, Any]:
    """The Vega-Lite config shared by all charts of a page."""
    fg, mut, grid = ({"expr": name} for name in ("fg", "mut", "grid"))
    light = THEMES["light"]
    axis = {
        "labelColor": mut, "titleColor": mut, "gridColor": grid, "domainColor": grid, "tickColor": grid, "tickSize": 4,
        "labelFontSize": 11.5, "titleFontSize": 12, "titleFontWeight": 400, "titlePadding": 8, "labelPadding": 4,
        "labelFlush": False,
    }  # fmt: skip
    return {
        "background": "transparent",
        "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif",
        "params": [
            *({"name": k, "value": light[k]} for k in ("fg", "mut", "grid", "pal", "ramp", "bg")),
            {"name": "off", "value": []},
        ],
        "axis": axis,
        "axisX": {"grid": False},
        "view": {"stroke": None},
        "legend": {
            "labelColor": mut,
            "titleColor": mut,
            "labelFontSize": 11.5,
            "titleFontSize": 12,
            "titleFontWeight": 400,
        },
        "text": {"color": fg, "fontSize": 11.5},
        "title": {"color": fg},
        "rule": {"color": mut},
    }


def slot(index: int) -> int:
    """Colour and shape number of the regime at `index` of the legend."""
    return index % len(LIGHT)


def regime_color(regimes: list[str]) -> alt.Color:
    """Colour by `regime`; the same regime has the same colour in every chart."""
    palette = [{"expr": f"pal[{slot(i)}]"} for i in range(len(regimes))]
    return alt.Color("regime:N", scale=alt.Scale(domain=regimes, range=palette), legend=None)


def regime_shape(regimes: list[str]) -> alt.Shape:
    """Shape by `regime`, so that colour is never the only mark."""
    shapes = [SHAPES[slot(i + i // len(SHAPES))] for i in range(len(regimes))]
    return alt.Shape("regime:N", scale=alt.Scale(domain=regimes, range=shapes), legend=None)


def regime_dash(regimes: list[str]) -> Any:
    """Dashes by `regime` where there are more of them than colours: those that share a colour differ in their lines. Undefined where
    colours are enough."""
    if len(regimes) <= len(LIGHT):
        return alt.Undefined
    dashes = [DASHES[i // len(LIGHT) % len(DASHES)] for i in range(len(regimes))]
    return alt.StrokeDash("regime:N", scale=alt.Scale(domain=regimes, range=dashes), legend=None)


def fade(opacity: float, hidden: float = 0.03) -> Any:
    """Opacity that drops when the legend switches the regime off."""
    off: Any = {"test": "indexof(off, datum.regime) >= 0", "value": hidden}
    return alt.OpacityValue(
        opacity, condition=off
    )  # as an object: in words a chart takes twenty times as long to be made of it


def ramp_scale(**domain: Any) -> alt.Scale:
    """Sequential colours from the page's background upwards."""
    return alt.Scale(range=[{"expr": f"ramp[{i}]"} for i in range(len(RAMP_LIGHT))], **domain)


def signal(name: str) -> Any:
    """A colour that follows the theme."""
    return alt.ExprRef(name)


def sized(chart: Any, height: int | Any) -> Any:
    """The same chart, as wide as its place on the page, `height` pixels high."""
    # set in place: `properties` would make a copy, in which altair compares all layers again
    chart.width, chart.height, chart.padding = "container", height, {"left": 2, "right": 8, "top": 8, "bottom": 2}
    chart.autosize = alt.AutoSizeParams(type="fit-x", contains="padding")
    return chart
