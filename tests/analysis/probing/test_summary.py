"""What the terminal says of probes: heads that tie are not ranked, and nothing is wider than 80 columns."""

from __future__ import annotations

import pandas as pd
import pytest

from nca_interp.analysis.causes.rows import top_heads
from nca_interp.analysis.probing.patterns import notable
from nca_interp.analysis.probing.summary import columns, summarise, units
from nca_interp.cli.show import print_table
from nca_interp.discover import load


def scores(values, probe="sink", unit="share of sequences"):
    return pd.DataFrame({
        "probe": probe, "layer": [i // 9 for i in range(len(values))], "head": [i % 9 for i in range(len(values))],
        "value": values, "chance": 0.0, "null_95": 0.25, "hit": [int(v > 0.5) for v in values], "n": 16, "unit": unit,
    })  # fmt: skip


def test_heads_that_share_the_highest_score_are_counted():
    lines = {row[0]: row for row in summarise(pd.concat([scores([1.0] * 69 + [0.5] * 201), scores([0.1, 0.9], "one")]))}
    assert lines["sink"][1:3] == ("1.0000", "69 heads")
    assert lines["one"][1:3] == ("0.9000", "0.1")


@pytest.mark.parametrize(
    ("values", "k", "top"),
    [
        ([1, 1, 1, 0], 2, []),
        ([3, 1, 1, 1, 0], 2, [0]),
        ([3, 2, 1], 2, [0, 1]),
        ([2, 2, 1], 2, [0, 1]),
        ([1, 1], 2, [0, 1]),
        ([0, 5, 5, 7], 3, [3, 1, 2]),
    ],
)
def test_top_heads_are_those_that_something_ranks(values, k, top):
    heads = [(0, i) for i in range(len(values))]
    assert top_heads(dict(zip(heads, map(float, values), strict=True)), k) == [(0, i) for i in top]


def test_tied_heads_do_not_take_the_places_of_others():
    """69 sinks of one score say less of which patterns to show than the second induction head."""
    ranked = scores([0.0] * 200 + [0.001 * i for i in range(70)], "induction")
    shown = notable(pd.concat([scores([1.0] * 69 + [0.5] * 201), ranked]), 30, 9, limit=10)
    assert shown == [divmod(i, 9) for i in range(260, 270)]


def test_a_summary_fits_eighty_columns(capsys):
    """The largest of all: 30 x 9 heads, names and units as long as ours get, with random models."""
    frame = pd.concat([
        scores([-12.3456] * 270, "induction_repeat_2", "attention mass, 2 states on 6 x 6 cells, laid over the vocabulary"),
        scores([0.5] * 100 + [123.4567] * 170, "repeated_token_gain", "nats per token"),
        *(scores([0.1] * 270, f"a_probe_called_{i:04}", "nats per token") for i in range(9)),
    ])  # fmt: skip
    print_table("title", *columns(summarise(frame)))
    for line in units(frame):
        print(line)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for cell in ("induction_repeat_2", "270 heads", "170 heads", "-12.3456", "123.4567", "0.2500"):
        assert cell in printed, cell
    assert "attention mass, 2 states on 6 x 6 cells, laid over the vocabulary:\n  induction_repeat_2" in printed
    assert "nats per token: a_probe_called_0000, a_probe_called_0001" in printed


def test_a_summary_of_our_longest_names_is_not_cut(capsys):
    longest = max(load("probes"), key=len)
    frame = pd.concat([
        scores([64.0] * 270, longest, "tokens").assign(null_95=-0.0001, hit=True),
        scores([-0.0001] * 270, "offset_peak", "tokens").assign(chance=-0.0001, null_95=12.0, hit=False),
    ])  # fmt: skip
    print_table("title", *columns(summarise(frame)))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    for cell in (longest, "64.0000", "270 heads", "-0.0001", "12.0000", "random"):
        assert cell in printed, cell


def test_what_does_not_fit_is_wider_and_not_cut(capsys):
    name = "a_probe_of_mine_with_a_name_that_says_everything_about_it_and_more"
    print_table("title", *columns(summarise(scores([64.0] * 270, name, "tokens"))))
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert all(cell in printed for cell in (name, "64.0000", "270 heads"))
