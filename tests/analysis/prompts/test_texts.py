"""Files of text to prompts: paragraphs, what is cut is said, what cannot be read is named."""

from __future__ import annotations

import pytest

from nca_interp.analysis.prompts import texts
from nca_interp.analysis.prompts.texts import Prompt, read_prompts
from nca_interp.base import UserError


def test_paragraphs_are_prompts_and_what_is_left_out_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("\n\none\ntwo \n \nthree\n\n\nfour\n")
    (tmp_path / "b.txt").write_text("\ufefffive", encoding="utf-8")
    files = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    read = read_prompts(files, 8)
    assert read.prompts == (
        Prompt("a.txt:1", "one\ntwo "), Prompt("a.txt:2", "three"), Prompt("a.txt:3", "four"), Prompt("b.txt:1", "five"),
    )  # fmt: skip
    assert read.notes == ()
    few = read_prompts(files, 2)
    assert [p.name for p in few.prompts] == ["a.txt:1", "a.txt:2"]
    assert few.notes == (
        "a.txt: 2 of 3 paragraphs (prompts.prompts=2)", "b.txt: 0 of 1 paragraphs (prompts.prompts=2)",
    )  # fmt: skip


def test_two_files_of_one_name_stay_apart_and_one_given_twice_counts_once(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    files = [str(tmp_path / name / "a.txt") for name in ("x", "y", "x")]
    assert [p.name for p in read_prompts(files, 8).prompts] == [f"{files[0]}:1", f"{files[1]}:1"]


def test_a_long_file_is_read_at_its_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "READ", 10)
    (tmp_path / "a.txt").write_text("one\n\ntwoé\u00e9\n\nthree", encoding="utf-8")
    read = read_prompts([str(tmp_path / "a.txt")], 8)
    assert [p.text for p in read.prompts] == ["one", "twoé"]
    assert read.notes == ("a.txt: 2 of more than 2 paragraphs (prompts.prompts=8)",)


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no such file"), (b"", "holds no text"), (b" \n\t\n", "holds no text"), (b"ab\xffcd", "no UTF-8 text (byte 2)")]
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, said):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_prompts([str(path)], 8)
    assert f"--text: {path}: {said}" in str(raised.value)
