"""The section on the swap says what its tables say, and nothing where there is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_study import write_study

from nca_interp.report.page import Figure, Note, Table
from nca_interp.report.sections.start import start
from nca_interp.report.tables import Tables


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Tables:
    return Tables(write_study(tmp_path_factory.mktemp("study")))


def test_figure_and_tables_hold_every_arm(tables: Tables):
    figure, arms, scratches, *rest = start(tables)
    assert isinstance(figure, Figure)
    assert len(figure.charts) == 8  # two domains, stream and share, before and after
    assert "scratch 0.66" in figure.finding  # 0.9 ** 4
    assert "nca 0.03" in figure.finding  # 0.4 ** 4
    assert isinstance(arms, Table)
    shown = [row[1] for row in arms.rows]
    assert shown == 2 * [tables.label(n) for n, info in tables.regimes.items() if info.role == "regime"]
    assert arms.rows[0][2:5] == ("embedding N(0, 0.02\u00b2), tied", "3", "8.625")
    assert arms.rows[0][-1] == "\u2013" or arms.rows[0][-1] == "\u2014"  # a tied unembedding has no gradient of its own
    assert isinstance(scratches, Table)
    assert [row[-1] for row in scratches.rows] == ["best scratch"] * 2
    assert rest == []


def test_a_study_without_the_measure_says_so(tmp_path: Path):
    (item,) = start(Tables(write_study(tmp_path / "study", drop=("start", "scratches"))))
    assert isinstance(item, Note)
    assert "start.csv" in item.text
