"""What a reader does with a page: sort and filter tables, save figures, look words up, print it; and what axe-core says of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from test_report_browser import CHROMIUM, Visit, browser  # noqa: F401

from nca_interp.report.page import Page, Section, Table
from nca_interp.report.render import write_page

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: apt-get install chromium")
A4 = 680
"""Pixels of A4 between margins of 15 mm."""


@pytest.fixture(scope="module")
def desk(browser: Any, report: Path) -> Iterator[Visit]:  # noqa: F811
    visit = Visit(browser, report, 1300).wait()
    visit.page.set_default_timeout(60_000)
    yield visit
    visit.context.close()


def test_axe_finds_nothing(desk: Visit):
    """Outside what Vega draws: https://github.com/dequelabs/axe-core, all rules that it runs by default, every section open."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(desk.page, context={"exclude": [[".chart"]]})
    told = [
        f"{v['id']}: {v['help']}: {[n['html'][:120] for n in v['nodes']][:3]}" for v in found.response["violations"]
    ]
    assert told == []


def test_axe_sees_a_fault(desk: Visit):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    desk.ask(
        "document.querySelector('main').insertAdjacentHTML('beforeend', '<div id=planted><input><img src=\"data:,\"></div>')"
    )
    found = axe.Axe().run(desk.page, context={"include": [["#planted"]]})
    desk.ask("document.getElementById('planted').remove()")
    assert {"label", "image-alt"} <= {v["id"] for v in found.response["violations"]}


def test_a_figure_is_saved_as_it_is_shown(desk: Visit):
    desk.page.click("#fig-effects .save summary")
    with desk.page.expect_download() as waiting:
        desk.page.click("#fig-effects [data-save=svg]")
    assert waiting.value.suggested_filename == "synthetic-fig-effects.svg" or waiting.value.suggested_filename.endswith(
        "-fig-effects.svg"
    )
    text = Path(waiting.value.path()).read_text()
    drawn = ElementTree.fromstring(text)
    views = desk.ask("document.querySelectorAll('#fig-effects .chart svg.marks').length")
    assert text.count('class="marks"') == views > 0
    for name in ("against scratch", "against c4", "NCA", "scratch"):
        assert name in text or name.lower() in text
    width, height = (float(drawn.get(k, "0")) for k in ("width", "height"))
    with desk.page.expect_download() as waiting:
        desk.page.click("#fig-effects [data-save=png]")
    image = Image.open(io.BytesIO(Path(waiting.value.path()).read_bytes()))
    assert image.size == pytest.approx((2 * width, 2 * height), abs=2)
    pixels = np.asarray(image.convert("RGB"))
    assert (pixels[:4] == 255).all()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    assert desk.errors == []


