"""The section on mediation: shares are drawn where there is a gain, else the sentence stands there; studies without arms have none."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from nca_interp.analysis.mediation import tables as made
from nca_interp.analysis.mediation.judge import judge_mediation, judge_removal
from nca_interp.analysis.mediation.records import HEAD_RULES
from nca_interp.analysis.mediation.words import blinded as blinded_words
from nca_interp.report.page import Figure, Note, Table
from nca_interp.report.sections.mediation import sections

HEAD = {
    "domain": "web", "regime": "nca", "scratch": "scratch", "rule": "induction-1", "probe": "induction", "way": "without",
    "measure": "val_loss", "family": "declared", "words": "top 2 by induction",
}  # fmt: skip
GAIN = (0.20, 0.24, 0.18)


def sought(gain, moved, random) -> made.Sought:
    rows = []
    for seed, (g, m, others) in enumerate(zip(gain, moved, random, strict=True)):
        for number, value in enumerate((m, *others)):
            rows.append({
                **HEAD, "seed": seed, "number": number, "scratch_value": 3.0, "full_value": 3.0 - g, "value": 3.0 - g + value, "gain": g,
                "moved": value,
            })  # fmt: skip
    return made.Sought(dict(HEAD), rows, len(gain), False)


def shown(one: made.Sought | None, removal=None) -> SimpleNamespace:
    rows, seeds, blind = [], [], []
    if one is not None:
        (judged,) = judge_mediation([one.question(0.01)])
        rows, seeds = [made._row(one, judged, 0.01)], one.rows
    if removal is not None:
        (found,) = judge_removal([removal])
        row = {
            "domain": "web",
            "regime": "nca",
            "scratch": "scratch",
            "stages": "pt",
            "planned": 3,
            **found._asdict(),
            "margin": 0.01,
        }
        for name in ("gain", "hindered", "removed", "share"):
            value = getattr(found, name)
            row |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        blind = [row | {"sentence": blinded_words(row)}]
    return SimpleNamespace(
        mediation=pd.DataFrame(rows, columns=made.MEDIATION), mediation_seeds=pd.DataFrame(seeds, columns=made.SEEDS),
        head_rules=pd.DataFrame([], columns=HEAD_RULES), blinded=pd.DataFrame(blind, columns=made.BLINDED),
        domain_label=lambda name: name, label=lambda name: name,
    )  # fmt: skip


def test_shares_are_drawn_beside_random_heads_with_the_verdict():
    tables = shown(sought(GAIN, GAIN, ((0.0, 0.01, -0.01, 0.002),) * 3))
    (section,) = sections(tables)
    figure, table = section.items
    assert isinstance(figure, Figure)
    assert isinstance(table, Table)
    assert "a share of 1.00 (1.00 to 1.00)" in figure.finding
    assert figure.finding.endswith(": mediates.")
    assert set(figure.data.heads) == {"heads of the rule", "random heads of the same layers"}
    chosen = figure.data[figure.data.heads == "heads of the rule"].share
    assert chosen.mean() == pytest.approx(1.0)
    assert len(figure.data) == 3 * 5
    assert table.rows[0][-1] == "mediates"
    assert table.rows[0][4] == "3 of 3"


def test_without_a_gain_there_is_no_share_and_the_sentence_says_so():
    (section,) = sections(shown(sought((0.1, -0.1, 0.02), (0.1, 0.0, 0.0), ((0.0, 0.0),) * 3)))
    note, table = section.items
    assert isinstance(note, Note)
    assert note.text.endswith("no gain to mediate.")
    assert "share of" not in note.text
    assert table.rows[0][7:9] == ("\u2013", "\u2013") or "nan" not in " ".join(table.rows[0])


def test_hindered_training_has_a_table_of_its_own():
    (section,) = sections(shown(None, (GAIN, (0.01, 0.0, 0.02), 0.01)))
    (table,) = section.items
    assert table.id == "tab-blinded"
    assert table.rows[0][-1] == "removes"


def test_a_study_without_such_arms_has_no_section():
    assert sections(shown(None)) == ()


def test_numbers_that_are_not_there_are_no_words():
    tables = shown(sought((0.1,), (0.1,), ((0.0,),)))
    assert "nan" not in tables.mediation.sentence.iloc[0]
    assert tables.mediation.verdict.iloc[0] == "no verdict (one seed)"
    assert math.isnan(tables.mediation.p_adjusted.iloc[0])


def test_every_column_is_documented(root: Path):
    told = (root / "docs" / "tables.md").read_text()
    for name, columns in {
        "head_rules": HEAD_RULES, "mediation": made.MEDIATION, "mediation_seeds": made.SEEDS, "blinded": made.BLINDED,
    }.items():  # fmt: skip
        (row,) = [line for line in told.splitlines() if line.startswith(f"| {name} |")]
        assert row.split("|")[3].strip() == ", ".join(columns)
