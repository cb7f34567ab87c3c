"""Sections of retrieval and of the heads that pre-pre-training grew, on drawn tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_study import write_study

from nca_interp.report.page import Figure, Note, Table
from nca_interp.report.sections import retrieval, survival
from nca_interp.report.tables import Tables

CELLS = [("nouns", 4, 8), ("nouns", 8, 8), ("nouns", 8, 32), ("random tokens", 4, 8), ("random tokens", 8, 8)]
HEAD = {"run": "pt-nca-web-s0", "regime": "nca", "domain": "web", "seed": 0, "stage": "pt", "ppt_run": "ppt-nca-s0", "probe": "induction", "layer": 1, "head": 2}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path, rng = write_study(tmp_path_factory.mktemp("drawn") / "study"), np.random.default_rng(0)
    runs = pd.read_csv(path / "tables/runs.csv")
    seeds, profiles = [], []
    for regime in ("scratch", "nca"):
        for stage, domain, steps in (("ppt", "", (0, 512)), ("pt", "web", (0, 512, 1024))):
            if (regime, stage) == ("scratch", "ppt"):
                continue
            for step in steps:
                place = {"domain": domain, "regime": regime, "stage": stage, "step": step, "tokens": 4096 * step}
                for material, length, distance in CELLS:
                    cell = {"material": material, "length": length, "distance": distance}
                    for quantity in ("gain", "relative", "relative_control", "gain over scratch"):
                        value = rng.normal() + step / 512
                        seeds.append(
                            {
                                **place,
                                **cell,
                                "quantity": quantity,
                                "value": value,
                                "low": value - 1,
                                "high": value + 1,
                                "n": 3,
                            }
                        )
                for by in ("position", "frequency"):
                    for b in range(5):
                        profiles.append({**place, "by": by, "bin": b, "low_edge": 2**b, "high_edge": 2 ** (b + 1), "value": 5 - b, "low": 4 - b, "high": 6 - b, "n": 3})  # fmt: skip
    own = HEAD | {"run": runs[(runs.regime == "nca") & (runs.stage == "pt")].run.iloc[0]}
    course = [
        {**own, "step": s, "tokens": 4096 * s, "quantity": q, "value": 1 - s / 2048, "low": np.nan, "high": np.nan, "start": 1.0, "bound": 0.3}
        for s in (0, 512, 1024)
        for q in ("score", "input", "matching", "copying", "qk_norm", "ov_norm", "effect")
    ]  # fmt: skip
    fate = {**own, "start": 0.9, "level": 0.3, "end": 0.2, "lost_state": "reached", "lost_after": 512, "lost_by": 1024, "used_state": "never",
            "used_after": 1024, "used_by": np.nan, "effect": 0.01, "bound": 0.1, "others": 15, "fate": "lost", "first_part": "copying", "sentence": "It is lost."}  # fmt: skip
    together = {"domain": "web", "regime": "nca", "ppt_regime": "nca", "probe": "induction", "seeds": 3, "heads": 3, "lost": 3, "kept": 0, "used": 0, "agree": 3, "verdict": "no verdict (fewer than 6 seeds)"}  # fmt: skip
    for name, rows in {
        "retrieval_seeds": seeds,
        "profile_seeds": profiles,
        "survival": course,
        "fates": [fate],
        "fate_seeds": [together],
    }.items():
        pd.DataFrame(rows).to_csv(path / f"tables/{name}.csv", index=False)
    return path


def test_retrieval_is_drawn_over_training_by_size_and_by_place(folder):
    (section,) = retrieval.section(Tables(folder))
    figures = {item.id: item for item in section.items if isinstance(item, Figure)}
    assert list(figures) == ["fig-retrieval", "fig-retrieval-size", "fig-profile"]
    assert figures["fig-retrieval"].choices[0].options[0] == ("nouns", "nouns")
    assert figures["fig-retrieval"].choices[1].options[0][0] == "8 items, 8 tokens apart"
    assert len(figures["fig-retrieval-size"].charts) == 2
    for figure in figures.values():
        for chart in figure.charts:
            chart.spec.to_dict()
    table = next(item for item in section.items if isinstance(item, Table))
    assert len(table.rows) == 3 * len(CELLS)


def test_heads_are_drawn_by_arm_with_their_fate(folder):
    (section,) = survival.section(Tables(folder))
    figures = [item for item in section.items if isinstance(item, Figure)]
    assert [f.id for f in figures] == ["fig-survival", "fig-survival-effect"]
    assert figures[0].finding == "Of 1 head that were followed into language: 1 lost."
    for figure in figures:
        for chart in figure.charts:
            chart.spec.to_dict()
    last = section.items[-1]
    assert isinstance(last, Table)
    assert last.rows[0][-2:] == ("lost", "copying")


def test_a_study_without_them_says_so(tmp_path):
    path = write_study(tmp_path / "study")
    for sections in (retrieval.section(Tables(path)), survival.section(Tables(path))):
        assert [type(item) for item in sections[0].items] == [Note]
