"""Charts of interventions: score against harm, top heads against random sets, what each layer carries."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from nca_interp.report.charts.theme import fade, regime_color, regime_shape, signal, sized

HARM = "harm when it is lost"


def score_against_harm(rows: pd.DataFrame, levels: pd.DataFrame, regimes: list[str]) -> alt.LayerChart:
    """A mark a head; the signals `probe` and `metric` name the columns that are drawn. `rows`: regime, run, seed, layer, head and
    a column for each probe and metric; `levels`: probe, value, text (chance and the like)."""
    x = alt.X(
        "x:Q",
        title="score of the chosen probe",
        scale=alt.Scale(zero=False, nice=True, padding=14),
        axis=alt.Axis(tickCount=5),
    )
    y = alt.Y("y:Q", title=HARM, scale=alt.Scale(nice=True, padding=10), axis=alt.Axis(tickCount=5, format="+.3~f"))
    zero = alt.Chart(pd.DataFrame({"y": [0.0]})).mark_rule(strokeWidth=1).encode(y=y)
    lines = alt.Chart(levels).transform_filter("datum.probe == probe").encode(x=alt.X("value:Q"))
    tip = [
        "regime:N",
        "seed:N",
        "layer:O",
        "head:O",
        alt.Tooltip("x:Q", title="score", format=".4f"),
        alt.Tooltip("y:Q", title="harm", format="+.5f"),
    ]
    marks = (
        alt.Chart(rows)
        .transform_calculate(x="datum[probe]", y="datum[metric]")
        .transform_filter("isValid(datum.x) && isValid(datum.y)")
        .mark_point(size=52, filled=True)
        .encode(x=x, y=y, color=regime_color(regimes), shape=regime_shape(regimes), opacity=fade(0.8), tooltip=tip)
    )
    text = lines.mark_text(align="left", baseline="top", dx=3, dy=3, angle=90, fontSize=10.5, color=signal("mut"))
    return sized(
        alt.layer(zero, lines.mark_rule(strokeDash=[4, 3], strokeWidth=1.2), text.encode(y=alt.YValue(0), text=alt.Text("text:N")), marks), 300
    )  # fmt: skip


def against_random(rows: pd.DataFrame, regimes: list[str]) -> alt.LayerChart:
    """Harm of losing the top heads (marks) beside random sets (bars: mean and two standard deviations), a row a probe and regime;
    the signal `metric` chooses. `rows`: regime, probe, metric, effect, random, random_low, random_high, verdict, p, p_holm, p_bh."""
    order = list(dict.fromkeys(rows.probe))
    axis = alt.Axis(
        title=None, grid=False, ticks=False, domain=False, labelLimit=170, labelColor=signal("fg"), labelPadding=8
    )
    y = alt.Y("probe:N", sort=order, axis=axis, scale=alt.Scale(domain=order, paddingInner=0.3))
    offset = alt.YOffset("regime:N", scale=alt.Scale(domain=regimes))
    x_axis = alt.Axis(tickCount=5, format="+.3~f", titleAnchor="end")
    color = regime_color(regimes)
    base = alt.Chart(rows).transform_filter("datum.metric == metric")
    tip = [
        "regime:N",
        "probe:N",
        *(alt.Tooltip(f"{c}:Q", format="+.5f") for c in ("effect", "random")),
        alt.Tooltip("p:Q", format=".3f"),
        alt.Tooltip("p_holm:Q", format=".3f"),
        alt.Tooltip("p_bh:Q", format=".3f"),
        "verdict:N",
    ]
    zero = (
        alt.Chart(pd.DataFrame({"effect": [0.0]}))
        .mark_rule(strokeWidth=1)
        .encode(x=alt.X("effect:Q", title=HARM, axis=x_axis))
    )
    spread = base.mark_rule(strokeWidth=5).encode(
        x=alt.X("random_low:Q", title=HARM, axis=x_axis),
        x2=alt.X2("random_high:Q"),
        y=y,
        yOffset=offset,
        color=color,
        opacity=fade(0.25),
    )
    middle = base.mark_tick(thickness=2, size=9).encode(
        x=alt.X("random:Q", title=HARM, axis=x_axis), y=y, yOffset=offset, color=color, opacity=fade(0.7)
    )
    marks = base.mark_point(size=58, filled=True).encode(
        x=alt.X("effect:Q", title=HARM, axis=x_axis),
        y=y,
        yOffset=offset,
        color=color,
        shape=regime_shape(regimes),
        opacity=fade(1),
        tooltip=tip,
    )
    height = int(len(order) * (8 + 11 * rows.regime.nunique()) + 10)
    return sized(alt.layer(zero, spread, middle, marks), height)  # fmt: skip


def by_layer(rows: pd.DataFrame, mean: pd.DataFrame, regimes: list[str], where: str, y_title: str) -> alt.LayerChart:
    """Thin lines of single seeds behind means over the depth. `rows`: regime, run, layer, value; `mean`: regime, layer, value; both
    with the columns that the filter `where` reads."""
    x = alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0, labelOverlap=True))
    y = alt.Y("value:Q", title=y_title, scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(tickCount=5))
    color, tip = (
        regime_color(regimes),
        [alt.Tooltip("regime:N"), alt.Tooltip("layer:O"), alt.Tooltip("value:Q", format=".4f")],
    )
    seeds = alt.Chart(rows).transform_filter(where).mark_line(strokeWidth=1)
    means: Any = alt.Chart(mean).transform_filter(where)
    return sized(
        alt.layer(
            seeds.encode(x, y, color, detail=alt.Detail("run:N"), opacity=fade(0.5)),
            means.mark_line(strokeWidth=2.4).encode(x, y, color, opacity=fade(1)),
            means.mark_point(size=44, filled=True).encode(
                x, y, color, regime_shape(regimes), opacity=fade(1), tooltip=tip
            ),
        ),
        230,
    )
