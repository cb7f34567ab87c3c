"""`nca-interp data prepare`, run as a user runs it: sizes, tokenizers, an interruption, mistakes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from nca_interp.base import UserError
from nca_interp.data.text.prepare import count
from nca_interp.data.tokens import TokenFile

COMMAND = [sys.executable, "-m", "nca_interp", "data", "prepare"]


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True)


def test_text_dyck_and_what_the_command_says(tmp_path):
    (tmp_path / "x.jsonl").write_text(
        "".join(json.dumps({"body": f"Text {i} about {i * i}.\n" * 9}) + "\n" for i in range(99))
    )
    done = call(
        tmp_path / "x.jsonl", "--set", "column=body", "--out", tmp_path / "t", "--seq-len", 64, "--tokens", "1k",
        "--val-tokens", "1M", "--tokenizer", 300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    meta = TokenFile.open(tmp_path / "t").meta
    assert (meta.n_train, meta.seq_len, meta.vocab_size) == (16, 64, 300)
    assert "16 training and" in done.stdout
    assert "99 documents, 0 duplicates dropped" in done.stdout
    assert f"validation: {meta.n_val} of 15,625 rows" in done.stdout
    again = call(
        tmp_path / "x.jsonl", "--set", "column=body", "--out", tmp_path / "t", "--seq-len", 64, "--tokens", "1k",
        "--val-tokens", "1M", "--tokenizer", 300,
    )  # fmt: skip
    assert again.stdout == done.stdout
    dyck = call("dyck:k=3", "--out", tmp_path / "d", "--tokens", 500, "--seq-len", 50, "--val-tokens", 100)
    assert dyck.returncode == 0, dyck.stderr
    assert TokenFile.open(tmp_path / "d").train.shape == (10, 51)


def test_an_interruption_is_continued(tmp_path):
    arguments = [
        "arithmetic:",
        "--out",
        str(tmp_path / "t"),
        "--tokens",
        "2M",
        "--val-tokens",
        "1k",
        "--set",
        "max_bytes=9500000",
    ]
    process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    state = tmp_path / ".work-t" / "state.json"
    while not state.is_file() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.decode().endswith("interrupted; what is done is kept: the same command continues\n")
    assert state.is_file()
    assert not (tmp_path / "t").exists()
    assert call(*arguments).returncode == 0
    assert TokenFile.open(tmp_path / "t").meta.n_train == 1954


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    arguments = ["nca:n_states=2,band=[0.3,1]", "--out", tmp_path / "t", "--seq-len", "128"]
    left = tmp_path / ".tmp-t-1"
    process = subprocess.Popen([*COMMAND, *arguments, "--tokens", "900M"], stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(".tmp-t-*/train.bin")) and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    left.mkdir()
    assert call(*arguments, "--tokens", "10k").returncode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dyck",), "--tokens: needed, this source has no end"),
        (("arithmetic:",), "--tokens: needed, this source has no end"),
        (("dyck", "--tokens", "many"), "--tokens: 'many' is not a number of tokens; legal: e.g. 5000, 164M, 1.6B"),
        (("dyck", "--tokens", "1k", "--tokenizer", "gpt2"), "--tokenizer: 'gpt2' goes with text only"),
        (("files:none.txt",), "matches no file"),
        (("arithmetic:", "--tokens", "1k", "--tokenizer", "12"), "vocab_size: Input should be greater than or equal to 258"),
    ],
)  # fmt: skip
def test_mistakes_are_one_message_and_write_nothing(tmp_path, arguments, message):
    done = call(*arguments, "--out", tmp_path / "t")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_hold_tokens(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "x.jsonl").write_text('{"text": "some words"}\n')
    for place, message in ((".", "is the working folder itself"), ("file/t", "file is no folder")):
        command = [*COMMAND, "x.jsonl", "--out", place]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "x.jsonl"]


def test_too_large_for_the_disk(tmp_path):
    done = call("dyck", "--tokens", "900000B", "--out", tmp_path / "t")
    assert done.returncode == 1
    assert "the tokens need" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_numbers_as_users_write_them():
    for text, value in (("5000", 5000), ("5_000", 5000), ("164M", 164_000_000), ("1.6B", 1_600_000_000), ("2k", 2000)):
        assert count("--tokens", text) == value
    for text in ("", "0", "-1", "1e6", "M"):
        with pytest.raises(UserError, match="not a number of tokens"):
            count("--tokens", text)
