"""What is not ours is never overwritten: every output option of every command, against every kind of file in its way."""

from __future__ import annotations

import json
import os

import pandas as pd
import pytest

from nca_interp.analysis.probing.table import save
from nca_interp.base import UserError
from nca_interp.outputs import LONGEST_NAME, begins, check_output, check_table, holds, records
from tests.cli.test_fuzz import told

FRAME = pd.DataFrame({"probe": ["a", "b"], "value": [0.1, None]})
FRAME.attrs = {"provenance": {"checkpoint": "x"}}


def snapshot(folder):
    """Every file with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_replaces_only_itself(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    save(FRAME, path)
    save(FRAME.head(1), path)
    assert len(pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)) == 1
    assert json.loads((tmp_path / "t.json").read_text())["provenance"] == {"checkpoint": "x"}
    path.write_bytes(path.read_bytes() + b"1,2\n")  # somebody's own work now
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=r"is there already and no table that this program wrote.*nothing was changed"):
        save(FRAME, path)
    assert snapshot(tmp_path) == before


def test_a_table_that_was_interrupted_between_its_two_files_is_written_again(tmp_path, monkeypatch):
    from nca_interp.analysis.probing import table as probe_table

    path, write = tmp_path / "t.csv", probe_table.write_bytes
    for _ in ("new", "over an old one"):
        monkeypatch.setattr(probe_table, "write_bytes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save(FRAME, path)
        monkeypatch.setattr(probe_table, "write_bytes", write)
        save(FRAME.head(1), path)
    assert len(pd.read_csv(path)) == 1


@pytest.mark.parametrize(
    ("name", "content"), [("t.csv", "a,b\n1,2\n"), ("t.json", "{}"), ("t.json", '{"table": {"file": "t.csv"}}x')]
)
def test_foreign_files_in_the_way_of_a_table_stay(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"{name}: is there already"):
        save(FRAME, tmp_path / "t.csv")
    assert snapshot(tmp_path) == {name: content.encode()}


def test_a_table_of_another_kind_keeps_its_provenance(tmp_path):
    save(FRAME, tmp_path / "t.csv")
    with pytest.raises(UserError, match=r"t\.json: is there already"):
        save(FRAME, tmp_path / "t.parquet")


def test_nothing_is_written_into_what_is_read(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (tmp_path / "link").symlink_to(model)
    for path in (model / "t.csv", model / "deep" / "t.csv", tmp_path / "link" / "t.csv"):
        with pytest.raises(UserError, match="which this command reads"):
            check_table("--table", path, [model])
    check_table("--table", tmp_path / "model.csv", [model, None, tmp_path / "absent"])


def test_what_stands_in_the_way_is_told_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    for path, message in (
        (tmp_path / "file", "is there already"),
        (tmp_path / "file" / "deep" / "t.csv", "is no folder"),
        (tmp_path / "dangling", "is there already"),
        (tmp_path / "a.csv", "something else there too"),
        (tmp_path / ("n" * (LONGEST_NAME + 1)), "the name is too long"),
    ):
        with pytest.raises(UserError, match=message):
            check_output("--out", path, "thing", begins("ours"), also=[tmp_path / "a.csv", None])
    check_output("--out", tmp_path / ("n" * LONGEST_NAME), "thing", begins("ours"))
    (tmp_path / ("n" * LONGEST_NAME)).write_text("as long as legal")
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(UserError, match="is read-only"):
            check_output("--out", tmp_path / "locked" / "new", "thing", begins("ours"))


def test_ours_is_known_by_first_line_or_record(tmp_path):
    (tmp_path / "file").write_text("ours, and more")
    (tmp_path / "record.json").write_text('{"a": 1, "b": 2}')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "empty").mkdir()
    assert begins("ours,")(tmp_path / "file")
    assert not begins("theirs")(tmp_path / "file")
    assert not begins("")(tmp_path)
    assert records("a")(tmp_path / "record.json")
    assert not records("a", "c")(tmp_path / "record.json")
    assert not records("a")(tmp_path / "deep.json")
    assert holds("record.json", "a", "b")(tmp_path)
    assert not holds("record.json", "c")(tmp_path)
    assert holds("record.json", "c")(tmp_path / "empty")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("analyze --checkpoint {model} --table {model}/config.csv", "which this command reads"),
        ("analyze --checkpoint {model} --table theirs.csv", "theirs.csv: is there already"),
        ("analyze --checkpoint {model} --table notes.parquet", "notes.json: is there already"),
        ("analyze --checkpoint {model} --causes --table theirs.csv", "theirs.csv: is there already"),
        ("analyze --checkpoint {model} --inference --table theirs.csv", "theirs.csv: is there already"),
        ("analyze --checkpoint {model} --tokenizer tok --table tok/t.csv", "which this command reads"),
        ("train smoke --out full", "full: not empty and no study"),
        ("train smoke --out theirs.csv", "theirs.csv: is there already and no study"),
        (
            "train smoke --set domains.web.source.source=files:full/**/*.txt --out full/study",
            "full/study: lies in full",
        ),
        ("demo --out full", "full: not empty and no study"),
        ("data inspect corpus.txt --out full", "full: not empty and no inspection"),
        ("data inspect corpus.txt --out forged", "forged: not empty and no inspection"),
        ("data prepare corpus.txt --out full", "full: not empty and no token directory"),
        ("data prepare corpus.txt --out theirs.csv", "theirs.csv: is there already and no token directory"),
        ("data prepare corpus.txt --out .", "this is the working folder itself"),
        ("data prepare files:full/*.txt --out full/tokens", "full/tokens: lies in full"),
        ("match corpus.txt --out full", "full: not empty and no match"),
        ("match corpus.txt --csv corpus.txt", "corpus.txt: this command reads it"),
        ("match corpus.txt --csv r.py --recipe r.py", "r.py: this command writes something else there too"),
        ("match corpus.txt --out m --csv m/recipe.py", "m/recipe.py: this command writes something else there too"),
        (
            "match corpus.txt --out m --recipe m/match.json",
            "m/match.json: this command writes something else there too",
        ),
        ("match corpus.txt --recipe theirs.csv", "theirs.csv: is there already and no recipe"),
        ("match files:full/*.txt --csv full/cells.csv", "full/cells.csv: lies in full"),
    ],
)
def test_every_output_of_every_command_refuses_what_is_not_ours(
    tmp_path, monkeypatch, tiny_checkpoint, arguments, message
):
    monkeypatch.chdir(tmp_path)
    for folder in ("full", "forged", "tok"):
        (tmp_path / folder).mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    (tmp_path / "forged" / "inspect.json").write_text('{"years": "of work"}')
    (tmp_path / "theirs.csv").write_text("years,of\nwork,!\n")
    (tmp_path / "notes.json").write_text('["years of work"]')
    (tmp_path / "corpus.txt").write_text("a text of several words\n" * 2000)
    before = snapshot(tmp_path), snapshot(tiny_checkpoint)
    code, errors = told(arguments.format(model=tiny_checkpoint).split())
    assert code == 2, errors
    assert message in errors
    assert "nothing was changed" in errors or "of its own" in errors
    assert (snapshot(tmp_path), snapshot(tiny_checkpoint)) == before


def test_a_page_replaces_only_a_page(tmp_path):
    from nca_interp.report.page import Page
    from nca_interp.report.render import write_page

    page = Page(title="t", subtitle="s", facts=(), cautions=(), legend=(), sections=(), record={})
    path = tmp_path / "report.html"
    path.write_text("<!doctype html>\n<html>my own</html>")
    with pytest.raises(UserError, match=r"report\.html: is there already and no page of this program"):
        write_page(page, path)
    assert "my own" in path.read_text()
