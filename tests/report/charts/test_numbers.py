"""Numbers as a reader meets them."""

import math

from nca_interp.report.charts.numbers import DASH, spread


def test_a_spread_is_one_number_where_all_are_equal_and_both_ends_elsewhere():
    assert spread([512_000, 512_000]) == "512\u00a0k"
    assert spread([1_024_000, 131_072, 512_000]) == "131\u00a0k to 1.02\u00a0M"
    assert spread([math.nan, 512_000]) == "512\u00a0k"
    assert spread([]) == spread([math.nan]) == DASH
