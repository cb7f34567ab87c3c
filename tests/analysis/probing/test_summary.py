"""The table of probes on a terminal: ties, units, 80 columns."""

from __future__ import annotations

from itertools import product

import pandas as pd
import pytest

from nca_interp.analysis.probing.summary import WIDTH, annotate, summarise
from nca_interp.cli.plan import print_table

LONG = "attention mass, 10 states on 12 x 12 cells, laid over the vocabulary"


def _rows(probe: str, values: dict[tuple[int, int], float], unit: str) -> list[dict]:
    common = {"probe": probe, "chance": -0.9688, "null_95": -0.9655, "hit": 1, "unit": unit, "n": 16}
    return [
        {**common, "layer": layer, "head": head, "value": values.get((layer, head), 0.25)}
        for layer, head in product(range(30), range(9))
    ]


@pytest.fixture
def frame() -> pd.DataFrame:
    tied = {(i // 9, i % 9): 0.99999 if i % 2 else 1.0 for i in range(69)}
    model = {"probe": "nca_match_frequency_stencil", "layer": None, "head": None, "value": -11.6023, "chance": 0.0, "null_95": -11.6, "hit": None, "unit": LONG, "n": 16}  # fmt: skip
    rows = [*_rows("sink", tied, "share of sequences"), *_rows("induction", {(29, 8): 0.9}, LONG), model]
    return pd.DataFrame(rows)


def test_ties_are_said_and_no_head_is_called_highest(frame: pd.DataFrame):
    lines = {line[0]: line for line in summarise(frame)}
    assert lines["sink"][1:3] == ("1.0000", "69 tie")
    assert lines["induction"][1:3] == ("0.9000", "29.8")
    assert "sink: 69 heads tie at 1.0000" in annotate(list(lines.values()))[2]


def test_everything_fits_80_columns(
    frame: pd.DataFrame, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    columns, lines, notes = annotate(summarise(frame))
    print_table("title", columns, lines, left=("unit",))
    print("\n".join(notes))
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= WIDTH
    text = "\n".join(shown)
    assert "nca_match_frequency_stencil" in text
    assert "-11.6023" in text
    assert text.count("…") == 0
    row = next(line for line in shown if "nca_match" in line)
    assert row.rstrip().endswith("[1]")  # on one line
    assert f"[1] {LONG}" in text
