"""An index over many reports, and two reports side by side: what is in their records, and nothing else."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from nca_interp.base import UserError
from nca_interp.cli.app import app, call
from nca_interp.report.page import ClaimBox, Table
from nca_interp.report.pages.against import Pair, against_page, plan, write_against
from nca_interp.report.pages.gallery import MANY, entries, write_gallery
from nca_interp.report.render import render
from nca_interp.report.sections.claims import bar

RULES = json.loads((resources.files("nca_interp.report") / "report.schema.json").read_text())
HOSTILE = "</script><img src=x onerror=alert(1)>"
MODEL = {"n_layers": 2, "n_heads": 2, "d_model": 32, "d_ff": 64, "n_ctx": 64}


def claim(verdict: str = "inconclusive", effect: float | None = 0.1, **other: Any) -> dict[str, Any]:
    ends = (None, None) if effect is None else (effect - 0.2, effect + 0.2)
    return {
        "claim": "helps", "says": "It helps", "source": "a paper", "domain": "web", "verdict": verdict, "effect": effect, "low": ends[0],
        "high": ends[1], "zero": 0.0, "unit": "nats per token", "n": 3.0, "sentence": "s", "change": "c", "evidence": "", **other,
    }  # fmt: skip


def comparison(effect: float, treated: str = "nca") -> dict[str, Any]:
    return {
        "family": "regime", "domain": "web", "metric": "val_loss", "treated": treated, "control": "scratch", "primary": True, "n": 3.0,
        "effect": effect, "low": effect - 0.1, "high": effect + 0.1, "p_holm": 0.5, "margin": 0.01, "detectable": 0.2,
        "verdict": "inconclusive", "sentence": "s",
    }  # fmt: skip


def stored(path: Path, **other: Any) -> Path:
    """A report.json with one claim and one comparison."""
    value = {
        "schema": 2, "page": "study", "study": "one", "title": "One", "created": "2026-11-01T10:00:00Z", "command": "nca-interp train one",
        "claims": [claim()], "verdicts": [comparison(0.1)], "warnings": [], "deviations": [], "tables": {"runs.csv": "0" * 64},
        "configuration": {"seeds": [{"init": 0}], "pt": {"lr": 0.001}, "regimes": [{"name": "nca", "ppt": {"steps": 4}}, {"name": "scratch"}]},
        "provenance": {"version": "0.1.0", "packages": {"torch": "2"}}, **other,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def test_a_report_against_itself_differs_in_nothing(tmp_path: Path):
    path = stored(tmp_path / "a.json")
    pair = Pair(path, path)
    assert plan(pair) == []
    page = against_page(pair)
    jsonschema.validate(page.record, RULES)
    box = next(item for item in page.sections[0].items if isinstance(item, ClaimBox))
    (one,) = box.claims
    assert [found.verdict for found in one.found] == ["inconclusive"] * 2
    assert one.found[0].bar == one.found[1].bar == bar(claim(), (-0.1, 0.3))
    assert any("same tables" in told for told in page.cautions)
    assert "1 verdict of 1 the same." in page.sections[0].items[0].text  # type: ignore[union-attr]


def test_what_was_changed_is_what_is_shown(tmp_path: Path):
    """Planted: another learning rate, a regime that only B has, a renamed order of regimes, one claim turned, one new."""
    configuration = {
        "seeds": [{"init": 0}, {"init": 1}], "pt": {"lr": 0.002},
        "regimes": [{"name": "scratch"}, {"name": "dyck", "ppt": None}, {"name": "nca", "ppt": {"steps": 4}}],
    }  # fmt: skip
    claims = [claim("supported", -0.3), claim("not tested", None, claim="faster", says="It is faster", domain="")]
    a = stored(tmp_path / "a.json")
    b = stored(tmp_path / "b.json", study="two", created="2026-12-01T00:00:00Z", configuration=configuration, claims=claims, verdicts=[comparison(0.4, "dyck")], tables={})  # fmt: skip
    pair = Pair(a, b)
    assert [key for key, _, _ in plan(pair)] == ["seeds", "pt.lr", "regimes.dyck"]
    assert plan(pair)[1] == ("pt.lr", "0.001", "0.002")
    page = against_page(pair)
    jsonschema.validate(page.record, RULES)
    box = next(item for item in page.sections[0].items if isinstance(item, ClaimBox))
    assert [[f.verdict for f in one.found] for one in box.claims] == [
        ["inconclusive", "supported"],
        ["not claimed", "not tested"],
    ]
    (first, second), span = box.claims[0].found, (-0.5, 0.3)
    assert first.bar == bar(claim(), span)
    assert second.bar == bar(claims[0], span)
    table = next(item for item in page.sections[2].items if isinstance(item, Table))
    assert [row[-1] for row in table.rows] == ["not planned", "inconclusive"]
    assert any("1 seed of both is the same" in told for told in page.cautions)
    assert any("different settings" in told for told in page.cautions)


def test_an_older_record_has_no_plan_to_compare(tmp_path: Path):
    a = stored(tmp_path / "a.json")
    old = json.loads(a.read_text())
    old = {key: old[key] for key in ("study", "claims", "verdicts", "provenance", "tables")} | {"schema": 1}
    b = tmp_path / "old.json"
    b.write_text(json.dumps(old))
    told = against_page(Pair(a, b)).cautions
    assert any("earlier version, without its configuration" in one for one in told)


@pytest.mark.parametrize(
    "other", [{"claims": {}}, {"claims": [{"claim": "a"}]}, {"claims": [claim() | {"effect": "1"}]}, {"verdicts": [1]}]
)  # fmt: skip
def test_a_damaged_record_is_named(tmp_path: Path, other: dict[str, Any]):
    path = stored(tmp_path / "a.json")
    bad = stored(tmp_path / "bad.json", **other)
    with pytest.raises(UserError, match=r"bad\.json"):
        write_against(path, bad)


def test_only_reports_of_studies_stand_against_each_other(tmp_path: Path):
    a, b = stored(tmp_path / "a.json"), stored(tmp_path / "b.json", page="match")
    with pytest.raises(UserError, match="page of a match"):
        write_against(a, b)
    with pytest.raises(UserError, match="no report"):
        write_against(a, tmp_path / "none")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json"]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Reports of several studies below one folder, one with a hostile name, beside files that are none."""
    for number in range(MANY + 1):
        path = stored(tmp_path / f"s{number:02}" / "x.json", study=f"s{number}", title=f"Study {number}", created=f"2026-11-{number + 1:02}T00:00:00Z")  # fmt: skip
        page = against_page(Pair(path, path))
        (path.parent / "report.html").write_text(render(page))
    stored(
        tmp_path / "evil" / "x.json",
        study="evil",
        title=HOSTILE,
        created="2025-01-01T00:00:00Z",
        claims=[claim(says=HOSTILE)],
    )
    (tmp_path / "evil" / 'a "#?.html').write_text(render(against_page(Pair(tmp_path / "evil" / "x.json", tmp_path / "evil" / "x.json"))))  # fmt: skip
    (tmp_path / "notes.html").write_text("<!doctype html><p>mine</p>")
    (tmp_path / "torn.html").write_text((tmp_path / "s00" / "report.html").read_text()[:30_000])
    hidden = tmp_path / "s01" / "tokens" / "report.html"
    hidden.parent.mkdir()
    hidden.write_text((tmp_path / "s00" / "report.html").read_text())
    return tmp_path


