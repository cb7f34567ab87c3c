"""Curves over training: losses, scores, whatever a run has at its checkpoints. A mean for each regime over its single runs."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from nca_interp.report.charts.axes import spread, thin
from nca_interp.report.charts.theme import fade, regime_color, regime_dash, regime_shape, signal, sized

MARKERS = 10


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
