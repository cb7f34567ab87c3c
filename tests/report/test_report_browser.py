"""The report as a reader opens it: Chromium, from file://, light, dark, on a phone, without a network."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nca_interp.report import render
from nca_interp.report.charts.raster import state_colors
from nca_interp.report.charts.theme import THEMES
from nca_interp.report.tables import Tables

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: apt-get install chromium")
ARGUMENTS = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield running
        running.close()


PATIENCE = 240_000
"""Milliseconds that a page may take on a machine that others load, too."""


class Visit:
    """One page with all that it complained about and asked for."""

    def __init__(
        self, browser: Any, path: Path, width: int = 1200, scheme: str = "light", anchor: str = "#all"
    ) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("dialog", lambda d: self.errors.append(f"dialog {d.message}"))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.goto(path.as_uri() + anchor)

    def wait(self) -> Visit:
        self.page.wait_for_selector("html[data-ready='1']", state="attached")
        return self

    def ask(self, script: str) -> Any:
        return self.page.evaluate(script)

    def faults(self) -> list[str]:
        """Everything that a whole page must not show."""
        found = [f"console: {e}" for e in self.errors]
        found += [f"request: {u[:80]}" for u in self.requests if not u.startswith(("file:", "data:", "blob:"))]
        empty = self.ask(
            "[...document.querySelectorAll('.chart')].filter(c => c.checkVisibility() && ![...c.querySelectorAll('svg .mark-symbol path, svg .mark-rect path, "
            "svg .mark-line path')].length).map(c => c.closest('figure').id + '/' + c.dataset.index)"
        )
        found += [f"chart without marks: {name}" for name in empty]
        if self.ask("document.documentElement.scrollWidth > innerWidth"):
            found.append(f"page is {self.ask('document.documentElement.scrollWidth')} px wide")
        return found

    def clipped(self) -> list[str]:
        """Code and unfolded tables that are wider than their place."""
        found: list[str] = self.ask(
            "[...document.querySelectorAll('pre, section > .scroll')].filter(e => e.scrollWidth > e.clientWidth)"
            ".map(e => `${e.textContent.trim().slice(0, 40)}: ${e.scrollWidth} of ${e.clientWidth} px`)"
        )
        return found


@pytest.fixture(scope="module")
def desk(browser: Any, report: Path) -> Iterator[Visit]:
    visit = Visit(browser, report).wait()
    yield visit
    visit.context.close()


def _rgb(hexadecimal: str) -> str:
    return "rgb({}, {}, {})".format(*(int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5)))


def _looks(visit: Visit) -> tuple[str, str]:
    title = "document.querySelector('#fig-loss .role-axis-title text').getAttribute('fill')"
    return visit.ask("getComputedStyle(document.body).backgroundColor"), visit.ask(title)


def test_light_page_is_whole_and_the_toggle_turns_it_dark(desk: Visit):
    assert desk.faults() == []
    assert desk.ask("document.querySelectorAll('.chart').length") > 20
    assert _looks(desk) == (_rgb(THEMES["light"]["bg"]), THEMES["light"]["mut"])
    assert (
        desk.ask("document.querySelector('#fig-loss .mark-line path').getAttribute('stroke')") in THEMES["light"]["pal"]
    )
    desk.page.click("#theme")
    desk.page.wait_for_selector(f"#fig-loss .role-axis-title text[fill='{THEMES['dark']['mut']}']")
    assert _looks(desk)[0] == _rgb(THEMES["dark"]["bg"])
    assert (
        desk.ask("document.querySelector('#fig-loss .mark-line path').getAttribute('stroke')") in THEMES["dark"]["pal"]
    )
    desk.page.click("#theme")
    desk.page.wait_for_selector(f"#fig-loss .role-axis-title text[fill='{THEMES['light']['mut']}']")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (390, "light")])
def test_phone_has_no_overflow_and_follows_the_system_theme(browser: Any, report: Path, width: int, scheme: str):
    visit = Visit(browser, report, width, scheme).wait()
    assert visit.faults() == []
    assert _looks(visit) == (_rgb(THEMES[scheme]["bg"]), THEMES[scheme]["mut"])
    visit.context.close()


@pytest.mark.parametrize("width", [360, 800, 1300, 2000])
def test_no_word_is_broken_and_nothing_cut_at_any_width(browser: Any, report: Path, width: int):
    visit = Visit(browser, report, width, anchor="").wait()
    broken = visit.ask(BROKEN)
    assert broken == []
    assert visit.ask("document.documentElement.scrollWidth <= innerWidth")
    visit.context.close()


BROKEN = """(() => {
  const found = [], range = document.createRange();
  for (const cell of document.querySelectorAll("td:not(.long), th, dt, .badge, h2, h3, nav a")) {
    if (!cell.checkVisibility()) continue;
    const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) for (const part of walk.currentNode.data.matchAll(/[\\p{L}\\p{N}]+/gu)) {
      range.setStart(walk.currentNode, part.index); range.setEnd(walk.currentNode, part.index + part[0].length);
      const tops = new Set([...range.getClientRects()].map(r => Math.round(r.top)));
      if (tops.size > 1) found.push(part[0]);
    }
  }
  return found;
})()"""


def test_claims_come_first_and_the_page_is_short(browser: Any, report: Path):
    visit = Visit(browser, report, 1300, anchor="").wait()
    first = visit.ask("document.querySelector('main section').id")
    assert first == "claims"
    assert visit.ask("document.querySelector('.answers').getBoundingClientRect().top") < 400
    assert visit.ask("document.querySelector('.claim').getBoundingClientRect().top") < 1000
    assert visit.ask("document.querySelectorAll('.found .badge').length") >= 6
    assert visit.ask("document.querySelectorAll('nav .mark').length") >= 3
    assert visit.ask("document.querySelectorAll('details.part:not([open])').length") > 8
    targets = visit.ask(
        "[...document.querySelectorAll('.found a.to')].map(a => document.getElementById(a.hash.slice(1)) !== null)"
    )
    assert targets
    assert all(targets)
    visit.context.close()


def test_an_address_opens_what_is_folded(browser: Any, report: Path):
    visit = Visit(browser, report, anchor="#tab-config").wait()
    assert visit.ask("document.getElementById('tab-config').checkVisibility()")
    assert visit.ask("!document.querySelector('#reproduce > details').open")
    visit.ask("location.hash = '#speed'")
    visit.page.wait_for_selector("#fig-speedup .mark-symbol path")
    visit.context.close()


def test_what_is_folded_is_set_up_when_it_is_opened(browser: Any, report: Path):
    """A page that opens sorts no table that nobody sees, says when it is ready, and sets up what is opened."""
    visit = Visit(browser, report, anchor="").wait()
    assert visit.ask("performance.getEntriesByName('ready').length") == 1
    assert visit.ask("document.querySelectorAll('.sift').length") == 0
    assert visit.ask("document.querySelectorAll('.part:not([open]) .scroll.long table').length") > 0
    visit.ask("document.querySelector('.part:not([open]) .scroll.long table').closest('.part').open = true")
    visit.ask(
        "document.querySelector('.part[open] .scroll.long table').closest('details:not(.part)')?.setAttribute('open', '')"
    )
    visit.page.wait_for_selector(".sift input")
    assert visit.errors == []
    visit.context.close()


def test_player_shows_every_frame(desk: Visit, study: Path):
    stored = json.loads((study / "tables" / "trajectory.json").read_text())
    colors, grid = np.array(state_colors(stored["n_states"])), stored["grid"]
    desk.ask(
        "document.querySelector('.player input').value = 0, document.querySelector('.player input').dispatchEvent(new Event('input'))"
    )
    assert desk.ask("document.querySelector('.play').getAttribute('aria-pressed')") == "false"
    for t in (0, 1, 2):
        uri = desk.ask("document.querySelector('canvas.frame').toDataURL()")
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))
        step = image.shape[0] // grid
        shown = image[step // 2 :: step, step // 2 :: step]
        assert (shown == colors[np.array(stored["frames"][t])]).all()
        words = desk.ask("[...document.querySelectorAll('.tokens span')].map(s => s.textContent)")
        assert words == ["<grid>", *map(str, stored["tokens"][t][1:-1]), "</grid>"]
        assert desk.page.inner_text(".player .count") == f"frame {t + 1} of {len(stored['frames'])}"
        desk.page.click(".player .next")
    desk.page.click(".player .play")
    desk.page.wait_for_timeout(700)
    desk.page.click(".player .play")
    assert int(desk.ask("document.querySelector('.player input').value")) > 3


def test_pattern_reads_out_tokens_and_probability(desk: Visit, study: Path):
    exhibit = next(e for e in Tables(study).exhibits if e.entry["run"] == "pt.nca.web.s0")
    scores = pd.read_csv(study / "tables" / "probes.csv").query(
        "run == 'pt.nca.web.s0' and probe == 'induction' and step == 1024"
    )
    best = scores.loc[scores.value.idxmax()]
    pattern, tokens = exhibit.patterns[int(best.layer), int(best["head"])], exhibit.entry["tokens"]
    desk.page.select_option("#fig-pattern select.entry", "0")
    desk.page.wait_for_timeout(300)
    canvas = desk.page.locator("#fig-pattern canvas.map")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box
    query, key, size = 70, 41, len(tokens)
    canvas.hover(position={"x": (key + 0.5) / size * box["width"], "y": (query + 0.5) / size * box["height"]})
    said = desk.page.inner_text("#fig-pattern output")
    assert f"query {query}" in said
    assert f"key {key}" in said
    assert tokens[query].strip() in said
    assert abs(float(said.rsplit(" ", 1)[1]) - pattern[query, key]) < 0.005
    canvas.press("ArrowLeft")
    assert f"key {key - 1}" in desk.page.inner_text("#fig-pattern output")


def test_data_table_and_csv_hold_the_numbers_of_the_tables(desk: Visit, study: Path):
    desk.page.click("#fig-effects details.data summary")
    shown = desk.page.inner_text("#fig-effects details table")
    pairs = pd.read_csv(study / "tables" / "pairs.csv")
    for value in pairs[pairs.family == "regime"].difference:
        assert f"{float(f'{value:.6g}')}" in shown
    desk.page.click("#fig-effects .save summary")
    with desk.page.expect_download() as waiting:
        desk.page.click("#fig-effects .csv")
    rows = list(csv.DictReader(Path(waiting.value.path()).read_text().splitlines()))
    assert [float(r["difference"]) for r in rows] == pytest.approx(
        list(pairs[pairs.family == "regime"].difference), rel=1e-5
    )


def test_selector_and_legend_change_the_charts(desk: Visit):
    line = "#fig-probes .mark-line path >> nth=-1"
    before = desk.page.get_attribute(line, "d")
    desk.page.select_option("#fig-probes select", index=2)
    desk.page.wait_for_timeout(400)
    assert desk.page.get_attribute(line, "d") != before
    shades = "[...document.querySelectorAll('#fig-loss .mark-line path')].map(p => p.getAttribute('opacity'))"
    assert "0.03" not in desk.ask(shades)
    desk.page.uncheck("fieldset.legend input[value=nca]")
    desk.page.wait_for_timeout(400)
    assert "0.03" in desk.ask(shades)
    desk.page.check("fieldset.legend input[value=nca]")
    assert desk.errors == []


def test_labels_and_text_stay_inside(desk: Visit):
    clipped = desk.ask(
        "[...document.querySelectorAll('.chart svg')].flatMap(s => { const a = s.getBoundingClientRect(); return [...s.querySelectorAll('text')]"
        ".filter(t => { const b = t.getBoundingClientRect(); return b.width && (b.right > a.right + 2 || b.left < a.left - 2 || b.top < a.top - 2 || "
        "b.bottom > a.bottom + 2); }).map(t => s.closest('figure').id + ': ' + t.textContent); })"
    )
    assert clipped == []


def test_print_is_light_and_complete(browser: Any, report: Path):
    visit = Visit(browser, report, scheme="dark", anchor="").wait()
    pdf = visit.page.pdf(prefer_css_page_size=True)
    assert pdf[:5] == b"%PDF-"
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") + pdf.count(b"/Type/Page") >= 5
    assert visit.ask("[...document.querySelectorAll('.chart')].every(c => c.querySelector('svg'))")
    visit.context.close()


def test_all_is_drawn_without_scrolling(browser: Any, report: Path):
    visit = Visit(browser, report, anchor="").wait()
    visit.page.wait_for_selector("html[data-drawn='1']", state="attached")
    assert visit.ask("scrollY") == 0
    assert visit.faults() == []
    visit.context.close()


def test_one_seed_page_is_whole(browser: Any, one_seed: Path):
    visit = Visit(browser, one_seed).wait()
    assert visit.faults() == []
    visit.context.close()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ast: true", "ast: fals"),  # the script no longer has the hash that the policy allows
        ('"mark":{"type":"line"', '"mark":{"type":"lime"'),
        ("<main>", "<main><img src='https://example.org/x.png'>"),
        ("<main>", "<main><div style='width:3000px'>wide</div>"),
    ],
)
def test_canary_a_broken_page_is_caught(browser: Any, report: Path, tmp_path: Path, old: str, new: str):
    text = report.read_text()
    data = json.dumps(render.unpacked(text), separators=(",", ":"))
    assert old in text or old in data
    changed = str(render.packed(json.loads(data.replace(old, new))))
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace(old, new).replace(str(render.packed(json.loads(data))), changed))
    assert broken.read_text() != text
    visit = Visit(browser, broken)
    seen: list[str] = []
    for _ in range(20):
        visit.page.wait_for_timeout(1000)
        if seen := [f for f in visit.faults() if not f.startswith("chart without marks")]:
            break
    visit.context.close()
    assert seen