def test_the_index_lists_every_report_newest_first(many: Path):
    found = entries(many)
    assert [one.title for one in found[:2]] == [f"Study {MANY}", f"Study {MANY - 1}"]
    assert len(found) == MANY + 2
    path, count = write_gallery(many)
    text = path.read_text()
    assert count == len(found)
    assert HOSTILE not in text
    assert "&lt;/script&gt;&lt;img" in text
    assert text.count("<script>") == 1
    links = re.findall(r'<h2><a href="([^"]*)"', text)
    assert "s00/report.html" in links
    assert "evil/a%20%22%23%3F.html" in links
    assert len(path.read_bytes()) < 100_000
    before = path.read_bytes()
    assert write_gallery(many)[0].read_bytes() == before  # an index is not listed in itself
    for one in found[5:]:
        (many / one.link).unlink(missing_ok=True)
    assert "<script" not in write_gallery(many)[0].read_text()


def test_an_index_of_ones_own_and_a_folder_without_reports_stay_as_they_are(tmp_path: Path):
    with pytest.raises(UserError, match="no report in it"):
        write_gallery(tmp_path)
    assert list(tmp_path.iterdir()) == []
    mine = tmp_path / "index.html"
    mine.write_text("<p>mine</p>")
    with pytest.raises(UserError, match=r"index\.html: is there already"):
        write_gallery(tmp_path)
    assert mine.read_text() == "<p>mine</p>"


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    a = stored(tmp_path / "x" / "report.json")
    (tmp_path / "x" / "report.html").write_text(render(against_page(Pair(a, a))))
    assert CliRunner().invoke(app, ["report", str(tmp_path), "--gallery"]).exit_code == 0
    assert call(["view", str(tmp_path)]) == 0
    assert call(["view", str(tmp_path / "x")]) == 0
    assert call(["view", str(tmp_path / "x" / "report.html")]) == 0
    shown = capsys.readouterr().out.split()
    assert [line.rsplit("/", 2)[-1] for line in shown] == ["index.html", "report.html", "report.html"]
    assert call(["report", str(a), "--against", str(a)]) == 0
    assert (tmp_path / "x" / "against-x.html").is_file()
    for arguments in (
        ["--gallery", "--against", "x"],
        ["--gallery", "--name", "study"],
        ["--figures", "f", "--gallery"],
    ):
        assert call(["report", str(tmp_path), *arguments]) == 2
    assert call(["view", str(tmp_path / "none")]) == 2
    assert call(["view", str(a)]) == 2
