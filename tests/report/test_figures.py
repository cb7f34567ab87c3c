"""Figures as files: every figure is there, SVG and PNG are pictures, the CSV holds all digits."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import altair as alt
import pandas as pd
import pytest
from PIL import Image
from synthetic_study import write_study

from nca_interp import discover
from nca_interp.base import UserError
from nca_interp.report import figures
from nca_interp.report.build import page_of
from nca_interp.report.figures import export_figures
from nca_interp.report.page import Chart, Choice, Figure


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> discover.Definition:
    """A report of three figures: one chart a domain, a player, patterns."""
    file = tmp_path_factory.mktemp("own") / "short.py"
    file.write_text(
        "from nca_interp import report\nfrom nca_interp.report.page import Section\nfrom nca_interp.report.sections import circuit, heads, method, outcome\n\n\n"
        '@report\ndef short(tables):\n    """Few figures."""\n'
        "    from nca_interp.discover import find\n    whole = find('reports', 'study').value(tables)\n"
        "    wanted = {'fig-effects', 'fig-pattern', 'fig-probes', 'fig-thumbnails'}\n"
        "    items = tuple(i for s in whole.sections for i in s.items if getattr(i, 'id', '') in wanted)\n"
        "    return method.study_page(tables, (Section('a', 'A', items),))\n"
    )
    return discover.find("reports", "short", file.parent)


def test_every_figure_becomes_files(tmp_path: Path, short: discover.Definition):
    study = write_study(tmp_path / "s", seeds=2)
    folder = tmp_path / "figures"
    done = export_figures(study, folder, short)
    names = {path.name for path in folder.iterdir()}
    assert done.figures == 4
    assert done.bare == []
    assert {"legend.svg", "legend.png"} <= names
    names -= {"legend.svg", "legend.png"}
    assert (
        done.pictures == len([n for n in names if n.endswith(".svg")]) == len([n for n in names if n.endswith(".png")])
    )
    assert {
        "fig-effects-1.svg",
        "fig-effects-2.png",
        "fig-effects.csv",
        "fig-pattern-1.png",
        "fig-thumbnails-1.svg",
    } <= names
    for path in folder.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    picture = Image.open(folder / "fig-effects-1.png").convert("RGB")
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert len(picture.getcolors(1_000_000) or []) > 20
    pairs = pd.read_csv(study / "tables" / "pairs.csv")
    written = pd.read_csv(folder / "fig-effects.csv")
    assert written.difference.tolist() == pairs[pairs.family == "regime"].difference.tolist()
    assert "against scratch" in (folder / "fig-effects-1.svg").read_text()
    before = (folder / "fig-effects-1.svg").read_bytes()
    export_figures(study, folder, short)
    assert (folder / "fig-effects-1.svg").read_bytes() == before
    assert not (study / "report.html").exists()


def test_every_option_of_a_selector_becomes_a_picture(
    tmp_path: Path, short: discover.Definition, monkeypatch: pytest.MonkeyPatch
):
    """One file each, named by the option, each a drawing of its own; with a bound, the first options, and it is said."""
    study = write_study(tmp_path / "s", seeds=1)
    (figure,) = (
        i for s in page_of(study, short).sections for i in s.items if isinstance(i, Figure) and i.id == "fig-probes"
    )
    (choice,) = figure.choices
    assert len(choice.options) > 2
    done = export_figures(study, tmp_path / "all", short)
    assert done.cut == {}
    ends = figures._distinct([value for value, _ in choice.options])
    names = [f"fig-probes-{view}{end}.svg" for end in ends for view in range(1, 1 + len(figure.charts))]
    assert {path.name for path in (tmp_path / "all").glob("fig-probes*.svg")} == set(names)
    drawn = [(tmp_path / "all" / f"fig-probes-1{end}.svg").read_text() for end in ends]
    assert len(set(drawn)) == len(drawn)
    monkeypatch.setattr(figures, "MOST", 2 * len(figure.charts))
    done = export_figures(study, tmp_path / "few", short)
    assert done.cut == {"fig-probes": f"the first 2 of {len(choice.options)} options of {choice.label}"}
    assert len(list((tmp_path / "few").glob("fig-probes*.svg"))) == 2 * len(figure.charts)
    assert done.cut["fig-probes"] in (tmp_path / "few" / "figures.txt").read_text()


def test_options_that_no_file_could_be_named_by():
    assert figures._distinct(["a b", "a/b", "", "../x", "A b"]) == ["-a_b", "-a_b-2", "-3", "-.._x", "-A_b-5"]
    chart = Chart(alt.Chart(pd.DataFrame({"x": [1]})).mark_point().encode(x="x:Q"), "d")
    one, two = (Choice("c", "C", (("a/b", "x"), ("d", "y"))[:n]) for n in (1, 2))
    names = [
        list(figures._pictures(Figure("fig", "f", "e", pd.DataFrame(), (chart,), choices=(c,)), [])) for c in (one, two)
    ]
    assert names == [["fig"], ["fig-a_b", "fig-d"]]


def test_a_folder_of_ones_own_stays_as_it_is(tmp_path: Path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="--figures"):
        export_figures(write_study(tmp_path / "s", seeds=1), mine)
    assert [p.name for p in mine.iterdir()] == ["notes.txt"]


def test_the_page_and_the_files_have_the_same_figures(report: Path, study: Path):
    page = discover.find("reports", "study").value(
        __import__("nca_interp.report.tables", fromlist=["Tables"]).Tables(study)
    )
    ids = [i.id for s in page.sections for i in s.items if isinstance(i, Figure)]
    assert all(f'<figure id="{name}"' in report.read_text() for name in ids)
