"""`nca-interp data inspect` as a user meets it: the command, the folder it writes, and the page in Chromium."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_report_browser import CHROMIUM, Visit, browser  # noqa: F401 the fixture

from nca_interp.base import UserError
from nca_interp.report import render
from nca_interp.report.build import build_report
from nca_interp.report.charts.raster import state_colors
from nca_interp.report.charts.theme import THEMES
from nca_interp.report.pages.inspection import Inspection

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} \u2028 naïve 日本"
ARGUMENTS = {
    "nca": ["nca:grid=6,n_states=4", "--set", "band=[0.3,0.9]", "--n", "40", "--length", "320"],
    "dyck": ["dyck:k=3", "--n", "20", "--length", "200"],
    "control": ["repeat:n_symbols=16,period=[4,20]", "--n", "20", "--length", "200"],
    "text": ["hostile <b>.txt", "--n", "12", "--length", "300", "--set", "tokenizer.vocab_size=400"],
    "site": ["smoke.web", "--n", "20", "--length", "256"],
}
needs_browser = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: apt-get install chromium")


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "120"}
    command = [sys.executable, "-m", "nca_interp", "data", "inspect", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect")
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    drawn = np.random.default_rng(0).choice(words, (700, 12))
    (path / "hostile <b>.txt").write_text("\n\n".join(f"{HOSTILE} {' '.join(line)}" for line in drawn))
    return path


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, Path]:
    """The page of each source, made by the command line."""
    found = {}
    for name, arguments in ARGUMENTS.items():
        done = call(folder, *arguments)
        assert done.returncode == 0, done.stderr
        page, tables = done.stdout.splitlines()
        found[name] = Path(page.removeprefix("page: "))
        assert found[name].is_file()
        assert (folder / tables.removeprefix("tables: ") / "summary.csv").is_file()
    return found


def text_of(page: Path) -> str:
    return page.read_text().replace(render.bundle(), "")


def test_default_folder_is_named_by_source_and_settings(folder: Path, pages: dict[str, Path]):
    assert re.fullmatch(r"nca-grid-6-n-states-4-[0-9a-f]{8}", pages["nca"].parent.name)
    assert pages["nca"].parent.parent == folder / "runs/out/inspect"
    assert {p.name for p in pages["nca"].parent.iterdir()} == {"report.html", "inspect.json", "tables"}


def test_tables_stand_beside_the_page_and_are_named_in_it(pages: dict[str, Path]):
    expected = {"measures", "summary", "information", "ranks"}
    own = {"nca": {"bands", "candidates", "predictors"}, "dyck": {"depth", "distance", "ideals"}, "control": {"ideals"}}
    for name, page in pages.items():
        tables = {p.stem: p for p in (page.parent / "tables").glob("*.csv")}
        assert set(tables) == expected | own.get(name, set())
        html = text_of(page)
        for digest in Inspection(page.parent).hashes().values():
            assert digest in html
        assert page.stat().st_size < 3_000_000


def test_numbers_and_sentences_are_those_of_the_tables(pages: dict[str, Path]):
    html, tables = text_of(pages["nca"]), pages["nca"].parent / "tables"
    bands = pd.read_csv(tables / "bands.csv")
    for row in bands.itertuples():
        assert f">{100 * row.share:.1f} %<" in html
        assert f">{100 * row.low:.1f} to {100 * row.high:.1f} %<" in html
    assert f"The filter accepts {100 * bands[bands.asked].share.item():.1f} %." in html
    assert "asked for: [0.3, 0.9)" in html
    rows = pd.read_csv(tables / "predictors.csv")
    last = rows[(rows.frame == rows.frame.max()) & (rows.quantity == "cell_accuracy")]
    for row in last.itertuples():
        assert f"{row.predictor} {row.value:.2f}" in html
    summary = pd.read_csv(tables / "summary.csv").set_index("measure")
    if abs(summary.value["gzip_ratio_shuffled"] / summary.value["gzip_ratio"] - 1) < 0.1:
        assert f"the mean ratio is {summary.value['gzip_ratio']:.3f}" in html


def test_provenance_is_whole(pages: dict[str, Path]):
    record = json.loads((pages["nca"].parent / "inspect.json").read_text())
    assert record["spec"]["band"] == [0.3, 0.9]
    assert record["provenance"]["command"].startswith("nca-interp data inspect nca:grid=6,n_states=4 --set")
    assert record["provenance"]["seconds"] > 0
    assert record["seed"] == 0
    html = text_of(pages["nca"])
    for value in (record["provenance"]["version"], record["provenance"]["cpu"], "n_states"):
        assert value in html
    assert "stand-in for web text" in text_of(pages["site"])


def test_a_corpus_with_markup_is_text(pages: dict[str, Path]):
    html = text_of(pages["text"])
    assert "<script>alert" not in html
    assert "<img" not in html
    assert html.count("<script>") == 2
    assert "{{ 7*7 }}" in re.sub(r"<[^>]*>", "", html)  # not evaluated either
    assert "hostile &lt;b&gt;.txt" in html


def test_same_tables_give_the_same_page(pages: dict[str, Path]):
    before = pages["dyck"].read_bytes()
    assert Inspection(pages["dyck"].parent).build().read_bytes() == before


def test_an_inspection_is_no_study(pages: dict[str, Path], study: Path):
    from nca_interp import discover

    with pytest.raises(UserError, match="nca-interp data inspect SOURCE"):
        build_report(study, discover.find("reports", "inspect"))
    with pytest.raises(UserError, match="not a study"):
        build_report(pages["nca"].parent)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nac"], "did you mean 'nca'"),
        (["nca:grid=4,n_states=2,score_frames=2,burn_in=0", "--set", "band=[8,9]"], "out of reach"),
        (["nca", "--length", "40"], "--length: 40; legal: 76 or more (two frames of 38 tokens)"),
        (["short.txt"], "too short"),
        (["binary.txt"], "not UTF-8"),
        (["nca", "--out", "full"], "full: not empty and no inspection"),
    ],
)
def test_mistakes_get_one_message_and_exit_2(tmp_path: Path, arguments: list[str], message: str):
    (tmp_path / "short.txt").write_text("a few words")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years")
    result = call(tmp_path, *arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["binary.txt", "full", "short.txt"]


def test_help_names_every_option():
    result = call(Path.cwd(), "--help")
    assert result.returncode == 0
    for option in ("--set", "--n", "--length", "--seed", "--out", "--all", "--threads", "--no-open"):
        assert option in result.stdout


@needs_browser
@pytest.mark.parametrize("name", list(ARGUMENTS))
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_page_is_whole(browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str):  # noqa: F811
    visit = Visit(browser, pages[name], width, scheme).wait()
    assert visit.faults() == []
    assert width < 1200 or visit.clipped() == []
    title = "document.querySelector('#fig-information .role-axis-title text').getAttribute('fill')"
    assert visit.ask(title) == THEMES[scheme]["mut"]
    clipped = visit.ask(
        "[...document.querySelectorAll('.chart svg')].flatMap(s => { const a = s.getBoundingClientRect(); return [...s.querySelectorAll('text')]"
        ".filter(t => { const b = t.getBoundingClientRect(); return b.width && (b.right > a.right + 2 || b.left < a.left - 2); })"
        ".map(t => s.closest('figure').id + ': ' + t.textContent); })"
    )
    assert clipped == []
    visit.context.close()


@pytest.fixture(scope="module")
def desk(browser: Any, pages: dict[str, Path]) -> Iterator[Visit]:  # noqa: F811
    visit = Visit(browser, pages["nca"]).wait()
    yield visit
    visit.context.close()


@needs_browser
def test_each_example_plays_its_own_frames(desk: Visit, pages: dict[str, Path]):
    examples = json.loads((pages["nca"].parent / "inspect.json").read_text())["examples"]
    assert len(examples) == 3
    colors = np.array(state_colors(4))
    for example in examples:
        figure = f"#fig-example-{example['level']}"
        desk.page.click(f"{figure} .next")
        uri = desk.ask(f"document.querySelector('{figure} canvas.frame').toDataURL()")
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))
        step = image.shape[0] // 6
        assert (image[step // 2 :: step, step // 2 :: step] == colors[np.array(example["frames"][1])]).all()
        words = desk.ask(f"[...document.querySelectorAll('{figure} .tokens span')].map(s => s.textContent)")
        assert words == ["<grid>", *map(str, example["tokens"][1][1:-1]), "</grid>"]
        assert f"{example['measures']['gzip_ratio_normalised']:.2f}" in desk.page.inner_text(figure)


@needs_browser
def test_bars_hold_the_rules(desk: Visit, pages: dict[str, Path]):
    """Heights of the bars of the acceptance figure add up to all rules, the blue ones to those accepted."""
    candidates = pd.read_csv(pages["nca"].parent / "tables" / "candidates.csv")
    bars = desk.ask(
        "[...document.querySelectorAll('#fig-acceptance .mark-rect path')].map(p => [p.getAttribute('fill'), p.getBBox().height])"
    )
    blue = sum(h for fill, h in bars if fill == THEMES["light"]["pal"][1])
    assert blue / sum(h for _, h in bars) == pytest.approx(candidates.accepted.mean(), abs=0.01)


@needs_browser
def test_tokens_of_a_hostile_corpus_are_shown_as_they_are(browser: Any, pages: dict[str, Path]):  # noqa: F811
    visit = Visit(browser, pages["text"]).wait()
    example = json.loads((pages["text"].parent / "inspect.json").read_text())["examples"][0]
    shown = visit.ask("document.querySelector('#fig-example-low .shaded').textContent")
    assert shown == "".join(example["pieces"])
    assert "onerror=alert(2)" in shown
    assert visit.ask("document.querySelectorAll('main img, main script').length") == 0
    assert visit.errors == []
    visit.context.close()


@needs_browser
def test_brackets_are_drawn_at_their_depth(browser: Any, pages: dict[str, Path]):  # noqa: F811
    visit = Visit(browser, pages["dyck"]).wait()
    example = json.loads((pages["dyck"].parent / "inspect.json").read_text())["examples"][0]
    heights = np.array(
        visit.ask("[...document.querySelectorAll('#fig-example-low .mark-rect path')].map(p => p.getBBox().height)")
    )
    depth = np.array(example["depth"])
    assert len(heights) == len(depth) == 200
    assert heights / heights.max() == pytest.approx(depth / depth.max(), abs=0.01)
    k, stack = 3, []
    for token, d in zip(example["tokens"], depth, strict=True):  # against a stack
        if token < k:
            stack.append(token)
            assert d == len(stack)
        else:
            assert d == len(stack)
            assert stack.pop() == token - k
    visit.context.close()
