"""Regimes in charts: no two look the same, however many there are; few keep what they always had."""

import altair as alt
import pytest

from nca_interp.report.charts.theme import LIGHT, regime_color, regime_dash, regime_shape


def _range(channel):
    return [str(value) for value in channel.to_dict()["scale"]["range"]]


@pytest.mark.parametrize("n", [7, 13, 24])
def test_lines_and_points_of_more_regimes_than_colours_differ(n):
    names = [f"arm {i}" for i in range(n)]
    colours = _range(regime_color(names))
    assert len(set(zip(colours, _range(regime_dash(names)), strict=True))) == n
    assert len(set(zip(colours, _range(regime_shape(names)), strict=True))) == n


def test_as_many_regimes_as_colours_are_solid():
    assert regime_dash([f"arm {i}" for i in range(len(LIGHT))]) is alt.Undefined
