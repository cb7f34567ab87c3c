"""Which text natural rows come from, and that it is said: the built-in one, a file of the user's, a token directory."""

from __future__ import annotations

import hashlib

import pytest

from nca_interp.analysis.collection.collection import Settings
from nca_interp.analysis.probing.engine import analyze
from nca_interp.analysis.stimuli.base import account
from nca_interp.analysis.stimuli.subject import describe, open_rows
from nca_interp.analysis.stimuli.text import ROWS, Text, rows_of, sample_text
from nca_interp.base import UserError
from nca_interp.data.specs import DyckSpec
from nca_interp.data.tokens import write_tokens
from nca_interp.model.checkpoint import load_config
from nca_interp.store import sha256_file
from tests.analysis.models import letter_tokenizer, tiny


@pytest.fixture
def checkpoint(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "model")
    return letter_tokenizer(tmp_path / "model", 60)


def told(checkpoint, tokens=None, tokenizer=None):
    subject = describe(checkpoint, load_config(checkpoint), {}, tokens, tokenizer)
    return subject, account(subject)


def test_the_built_in_text_is_named_with_its_hash(checkpoint):
    subject, said = told(checkpoint)
    text = sample_text()
    assert said["rows_from"] == text.name
    assert text.name.startswith("the Python 3.")
    assert said["rows_sha256"] == hashlib.sha256(text.text.encode()).hexdigest()
    assert said["sentence"].startswith(f"natural rows are from {text.name}; random tokens are drawn from ")
    assert subject.rows.shape[0] == ROWS
    assert analyze(checkpoint, probes=["entropy"]).attrs["provenance"]["tokens"] == said


def test_a_file_of_text_takes_its_place(checkpoint, tmp_path):
    file = tmp_path / "prose.txt"
    file.write_text("abc cab " * 2000, encoding="utf-8")
    subject, said = told(checkpoint, file)
    assert (said["rows_from"], said["rows_sha256"]) == ("the file prose.txt", sha256_file(file))
    assert subject.rows.ravel()[:7].tolist() == [0, 1, 2, 2, 0, 1, 0]
    assert subject.key != told(checkpoint)[0].key
    frame = analyze(checkpoint, tokens=file, probes=["entropy"])
    assert frame.attrs["provenance"]["tokens"]["rows_sha256"] == sha256_file(file)
    assert frame.value.mean() != analyze(checkpoint, probes=["entropy"]).value.mean()


def test_a_token_directory_is_named_by_its_validation_rows(checkpoint, tmp_path):
    folder = tmp_path / "brackets"
    meta = write_tokens(folder, DyckSpec(k=40, max_depth=8), n_train=2, n_val=4, seq_len=32, seed=0)
    open_rows.cache_clear()
    _, said = told(checkpoint, folder)
    assert (said["rows_from"], said["rows_sha256"]) == ("the token directory brackets", meta.sha256["val.bin"])


def test_a_changed_text_is_measured_again(tmp_path):
    """What decides numbers is the content of the file, not its name."""
    file, other = tmp_path / "a.txt", tmp_path / "b.txt"
    file.write_text("abc")
    other.write_text("abc")
    before = Settings(tokens=str(file)).decide()
    assert before == Settings(tokens=str(other)).decide() != Settings().decide()
    file.write_text("abcd")
    assert Settings(tokens=str(file)).decide() != before
    assert Settings(tokens=str(tmp_path / "nowhere")).decide()["settings"]["tokens"].endswith("nowhere")


def test_texts_that_give_no_rows(checkpoint, tmp_path):
    short, binary, bare = tmp_path / "short.txt", tmp_path / "binary.txt", tmp_path / "bare"
    short.write_text("abc")
    binary.write_bytes(b"\xff\xfe\x00")
    tiny("llama").save_pretrained(bare)
    for tokens, folder, message in (
        (short, checkpoint, "the file short.txt: 3 tokens are too few for natural text"),
        (binary, checkpoint, "binary.txt: not readable as text in UTF-8"),
        (short, bare, "short.txt: .*bare has no tokenizer that cuts it into tokens; give --tokenizer"),
        (tmp_path / "nowhere", checkpoint, "nowhere: not a token directory"),
    ):
        with pytest.raises(UserError, match=message):
            told(folder, tokens)
    short.write_text("abcd" * 9)
    assert told(bare, short, checkpoint)[1]["rows_from"] == "the file short.txt", "the tokenizer that is given cuts it"


def test_a_text_too_short_for_two_rows_is_cut_in_two(checkpoint):
    assert rows_of(Text("x", "abcdefgh"), checkpoint, 100).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert rows_of(Text("x", "abcdefgh"), checkpoint, 3).tolist() == [[0, 1, 2], [3, 4, 5]]
