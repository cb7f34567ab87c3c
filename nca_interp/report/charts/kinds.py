"""The kinds of charts a report is made of. Each takes tidy rows and returns an Altair chart; nothing here knows a study."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from nca_interp.report.charts.theme import fade, ramp_scale, regime_color, regime_dash, regime_shape

LABEL_PIXELS = 14
LAYER_PIXELS = 15
"""Least height of a layer in a map of heads: a finger finds it."""
MARKERS = 10
MAX_POINTS = 160
"""Points a line at most; longer ones are thinned evenly, first and last kept."""


def thin(frame: pd.DataFrame, keys: list[str], x: str, limit: int = MAX_POINTS) -> pd.DataFrame:
    """At most `limit` evenly spaced rows of each group, first and last kept, sorted by `x`."""
    frame = frame.sort_values([*keys, x])
    position = frame.groupby(keys).cumcount()
    size = frame.groupby(keys)[x].transform("size")
    last = (size - 1).clip(lower=1)
    slot = (position * (limit - 1)) // last
    first_of_slot = slot != slot.groupby([frame[k] for k in keys]).shift()
    return frame[(size <= limit) | first_of_slot | (position == size - 1)]


def spread(values: list[float], low: float, high: float, height: int) -> list[float]:
    """Positions near `values` but at least one text line apart within [low, high] on an axis of `height` pixels."""
    gap = (high - low) * LABEL_PIXELS / height
    order = sorted(range(len(values)), key=lambda i: values[i])
    placed: list[float] = []
    for i in order:
        placed.append(max(values[i], placed[-1] + gap) if placed else values[i])
    shift = sum(p - values[i] for p, i in zip(placed, order, strict=True)) / max(len(placed), 1)
    placed = [p - shift for p in placed]
    if placed and placed[0] < low:
        placed = [max(p, low + k * gap) for k, p in enumerate(placed)]
    result = [0.0] * len(values)
    for i, p in zip(order, placed, strict=True):
        result[i] = p
    return result


def curves(
    raw: pd.DataFrame,
    mean: pd.DataFrame,
    regimes: list[str],
    y_title: str,
    *,
    x_title: str = "training tokens",
    height: int = 260,
    references: list[tuple[float, str]] | None = None,
    swap: bool = False,
    where: str | None = None,
    labels: bool = True,
    zero: bool = False,
    dots: bool = False,
) -> alt.LayerChart:
    """Thin lines of single seeds behind thick means. `raw`: regime, run, tokens, value; `mean`: regime, tokens, value.

    `references` are horizontal dashed lines (value, name); `swap` marks x = 0; `where` is a Vega filter that a selector
    drives; `labels` writes the regimes' names at the ends; `dots` marks every point of the mean instead of some.
    """
    everything = [*raw.value, *mean.value, *(v for v, _ in references or []), *([0.0] if zero else [])]
    low, high = min(everything), max(everything)
    margin = 0.04 * (high - low) or 0.01
    low, high = low - margin * (2.5 if references else 1), high + margin
    y_scale = alt.Scale(zero=False, nice=True) if where else alt.Scale(domain=[low, high], nice=False, zero=False)
    x = alt.X("tokens:Q", title=x_title, axis=alt.Axis(format="~s", tickCount=5), scale=alt.Scale(nice=False))
    y = alt.Y("value:Q", title=y_title, scale=y_scale, axis=alt.Axis(tickCount=5))
    marked = mean if dots else thin(mean, ["regime"], "tokens", MARKERS)
    breaks = {"detail": alt.Detail("stage:N")} if "stage" in mean else {}
    color, tip = (
        regime_color(regimes),
        [alt.Tooltip("regime:N"), alt.Tooltip("tokens:Q", format=",.0f"), alt.Tooltip("value:Q", format=".4f")],
    )
    dash = regime_dash(regimes)
    seeds = (
        alt.Chart(raw)
        .mark_line(strokeWidth=1)
        .encode(x, y, color, detail=alt.Detail("run:N"), strokeDash=dash, opacity=fade(0.5))
    )
    means = alt.Chart(mean).mark_line(strokeWidth=2.4).encode(x, y, color, strokeDash=dash, opacity=fade(1), **breaks)
    points = (
        alt.Chart(marked)
        .mark_point(size=34, filled=True)
        .encode(x, y, color, regime_shape(regimes), opacity=fade(1), tooltip=tip)
    )
    layers: list[Any] = [seeds, means, points]
    if where:
        layers = [layer.transform_filter(where) for layer in layers]
    layers = [*_reference_lines(references or [], zero), *([swap_rule()] if swap else []), *layers]
    if labels:
        layers.append(_end_labels(mean, regimes, low, high, height))
    return sized(
        alt.layer(*layers),
        height,
    )


def _reference_lines(references: list[tuple[float, str]], zero: bool) -> list[Any]:
    layers: list[Any] = []
    if zero:
        layers.append(alt.Chart(pd.DataFrame({"value": [0.0]})).mark_rule(strokeWidth=1).encode(y=alt.Y("value:Q")))
    if references:
        frame = pd.DataFrame(references, columns=["value", "text"])
        base = alt.Chart(frame).encode(y=alt.Y("value:Q"))
        layers.append(base.mark_rule(strokeDash=[4, 3], strokeWidth=1.2).encode())
        layers.append(
            base.mark_text(align="right", dx=-2, dy=8, fontSize=11, color=signal("mut")).encode(
                x=alt.XValue("width"), text=alt.Text("text:N")
            )
        )
    return layers


def swap_rule() -> Any:
    """A dotted line at the embedding swap, x = 0 of `tokens`."""
    frame = pd.DataFrame({"tokens": [0.0], "text": ["embedding swap"]})
    base = alt.Chart(frame).encode(x=alt.X("tokens:Q"))
    rule = base.mark_rule(strokeDash=[2, 3], strokeWidth=1.2)
    text = base.mark_text(align="right", dx=-5, dy=6, fontSize=11, color=signal("mut")).encode(
        y=alt.YValue(0), text=alt.Text("text:N")
    )
    return rule + text


def _end_labels(mean: pd.DataFrame, regimes: list[str], low: float, high: float, height: int) -> Any:
    last = mean.sort_values("tokens").groupby("regime", sort=False).tail(1).copy()
    last["label"] = spread(list(last.value), low, high, height)
    last["tokens"] = mean.tokens.max()
    last["text"] = last.regime.map(_clip)
    return (
        alt.Chart(last)
        .mark_text(align="left", dx=8, fontSize=11.5, fontWeight=600)
        .encode(
            x=alt.X("tokens:Q"),
            y=alt.Y("label:Q"),
            text=alt.Text("text:N"),
            color=regime_color(regimes),
            opacity=fade(1, 0.2),
        )
    )


def _clip(name: str, limit: int = 13) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def signal(name: str) -> Any:
    """A colour that follows the theme."""
    return alt.ExprRef(name)


def whole_ticks(values: pd.Series) -> list[int]:
    """At most nine whole numbers from the least to the greatest, evenly apart: Vega alone repeats "1" at 0.5 and 1 on short axes."""
    if values.empty:
        return []
    low, high = int(values.min()), int(values.max())
    return list(range(low, high + 1, (high - low) // 9 + 1))


def sized(chart: Any, height: int | Any) -> Any:
    """The same chart, as wide as its place on the page, `height` pixels high."""
    # set in place: `properties` would make a copy, in which altair compares all layers again
    chart.width, chart.height, chart.padding = "container", height, {"left": 2, "right": 8, "top": 8, "bottom": 2}
    chart.autosize = alt.AutoSizeParams(type="fit-x", contains="padding")
    return chart


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
