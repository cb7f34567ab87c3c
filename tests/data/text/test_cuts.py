"""Plain text with `<|endoftext|>` between its stories: a document each, wherever ranges and reads end."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_interp.base import UserError
from nca_interp.data.specs import TextSpec, TokenizerSpec
from nca_interp.data.text import files
from nca_interp.data.text.corpus import Corpus
from nca_interp.data.tokens import write_tokens

STORIES = [f"Once there was a {i}.\n\nIt was {'very ' * (i % 60)}big." for i in range(300)]


def texts(path) -> list[str]:
    return [d.text for d in Corpus(TextSpec(source=f"files:{path}"))]


@pytest.mark.parametrize("between", ["\n<|endoftext|>\n", "<|endoftext|>", "\r\n<|endoftext|>\r\n\r\n"])
@pytest.mark.parametrize("name", ["a.txt", "A.TXT", "a.md"])
def test_every_story_is_a_document(tmp_path, monkeypatch, between, name):
    monkeypatch.setattr(files, "RANGE_BYTES", 3001)
    (tmp_path / name).write_bytes(between.join(STORIES).encode() + between.encode())
    assert texts(tmp_path / name) == STORIES


@settings(max_examples=15, deadline=None)
@given(size=st.integers(60, 700))
def test_ranges_part_between_stories(tmp_path_factory, size):
    path = tmp_path_factory.mktemp("in") / "a.txt"
    path.write_text("\n<|endoftext|>\n".join(STORIES[:40]))
    before, files.RANGE_BYTES = files.RANGE_BYTES, size
    try:
        assert texts(path) == STORIES[:40]
    finally:
        files.RANGE_BYTES = before


def test_a_long_compressed_file(tmp_path):
    stories = [story * 40 for story in STORIES] * 3
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("\n<|endoftext|>\n".join(stories).encode()))
    assert texts(tmp_path / "a.txt.gz") == stories


def test_the_advice_on_a_single_document_helps(tmp_path):
    path, fields = tmp_path / "a.jsonl", {"n_train": 1000, "n_val": 1000, "seq_len": 16, "seed": 0, "threads": 1}
    spec = TextSpec(source=f"files:{path}", tokenizer=TokenizerSpec(vocab_size=300))
    path.write_text('{"text": "' + "one two three four " * 200 + '"}\n')
    with pytest.raises(
        UserError, match=r"as a whole, and there are only 1: cut them .* a line <\|endoftext\|> between"
    ):
        write_tokens(tmp_path / "t", spec, **fields)
    path.write_text(path.read_text() + '{"text": "' + "one two  three four " * 200 + '"}\n')
    with pytest.raises(UserError, match=r"only 1 \(1 more are the same but for white space\)"):
        write_tokens(tmp_path / "t", spec, **fields)
    parts = [f"one two three four {i} " * 20 for i in range(10)]
    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n".join(parts))
    spec = spec.model_copy(update={"source": f"files:{tmp_path}/a.txt"})
    meta = write_tokens(tmp_path / "t", spec, **fields)
    assert meta.provenance["documents"] == 10
    assert meta.n_train > 1
    assert meta.n_val > 0
