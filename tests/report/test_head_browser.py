"""Head pages as a reader uses them: click, keyboard, address, Back, light and dark, on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_causes import SLOPE
from synthetic_study import HEADS, LAYERS, NULL_95, write_study
from test_report_browser import CHROMIUM, Visit, browser  # noqa: F401 the fixture

from nca_interp.report.build import build_report
from nca_interp.report.charts.numbers import fixed
from nca_interp.report.tables import Exhibit, Tables

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: apt-get install chromium")
MINUS = "−"


@pytest.fixture(scope="module")
def tables(study: Path) -> Tables:
    return Tables(study)


@pytest.fixture(scope="module")
def desk(browser: Any, report: Path) -> Iterator[Visit]:  # noqa: F811
    visit = Visit(browser, report).wait()
    yield visit
    visit.context.close()


@pytest.fixture(autouse=True)
def closed(desk: Visit) -> Iterator[None]:
    yield
    desk.ask("location.hash = '#heads'")
    desk.page.wait_for_selector("#head-page", state="hidden")


def _opened(visit: Visit, run: str, layer: int, head: int) -> None:
    visit.page.wait_for_selector(f"#head-page[open][data-shown^='{run}/{layer}.{head}/']")
    assert visit.page.inner_text("#head-page-title") == f"Layer {layer} head {head}"
    assert visit.ask("location.hash") == f"#head/{run}/{layer}.{head}"


def _scores(visit: Visit) -> dict[str, list[str]]:
    lines = visit.ask(
        "[...document.querySelectorAll('#head-page .scores tbody tr')].map(r => [...r.children].map(c => c.textContent))"
    )
    return {line[0]: line[1:] for line in lines}


def _number(text: str) -> float:
    return float(text.replace(MINUS, "-"))


def _shows_scores(visit: Visit, tables: Tables, run: str, layer: int, head: int) -> None:
    rows = tables.final_scores[tables.final_scores.run == run]
    own = rows[(rows.layer == layer) & (rows["head"] == head)].set_index("probe")
    found = _scores(visit)
    assert set(found) == set(own.index)
    for probe, (score, chance, null, hit, rank) in found.items():
        assert _number(score) == pytest.approx(own.value[probe], abs=6e-5)
        assert _number(chance) == pytest.approx(own.chance[probe], abs=6e-5)
        if probe == "induction":
            assert _number(null) == NULL_95
            assert hit == ("yes" if own.hit[probe] else "no")
        else:
            assert (null, hit) == ("–", "–")
        assert rank == f"{1 + (rows[rows.probe == probe].value > own.value[probe]).sum()} of {LAYERS * HEADS}"


def _click_cell(visit: Visit, regime: str, seed: int, layer: int, head: int) -> None:
    cell = visit.page.locator("#fig-heads .cell", has_text=re.compile(f"^{regime}, seed {seed}")).locator(
        ".mark-rect path"
    )
    cell.nth(layer * HEADS + head).click(force=True)  # the number written on it lies above


def test_a_cell_of_a_head_map_opens_that_head_and_back_closes_it(desk: Visit, tables: Tables):
    _click_cell(desk, "nca", 1, 2, 1)
    _opened(desk, "pt.nca.web.s1", 2, 1)
    _shows_scores(desk, tables, "pt.nca.web.s1", 2, 1)
    assert "seed 1" in desk.page.inner_text("#head-page .whose")
    assert desk.page.is_visible("#head-page .unseen")  # patterns are of seed 0
    desk.page.go_back()
    desk.page.wait_for_selector("#head-page", state="hidden")
    desk.page.go_forward()
    _opened(desk, "pt.nca.web.s1", 2, 1)
    desk.page.go_back()
    assert desk.errors == []


def test_domain_choice_decides_whose_head_is_opened(desk: Visit, tables: Tables):
    desk.page.select_option("#fig-heads select[data-choice=domain]", "code")
    desk.page.wait_for_timeout(400)
    _click_cell(desk, "scratch", 0, 3, 2)
    _opened(desk, "pt.scratch.code.s0", 3, 2)
    _shows_scores(desk, tables, "pt.scratch.code.s0", 3, 2)
    desk.page.keyboard.press("Escape")
    desk.page.wait_for_selector("#head-page", state="hidden")
    desk.page.select_option("#fig-heads select[data-choice=domain]", "web")
    desk.page.wait_for_timeout(400)


def test_the_keyboard_walks_a_map_and_opens_a_head(desk: Visit, tables: Tables):
    chart = desk.page.locator("#fig-heads .cell", has_text=re.compile("^nca, seed 0")).locator(".chart")
    assert "Arrow keys" in (chart.get_attribute("aria-label") or "")
    chart.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowRight"):
        desk.page.keyboard.press(key)  # the first enters at 0.0
    value = tables.final_scores.query(
        "run == 'pt.nca.web.s0' and probe == 'induction' and layer == 1 and head == 2"
    ).value.iloc[0]
    said = desk.page.inner_text("#fig-heads .said")
    assert said.startswith("nca, seed 0, layer 1 head 2: induction ")
    assert float(said.split("induction ")[1].split(",")[0]) == pytest.approx(value, abs=6e-5)
    desk.page.keyboard.press("Enter")
    _opened(desk, "pt.nca.web.s0", 1, 2)
    desk.page.click("#head-page .after")
    _opened(desk, "pt.nca.web.s0", 1, 3)
    desk.page.click("#head-page .after")
    _opened(desk, "pt.nca.web.s0", 2, 0)
    desk.page.go_back()  # steps inside the page are one entry of the history
    desk.page.wait_for_selector("#head-page", state="hidden")


def _canvas_matches(visit: Visit, pattern: np.ndarray, q: int, k: int, word: str) -> None:
    canvas = visit.page.locator("#head-page canvas.map")
    canvas.scroll_into_view_if_needed()
    box, size = canvas.bounding_box(), len(pattern)
    assert box
    canvas.hover(position={"x": (k + 0.5) / size * box["width"], "y": (q + 0.5) / size * box["height"]})
    said = visit.page.inner_text("#head-page .reading")
    assert word in said
    assert float(said.rsplit(" ", 1)[1]) == pytest.approx(pattern[q, k], abs=0.005)


def _exhibit(tables: Tables, run: str) -> Exhibit:
    return next(e for e in tables.exhibits if e.entry["run"] == run)


def test_thumbnail_opens_the_planted_pattern_of_both_stages(desk: Visit, tables: Tables):
    desk.page.click("#fig-thumbnails button[aria-label='layer 2 head 1: open its page']")
    _opened(desk, "pt.nca.web.s0", 2, 1)
    after, before = _exhibit(tables, "pt.nca.web.s0"), _exhibit(tables, "ppt.nca.s0")
    assert after.patterns[2, 1][70, 53] > 0.2  # planted: 17 back
    _canvas_matches(desk, after.patterns[2, 1], 70, 53, "query 70")
    desk.page.select_option("#head-page select.shown", index=1)
    desk.page.wait_for_timeout(300)
    assert before.patterns[2, 1][70, 62] > 0.2  # planted: 8 back
    _canvas_matches(desk, before.patterns[2, 1], 70, 62, "key 62")
    desk.page.select_option("#head-page select.place", "0.3")
    _opened(desk, "pt.nca.web.s0", 0, 3)
    assert desk.page.is_visible("#head-page .pooled")
    _canvas_matches(desk, before.thumbnails[0, 3], 20, 20, "query 60 to 62 → key 60 to 62: up to")


def test_thumbnails_are_painted_and_reached_by_keys(desk: Visit, tables: Tables):
    buttons = desk.page.locator("#fig-thumbnails .thumbs button")
    assert buttons.count() == LAYERS * HEADS
    assert (
        desk.ask(
            "[...document.querySelectorAll('#fig-thumbnails .thumbs button')].filter(b => b.tabIndex === 0).length"
        )
        == 1
    )
    pixels = desk.ask(
        "[...document.querySelector('[data-place=\"2.1\"] canvas').getContext('2d').getImageData(0, 0, 32, 32).data].filter((_, i) => i % 4 < 2)"
    )
    shade = np.array(pixels, float).reshape(32, 32, 2).sum(2)
    levels = np.rint(255 * np.sqrt(_exhibit(tables, "pt.nca.web.s0").thumbnails[2, 1].astype(float)))
    below = np.tril_indices(32)
    order = np.argsort(levels[below], kind="stable")
    assert (np.diff(shade[below][order]) <= 1e-9).all()  # in light mode more attention is darker, never lighter
    assert (shade[np.triu_indices(32, 1)] == 0).all()
    buttons.first.focus()
    desk.page.keyboard.press("ArrowRight")
    desk.page.keyboard.press("ArrowDown")
    desk.page.keyboard.press("Enter")
    _opened(desk, "pt.nca.web.s0", 1, 1)
    desk.page.click("#head-page .close")
    desk.page.wait_for_selector("#head-page", state="hidden")
    assert desk.ask("document.activeElement.getAttribute('aria-label')") == "layer 1 head 1: open its page"


def test_history_is_drawn_through_both_stages(desk: Visit):
    desk.ask("location.hash = '#head/pt.nca.web.s0/2.1'")
    _opened(desk, "pt.nca.web.s0", 2, 1)
    trace = desk.page.locator("#head-page .trace svg")
    assert trace.locator(".mark-line path").count() >= 2
    assert "embedding swap" in (trace.text_content() or "")
    assert f"95th percentile {NULL_95}" in (trace.text_content() or "")
    line = "#head-page .trace .mark-line path >> nth=-1"
    drawn = desk.page.get_attribute(line, "d")
    desk.page.select_option("#head-page select.probe", "entropy")
    desk.page.wait_for_selector("#head-page[data-shown$='/entropy']")
    assert desk.page.get_attribute(line, "d") != drawn
    assert "share of maximum" in desk.page.inner_text("#head-page .unit")
    desk.page.select_option("#head-page select.probe", "induction")


def test_ablation_effects_are_those_of_the_table(desk: Visit, tables: Tables):
    desk.ask("location.hash = '#head/pt.nca.web.s0/2.1'")
    _opened(desk, "pt.nca.web.s0", 2, 1)
    score = tables.final_scores.query(
        "run == 'pt.nca.web.s0' and probe == 'induction' and layer == 2 and head == 1"
    ).value.iloc[0]
    rank = tables.causes.query(
        "run == 'pt.nca.web.s0' and probe == 'ablation' and metric == 'repeated_token_loss' and layer == 2 and head == 1"
    )["rank"].iloc[0]
    text = desk.page.inner_text("#head-page .effects")
    assert f"repeated_token_loss\t+{fixed(SLOPE * score, 4)}\t0.02\t16\t3.5\t{int(rank)} of 16\tnats per token" in text
    assert f"nca_patch_accuracy\t{MINUS}{fixed(SLOPE * score / 10, 4)}" in text
    assert "direct path from layer 1 head 0\t+0.3000" in text
    assert "OV copying" in text


def test_a_mark_of_the_scatter_opens_its_head(desk: Visit):
    desk.page.locator("#fig-load .cell >> nth=0").locator(".mark-symbol path").first.dispatch_event("click")
    desk.page.wait_for_selector("#head-page[open]")
    assert desk.ask("location.hash").startswith("#head/pt.")


def test_an_address_opens_its_head_and_a_wrong_one_opens_nothing(browser: Any, report: Path):  # noqa: F811
    visit = Visit(browser, report, anchor="#head/pt.dyck.code.s2/3.0").wait()
    _opened(visit, "pt.dyck.code.s2", 3, 0)
    visit.page.click("#head-page .close")
    visit.page.wait_for_selector("#head-page", state="hidden")
    assert visit.ask("location.hash") == "#fig-heads"
    for wrong in ("pt.dyck.code.s2/9.0", "pt.none/0.0", "%E0%A4%A/0.0", "constructor/0.0"):
        visit.ask(f"location.hash = '#head/{wrong}'")
        visit.page.wait_for_timeout(100)
        assert not visit.page.is_visible("#head-page")
    assert visit.errors == []
    visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_head_page_fits_a_phone_in_both_themes(browser: Any, report: Path, scheme: str):  # noqa: F811
    visit = Visit(browser, report, 400, scheme, anchor="#head/pt.nca.web.s0/2.1").wait()
    _opened(visit, "pt.nca.web.s0", 2, 1)
    assert visit.ask("document.getElementById('head-page').scrollWidth <= innerWidth")
    assert visit.ask(
        "getComputedStyle(document.getElementById('head-page')).backgroundColor === getComputedStyle(document.body).backgroundColor"
    )
    assert visit.errors == []
    visit.context.close()


def test_without_causes_the_page_of_a_head_says_what_to_run(browser: Any, tmp_path: Path):  # noqa: F811
    path = build_report(write_study(tmp_path / "s", seeds=1, drop=("causes", "patterns")))
    visit = Visit(browser, path, anchor="#head/pt.nca.web.s0/2.1").wait()
    _opened(visit, "pt.nca.web.s0", 2, 1)
    assert visit.page.inner_text("#head-page .absent").endswith(f"Run: nca-interp analyze {tmp_path / 's'} --causes")
    assert visit.page.is_visible("#head-page .unseen")
    assert visit.errors == []
    visit.context.close()


def test_the_planted_correlation_is_read_in_the_page(desk: Visit):
    assert "nca +1.00 [+1.00, +1.00], p < 0.001 (3 seeds of 16 heads): rises with harm" in desk.page.inner_text(
        "#fig-load .finding"
    )
    desk.page.click("#fig-load details.data summary")
    first = pd.DataFrame(
        desk.ask(
            "[...document.querySelectorAll('#fig-load details.data tbody tr')].map(r => [...r.children].map(c => c.textContent))"
        )
    )
    assert set(first[2]) == {"induction"}  # the data follow the selectors
    assert set(first[3]) == {"repeated_token_loss"}
