"""The report of models from elsewhere as a reader opens it: small maps, the page of a head, two models, a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_models import PLANTED, Model, write_collection
from test_report_browser import CHROMIUM, Visit, browser  # noqa: F401 the fixture

from nca_interp.report.build import build_report

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: apt-get install chromium")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "a"
    return build_report(write_collection(folder, Model("base"), Model("tuned", shift=0.5), causes=True))


@pytest.fixture(scope="module")
def desk(browser: Any, report: Path) -> Iterator[Visit]:  # noqa: F811
    visit = Visit(browser, report).wait()
    yield visit
    visit.context.close()


def test_the_page_is_whole_in_both_themes(desk: Visit):
    assert desk.faults() == []
    desk.page.click("#theme")
    desk.page.wait_for_timeout(300)
    assert desk.errors == []
    desk.page.click("#theme")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_no_overflow(browser: Any, report: Path, scheme: str):  # noqa: F811
    visit = Visit(browser, report, 390, scheme).wait()
    assert visit.faults() == []
    visit.context.close()


def test_a_cell_of_a_small_map_opens_the_page_of_its_head(desk: Visit):
    canvas = desk.page.locator("#fig-maps canvas[aria-label^='induction, base']")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box
    layer, head = PLANTED
    place = {"x": (head + 0.5) / 9 * box["width"], "y": (layer + 0.5) / 30 * box["height"]}
    canvas.hover(position=place)
    assert desk.page.inner_text("#fig-maps .said") == "base, layer 5 head 3: induction 0.9, of the kind"
    canvas.click(position=place)
    desk.page.wait_for_selector("#head-page[open][data-shown^='base/5.3/']")
    assert desk.page.inner_text("#head-page-title") == "Layer 5 head 3"
    scores = desk.ask(
        "[...document.querySelectorAll('#head-page .scores tbody tr')].map(r => [...r.children].map(c => c.textContent))"
    )
    assert ["induction", "0.9", "0.02", "0.04", "yes", "1 of 270"] in scores
    assert "+1.2500" in desk.page.inner_text("#head-page .effects")
    assert "rank 1 of 270" in desk.page.inner_text("#head-page .told")
    assert desk.page.is_hidden("#head-page .history")  # one checkpoint
    assert "w23" in desk.page.inner_text("#head-page .strip")  # the user's own text comes first
    desk.page.click("#head-page .close")
    desk.page.wait_for_selector("#head-page", state="hidden")


def test_the_name_of_a_probe_chooses_it_in_the_large_map(desk: Visit):
    desk.page.locator("#fig-maps .mini button", has_text="sink").first.click()
    assert desk.page.input_value("#fig-heads [data-choice=probe]") == "sink"
    assert desk.errors == []


def test_a_series_has_a_history_on_the_page_of_a_head(browser: Any, tmp_path: Path):  # noqa: F811
    path = build_report(write_collection(tmp_path / "a", Model("run", 8, 6, (0, 100, 400, 800))))
    visit = Visit(browser, path, anchor="#head/run/5.3").wait()
    visit.page.wait_for_selector("#head-page[data-shown='run/5.3/induction']")
    assert visit.page.is_visible("#head-page .history")
    assert visit.page.inner_text("#head-page .whose") == "run, step 800"
    assert "training step" in visit.page.inner_text("#head-page .trace")
    visit.context.close()
