"""The player as a reader uses it: planted patterns read back, keyboard, two models, hostile words, the budget."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_player import STEPS, WIDTH, causes, followers, text_sequence, write_player
from synthetic_study import write_study
from test_report_browser import CHROMIUM, Visit, browser  # noqa: F401 the fixture

from nca_interp.report.page import Page
from nca_interp.report.player_widget import BUDGET
from nca_interp.report.render import render, unpacked
from nca_interp.report.sections import player
from nca_interp.report.tables import Tables

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: apt-get install chromium")
HOSTILE = "</script><img src=x onerror=alert(1)>"
LEFT, RIGHT = "#fig-player .pane >> nth=0", "#fig-player .pane >> nth=1"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = write_study(tmp_path_factory.mktemp("player") / "study", seeds=1, label=HOSTILE)
    write_player(
        study / "tables",
        [
            ("ppt.nca.s0", "nca", "ppt", None), ("pt.nca.web.s0", "nca", "pt", "ppt.nca.s0"), ("pt.scratch.web.s0", "scratch", "pt", None),
            ("pt.c4.web.s0", "c4", "pt", None),
        ],
        left_out=("dyck", "<b>bold</b>"),
    )  # fmt: skip
    return _drawn(study)


def _drawn(study: Path) -> Path:
    """A page with the player alone."""
    tables, path = Tables(study), study / "page.html"
    legend = tuple((r, tables.label(r)) for r in tables.main)
    path.write_text(render(Page("The player", "", (), (), legend, player.sections(tables), {"study": "three"})))
    return path


@pytest.fixture(scope="module")
def desk(browser: Any, page: Path) -> Iterator[Visit]:  # noqa: F811
    visit = Visit(browser, page, anchor="#fig-player").wait()
    yield visit
    visit.context.close()


def _go(visit: Visit, time: int | None = None, token: int | None = None) -> None:
    for place, value in ((0, time), (1, token)):
        if value is not None:
            visit.ask(
                f"(() => {{ const s = document.querySelectorAll('.circuit input[type=range]')[{place}]; s.value = {value}; s.dispatchEvent(new Event('input')); }})()"
            )
            visit.page.wait_for_timeout(150)


def _shown(visit: Visit, side: int = 0) -> str:
    return str(visit.ask(f"document.querySelectorAll('.circuit .pane')[{side}].dataset.shown"))


def _facts(visit: Visit, side: int = 0) -> list[str]:
    found: list[str] = visit.ask(
        f"[...document.querySelectorAll('.circuit .pane')[{side}].querySelectorAll('.reading-list dd')].map(d => d.textContent)"
    )
    return found


def _percent(text: str) -> float:
    return 0.0 if text.startswith("under") else float(re.sub(r"[^\d]", "", text))


def _head(visit: Visit, side: int, head: str) -> None:
    visit.page.locator(".circuit .pane").nth(side).locator("select").nth(1).select_option(head)
    visit.page.wait_for_timeout(150)


@pytest.mark.parametrize(("time", "step", "share"), [(0, 0, 0.1), (1, 256, 0.5), (2, 512, 0.95)])
def test_attention_on_what_the_rule_reads_is_what_was_planted(desk: Visit, time: int, step: int, share: float):
    _go(desk, time=time)
    _head(desk, 0, "1.2")
    for query in (WIDTH + 3, 2 * WIDTH, 2 * WIDTH + 11):
        _go(desk, token=query)
        assert _shown(desk) == f"nca/ppt/{step}/1.2/{query}"
        on, chance = map(_percent, _facts(desk)[:2])
        assert on == pytest.approx(100 * share, abs=1.7)
        assert chance == pytest.approx(100 * len(causes(query)) / (query + 1), abs=0.51)
        assert (
            f"row {(query % WIDTH) // 4 + 1}, column {(query % WIDTH) % 4 + 1} of frame {query // WIDTH}"
            in desk.page.inner_text(LEFT)
        )
    _head(desk, 0, "0.0")
    assert _percent(_facts(desk)[0]) == pytest.approx(_percent(_facts(desk)[1]), abs=4)


def test_in_a_text_what_followed_is_outlined_and_weighed(desk: Visit):
    _go(desk, time=4)
    _head(desk, 0, "2.1")
    sequence = text_sequence()
    ids = sequence["tokens"]
    query = next(q for q in range(30, 38) if 0 < len(followers(ids, q)) < 6)
    _go(desk, token=query)
    assert _shown(desk) == f"nca/pt/1024/2.1/{query}"
    outlined = desk.ask(
        "[...document.querySelector('.circuit .pane .strip').children].map((s, k) => s.classList.contains('followed') ? k : -1).filter(k => k >= 0)"
    )
    assert set(outlined) == followers(ids, query)
    assert _percent(_facts(desk)[0]) == pytest.approx(90, abs=1.7)
    assert _facts(desk)[2] == str(len(followers(ids, query)))
    assert _facts(desk)[3] == "0.25"
    said = desk.ask("[...document.querySelectorAll('.circuit .pane')][0].querySelector('.next').textContent")
    assert "0.50" in said
    assert "0.25" in said


def test_a_model_that_has_no_such_stage_says_so(desk: Visit):
    desk.page.locator(".circuit .pane").nth(1).locator("select").first.select_option("1")
    _go(desk, time=0)
    assert "scratch is not pre-pre-trained" in desk.page.inner_text(RIGHT)
    _go(desk, time=4)
    assert _shown(desk, 1).startswith("scratch/pt/1024/")


def test_the_keyboard_reaches_everything(desk: Visit):
    _go(desk, time=2)
    _go(desk, token=20)
    scene = desk.page.locator(".circuit .pane canvas").first
    for key, wanted in (
        ("ArrowRight", 21),
        ("ArrowLeft", 20),
        ("ArrowDown", 20 + WIDTH),
        ("ArrowUp", 20),
        ("Home", 0),
        ("End", 52),
    ):
        scene.press(key)
        desk.page.wait_for_timeout(150)
        assert _shown(desk).endswith(f"/{wanted}"), key
    scene.press("PageUp")
    desk.page.wait_for_timeout(150)
    assert "/256/" in _shown(desk)
    scene.press("PageDown")
    clock = desk.page.locator(".circuit input[type=range]").first
    clock.press("Home")
    desk.page.wait_for_timeout(150)
    assert "/ppt/0/" in _shown(desk)
    clock.press("ArrowRight")
    desk.page.wait_for_timeout(150)
    assert "/ppt/256/" in _shown(desk)
    pressed = "document.querySelectorAll('.circuit .play')[{}].getAttribute('aria-pressed')"
    clock.press(" ")
    assert desk.ask(pressed.format(0)) == "true"
    desk.page.wait_for_timeout(700)
    clock.press(" ")
    assert desk.ask(pressed.format(0)) == "false"
    scene.press(" ")
    assert desk.ask(pressed.format(1)) == "true"
    scene.press(" ")
    assert desk.ask(pressed.format(1)) == "false"
    map_ = desk.page.locator(".circuit .pane [role=application]").first
    map_.press("ArrowDown")
    desk.page.wait_for_timeout(150)
    assert re.search(r"/\d\.\d/", _shown(desk))


def test_the_sentence_is_read_out_once_it_rests(desk: Visit):
    _go(desk, time=2)
    _head(desk, 0, "1.2")
    _go(desk, token=2 * WIDTH + 5)
    live = desk.ask("document.querySelector('.circuit .live').textContent")
    assert "layer 1 head 2 puts" in live
    assert desk.ask("document.querySelector('.circuit .live').getAttribute('aria-live')") == "polite"
    values = desk.ask(
        "[...document.querySelectorAll('.circuit input[type=range]')].map(s => s.getAttribute('aria-valuetext'))"
    )
    assert values == ["pre-pre-training, step 512", f"frame 2, token {2 * WIDTH + 5}"]


def test_hostile_words_are_words_and_the_budget_holds(desk: Visit, page: Path):
    assert desk.faults() == []
    _go(desk, time=4)
    assert "<img src=x onerror=alert(1)>" in desk.page.inner_text(LEFT)
    assert desk.ask("document.querySelectorAll('#fig-player img').length") == 0
    options = desk.ask("[...document.querySelectorAll('.circuit .pane select')[0].options].map(o => o.textContent)")
    assert f"c4: {HOSTILE}" in options
    assert "dyck, <b>bold</b>" in desk.ask("document.querySelector('#fig-player .notes').textContent")
    widget = unpacked(page.read_text())["figures"]["fig-player"]["widget"]
    assert len(json.dumps(widget, separators=(",", ":"))) <= BUDGET
    assert [s["steps"] for s in widget["models"][0]["stages"]] == [list(STEPS["ppt"]), list(STEPS["pt"])]


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1900, "light")])
def test_every_width_and_theme_is_whole(browser: Any, page: Path, width: int, scheme: str):  # noqa: F811
    visit = Visit(browser, page, width, scheme, anchor="#fig-player").wait()
    assert [f for f in visit.faults() if "chart without" not in f] == []
    drawn = "[...document.querySelectorAll('.circuit canvas')].filter(c => c.checkVisibility()).every(c => c.width > 8 && c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0))"
    assert visit.ask(drawn)
    visit.context.close()


def test_one_checkpoint_of_one_model_has_no_scrubber(browser: Any, page: Path, tmp_path: Path):  # noqa: F811
    study = tmp_path / "study"
    shutil.copytree(page.parent, study)
    write_player(study / "tables", [("pt.alone.web.s0", "alone", "pt", None)], steps=1)
    visit = Visit(browser, _drawn(study), anchor="#fig-player").wait()
    assert visit.ask("[...document.querySelectorAll('.circuit > .controls')].map(c => c.checkVisibility())") == [
        False,
        True,
    ]
    assert visit.ask("document.querySelectorAll('.circuit .pane').length") == 1
    assert "/2.1/" in _shown(visit), "no probe was measured of it: the head that looks most at what followed earlier"
    assert visit.faults() == []
    visit.context.close()
