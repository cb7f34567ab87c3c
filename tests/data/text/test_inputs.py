"""Tokens whose corpus, questions or tokenizer changed are refused by name, and left as they were; a touch is no change."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nca_interp.base import UserError
from nca_interp.data.specs import QaSpec, TextSpec, TokenizerSpec
from nca_interp.data.text.documents import END, make_tokenizer
from nca_interp.data.text.inputs import touched
from nca_interp.data.text.qa import write_qa
from nca_interp.data.tokens import TokenMeta, write_tokens

LINES = [json.dumps({"text": f"Document {i} on {i * i}. " * 5}) + "\n" for i in range(60)]


def write(directory: Path, source: str, **fields) -> TokenMeta:
    spec = TextSpec(source=source, **{"tokenizer": TokenizerSpec(vocab_size=300), **fields})
    return write_tokens(directory, spec, n_train=10_000, n_val=10_000, seq_len=16, seed=0, threads=1)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def corpus(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(LINES[:30]))
    (folder / "b.jsonl").write_text("".join(LINES[30:]))
    return folder


def swap(folder: Path) -> None:
    """Another content of the same length."""
    path = folder / "b.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Document", b"document"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap, r"b\.jsonl: has changed since"),
        (lambda d: (d / "b.jsonl").write_text("".join(LINES[30:]) + LINES[0]), r"b\.jsonl: has changed since"),
        (lambda d: (d / "c.jsonl").write_text(LINES[0]), r"c\.jsonl: is new in"),
        (lambda d: (d / "a.jsonl").unlink(), r"a\.jsonl: .* was made of it, and it is gone"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["files", "hf"])
def test_changed_corpora_are_refused(tmp_path, corpus, scheme, change, message):
    source = f"files:{corpus}/*.jsonl" if scheme == "files" else f"hf:{corpus}"
    meta = write(tmp_path / "t", source)
    before = content(tmp_path / "t")
    for path in corpus.iterdir():
        os.utime(path, ns=(0, 0))
    assert touched(meta.model_dump(mode="json"))
    assert write(tmp_path / "t", source) == meta  # another time, the same content
    change(corpus)
    with pytest.raises(UserError, match=message):
        write(tmp_path / "t", source)
    assert content(tmp_path / "t") == before


def test_tokens_outlive_their_corpus(tmp_path, corpus):
    meta = write(tmp_path / "t", f"files:{corpus}/*.jsonl")
    assert not touched(meta.model_dump(mode="json"))
    for path in corpus.iterdir():
        path.unlink()
    assert write(tmp_path / "t", f"files:{corpus}/*.jsonl") == meta


def test_a_tokenizer_folder_that_was_made_again(tmp_path, corpus):
    from transformers import PreTrainedTokenizerFast

    def save(size: int) -> None:
        tokenizer = make_tokenizer(TokenizerSpec(vocab_size=size), LINES)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer.tokenizer, eos_token=END).save_pretrained(tmp_path / "named")

    save(300)
    spec = TokenizerSpec(kind="hf", name=str(tmp_path / "named"))
    meta = write(tmp_path / "t", f"files:{corpus}/*.jsonl", tokenizer=spec)
    for path in (tmp_path / "named").iterdir():
        os.utime(path, ns=(0, 0))
    assert write(tmp_path / "t", f"files:{corpus}/*.jsonl", tokenizer=spec) == meta
    save(280)
    assert touched(meta.model_dump(mode="json"))
    with pytest.raises(UserError, match=r"tokenizer .*named: has changed since .*t was made with it"):
        write(tmp_path / "t", f"files:{corpus}/*.jsonl", tokenizer=spec)


def test_changed_questions_are_refused(tmp_path, corpus):
    write(tmp_path / "t", f"files:{corpus}/*.jsonl")
    problems = [{"question": f"What is {i}?\ud83d", "answer": f"#### {i}"} for i in range(20)]
    path = tmp_path / "qa.jsonl"
    path.write_text("".join(json.dumps(p) + "\n" for p in problems))
    spec = QaSpec(source=f"files:{path}", n_val=2, n_test=2)
    meta = write_qa(tmp_path / "q", spec, tmp_path / "t", seq_len=64, seed=0)
    assert write_qa(tmp_path / "q", spec, tmp_path / "t", seq_len=64, seed=0) == meta
    path.write_text(path.read_text().replace("What", "How much"))
    with pytest.raises(UserError, match=r"qa\.jsonl: has changed since"):
        write_qa(tmp_path / "q", spec, tmp_path / "t", seq_len=64, seed=0)


def test_an_empty_folder_is_filled(tmp_path, corpus):
    (tmp_path / "t").mkdir()
    assert write(tmp_path / "t", f"files:{corpus}/*.jsonl").n_train > 0
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="not a token directory"):
        write(tmp_path / "file", f"files:{corpus}/*.jsonl")
    assert (tmp_path / "file").read_text() == "mine"