def test_a_figure_saved_in_the_dark_is_light_and_the_page_stays_dark(desk: Visit):
    desk.page.emulate_media(color_scheme="dark")
    desk.page.click("#fig-pattern .save summary")
    with desk.page.expect_download() as waiting:
        desk.page.click("#fig-pattern [data-save=png]")
    pixels = np.asarray(Image.open(io.BytesIO(Path(waiting.value.path()).read_bytes())).convert("RGB"))
    assert (pixels[2, 2] == 255).all()
    assert desk.ask("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert desk.ask("document.documentElement.dataset.theme ?? ''") == ""
    desk.page.emulate_media(color_scheme="light")


@pytest.fixture(scope="module")
def tall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of one long table with numbers as reports write them, and a short one."""
    values = ("−0.5", "+12.1", "1.25\u00a0M", "–", "12,288", "< 0.001", "3.1\u00a0k")
    rows = tuple((f"run {i}", values[i % 7], f"[−{i}.0, +1]", "a <b>name</b>") for i in range(35))
    tables = (
        Table(("run", "value", "interval", "name"), rows, "Long", frozenset({1, 2}), "tab-long"),
        Table(("run",), rows[:20], "Short", id="tab-short"),
    )
    path = tmp_path_factory.mktemp("tall") / "report.html"
    write_page(Page("T", "s", (), (), (), (Section("one", "One", tables),), {"study": "t"}), path)
    return path


def test_long_tables_are_sorted_and_filtered(browser: Any, tall: Path):  # noqa: F811
    visit = Visit(browser, tall).wait()

    def column(k: int) -> list[str]:
        return visit.ask(f"[...document.querySelectorAll('#tab-long tbody tr')].map(r => r.cells[{k}].textContent)")

    assert visit.ask("document.querySelectorAll('.sift').length") == 1
    assert column(0)[:2] == ["run 0", "run 1"]
    visit.page.click("#tab-long th:nth-child(2) button")
    assert list(dict.fromkeys(column(1))) == ["−0.5", "< 0.001", "+12.1", "3.1\u00a0k", "12,288", "1.25\u00a0M", "–"]
    assert visit.page.get_attribute("#tab-long th:nth-child(2)", "aria-sort") == "ascending"
    visit.page.click("#tab-long th:nth-child(2) button")
    assert list(dict.fromkeys(column(1))) == ["1.25\u00a0M", "12,288", "3.1\u00a0k", "+12.1", "< 0.001", "−0.5", "–"]
    visit.page.click("#tab-long th:nth-child(1) button")
    assert column(0)[:4] == ["run 0", "run 1", "run 2", "run 3"]
    visit.page.fill(".sift input", "run 3 –")
    assert column(0) == ["run 3", "run 10", "run 17", "run 24", "run 31"] or set(column(1)) == {"–"}
    assert "of 35 rows" in visit.page.inner_text(".sift output")
    visit.page.fill(".sift input", "")
    assert len(column(0)) == 35
    visit.ask("document.querySelector('#tab-long').closest('.scroll').scrollTop = 300")
    top = "document.querySelector('#tab-long th').getBoundingClientRect().top - document.querySelector('#tab-long').closest('.scroll').getBoundingClientRect().top"
    assert abs(visit.ask(top)) < 3
    assert visit.faults() == []
    assert visit.ask("typeof vegaEmbed") == "undefined"  # nothing to draw, nothing carried along
    visit.context.close()


def test_the_data_of_a_figure_are_sorted_by_number(desk: Visit):
    desk.page.click("#fig-loss details.data summary")
    desk.page.wait_for_selector("#fig-loss details.data .sift")
    names = desk.ask("[...document.querySelectorAll('#fig-loss details.data th')].map(t => t.textContent)")
    k = names.index("tokens")
    desk.page.click(f"#fig-loss details.data th:nth-child({k + 1}) button")
    desk.page.click(f"#fig-loss details.data th:nth-child({k + 1}) button")
    shown = desk.ask(
        f"[...document.querySelectorAll('#fig-loss details.data tbody tr')].map(r => Number(r.cells[{k}].textContent))"
    )
    assert shown == sorted(shown, reverse=True)
    with desk.page.expect_download() as waiting:
        desk.page.click("#fig-loss .save summary")
        desk.page.click("#fig-loss [data-save=csv]")
    rows = list(csv.DictReader(Path(waiting.value.path()).read_text().splitlines()))
    assert max(float(r["tokens"]) for r in rows) == shown[0]


def test_a_word_is_explained_where_it_stands(desk: Visit):
    desk.ask("document.querySelector('#claims a.gloss').focus()")
    said = desk.page.inner_text("#tip")
    assert ": " in said
    assert desk.ask("document.getElementById('tip').checkVisibility()")
    desk.page.keyboard.press("Escape")
    assert not desk.ask("document.getElementById('tip').checkVisibility()")
    lost = desk.ask(
        "[...document.querySelectorAll('a.gloss')].filter(a => !document.getElementById(a.hash.slice(1))).length"
    )
    assert lost == 0


def test_every_figure_has_an_alternative(desk: Visit):
    mute = desk.ask(
        "[...document.querySelectorAll('figure .chart svg.marks, figure canvas')].filter(e => !e.closest('[aria-label]') && !e.getAttribute('aria-label'))"
        ".map(e => e.closest('figure').id)"
    )
    assert mute == []
    assert len(desk.ask("document.querySelector('svg.scheme').getAttribute('aria-label')")) > 60


def test_no_cell_is_clipped_at_any_width(desk: Visit):
    for width in (360, 700, 2000, 1300):
        desk.page.set_viewport_size({"width": width, "height": 900})
        desk.page.wait_for_timeout(300)
        cut = desk.ask(
            "[...document.querySelectorAll('td, th, dt, dd, .badge, h1, h2, h3')].filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1 "
            "&& getComputedStyle(e).display !== 'inline').map(e => e.textContent.slice(0, 40))"
        )
        assert (width, cut) == (width, [])
        for _ in range(60):  # charts follow the window in their own time
            if desk.ask("document.documentElement.scrollWidth <= innerWidth"):
                break
            desk.page.wait_for_timeout(500)
        assert desk.ask("document.documentElement.scrollWidth <= innerWidth")


def test_paper_cuts_nothing(desk: Visit):
    """Drawn on a wide screen, laid out on A4: no chart, table or line of code is wider than the paper, none that may not break is
    higher than a page. The last test: it leaves the page as paper."""
    desk.page.emulate_media(media="print")
    desk.page.set_viewport_size({"width": A4, "height": 1000})
    desk.page.wait_for_timeout(300)
    wide = desk.ask(
        f"[...document.querySelectorAll('.chart svg, canvas, table, pre, p, svg.scheme')].filter(e => e.checkVisibility() && e.getBoundingClientRect().right > {A4 + 1})"
        ".map(e => (e.id || e.closest('[id]').id) + ' ' + e.tagName + ' ' + Math.round(e.getBoundingClientRect().right))"
    )
    assert wide == []
    high = desk.ask(
        "[...document.querySelectorAll('main *')].filter(e => e.checkVisibility() && getComputedStyle(e).breakInside === 'avoid' && "
        "e.getBoundingClientRect().height > 1008).map(e => e.tagName + ' ' + (e.id || e.closest('[id]').id))"
    )
    assert high == []
