"""The user's own text as a stimulus."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from nca_interp.analysis.stimuli.base import NotApplicable, Subject
from nca_interp.analysis.stimuli.own_text import OwnText, own_texts
from nca_interp.base import UserError


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    words = {"[UNK]": 0, "a": 1, "b": 2, "c": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return Subject("m", 4, 16, prefix=(0,), tokenizer=tmp_path / "tokenizer.json")


def test_the_beginning_of_the_text_after_the_prefix(tmp_path: Path, subject: Subject):
    (tmp_path / "own.txt").write_text("a b c a b c a b c")
    batch = OwnText(path=str(tmp_path / "own.txt"), length=5).build(subject)
    assert batch.inputs.tolist() == [[0, 1, 2, 3, 1]]
    assert batch.targets.tolist() == [[1, 2, 3, 1]]
    whole = OwnText(path=str(tmp_path / "own.txt")).build(subject)
    assert whole.length == 10


def test_what_cannot_be_shown(tmp_path: Path, subject: Subject):
    (tmp_path / "bare.txt").write_text("")
    with pytest.raises(NotApplicable, match="fewer than two tokens"):
        OwnText(path=str(tmp_path / "bare.txt")).build(subject)
    with pytest.raises(NotApplicable, match="no tokenizer"):
        OwnText(path=str(tmp_path / "bare.txt")).build(Subject("m", 4, 16))
    with pytest.raises(UserError, match="missing.txt"):
        OwnText(path=str(tmp_path / "missing.txt")).build(subject)


def test_at_most_so_many_texts_by_name():
    found = own_texts(("x/a.txt", "b.txt", "c.txt"), 2, 64)
    assert list(found) == ["your text a.txt", "your text b.txt"]
