"""The page of `match` in Chromium: no request, no complaint, nothing of a hostile corpus name runs, whatever was found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report_browser import CHROMIUM, Visit, browser  # noqa: F401 the fixture

from nca_interp import discover
from nca_interp.analysis.matching.run import run
from nca_interp.base import UserError
from nca_interp.data.specs import TextSpec
from nca_interp.machine import circumstances
from nca_interp.report.pages.matching import MatchFolder
from nca_interp.report.tables import Tables

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} naïve 日本"
needs_browser = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: apt-get install chromium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("match")
    rng = np.random.default_rng(0)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", HOSTILE]
    lines = [json.dumps({"text": " ".join(rng.choice(words, 900))}) for _ in range(24)]
    (path / "corpus.jsonl").write_text("\n".join(lines))
    found = run(HOSTILE, TextSpec(source=f"files:{path}/corpus.jsonl"), n=24)
    found.record["provenance"] = circumstances(f"nca-interp match {HOSTILE}")
    found.write(path / "out")
    MatchFolder(path / "out").build()
    return path / "out"


@pytest.fixture(scope="module")
def visit(browser: Any, folder: Path) -> Iterator[Visit]:  # noqa: F811
    page = Visit(browser, folder / "report.html").wait()
    yield page
    page.context.close()


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_page_is_whole_in_both_themes_and_widths(browser: Any, folder: Path, width: int, scheme: str):  # noqa: F811
    page = Visit(browser, folder / "report.html", width=width, scheme=scheme).wait()
    assert width < 1200 or page.clipped() == []
    assert page.faults() == []
    page.context.close()


@needs_browser
def test_the_map_shows_every_cell_of_one_dt_and_frames_the_nearest(visit: Visit, folder: Path):
    cells = MatchFolder(folder).table("cells")
    shown = "[...document.querySelectorAll('#fig-grid svg .mark-text text')].map(t => t.textContent)"
    written = visit.ask(shown)
    here = cells[cells["dt"] == cells["dt"].iloc[0]]
    assert sorted(w for w in written if "." in w) == sorted(f"{d:.2f}" for d in here.distance)
    other = next(d for d in cells["dt"].unique() if d != cells["dt"].iloc[0])
    visit.page.select_option("#fig-grid select", str(other))
    visit.page.wait_for_function(
        f"JSON.stringify({shown}) !== JSON.stringify({json.dumps(written, ensure_ascii=False)})", timeout=10_000
    )
    there = cells[cells["dt"] == other]
    assert sorted(w for w in visit.ask(shown) if "." in w) == sorted(f"{d:.2f}" for d in there.distance)


@needs_browser
def test_page_says_what_the_record_says(visit: Visit, folder: Path):
    record = MatchFolder(folder).record
    text = visit.ask("document.body.innerText")
    for part in (record["sentence"], record["rests_on"], record["paper_rule"]["sentence"], record["cell"], HOSTILE):
        assert " ".join(part.split()) in " ".join(text.split())
    badges = visit.ask("[...document.querySelectorAll('.badge')].map(b => b.textContent)")
    assert badges == list(MatchFolder(folder).table("settings").verdict)


def test_a_study_has_no_such_page(study: Path):
    with pytest.raises(UserError, match="nca-interp match CORPUS"):
        discover.find("reports", "match").value(Tables(study))
