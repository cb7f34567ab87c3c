"""Tokens of heads through the real command: kept once, in the table, and on the page of each head."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tests.analysis.models import TOKENS, letter_tokenizer, planted_gpt2, tiny
from tests.cli.test_app import call


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "model").mkdir()
    model = letter_tokenizer(planted_gpt2(folder / "model"), TOKENS - 1, {"<bos>": TOKENS - 1})
    (folder / "own.txt").write_text("abcdefgh " * 60)
    result = call(
        "analyze", "--checkpoint", f"planted={model}", "--out", "out", "--only", "head-tokens", "--tokens", "own.txt",
        "--set", "head-tokens.sources=5", cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder


def test_tokens_are_in_the_table_by_their_text(done):
    rows = pd.read_csv(done / "out/tables/head_tokens.csv", keep_default_na=False)
    rows = rows[(rows.layer == 1) & (rows["head"] == 0)]
    assert float(rows[rows.circuit == "copies"].value.iloc[0]) == 1.0
    first = rows[(rows.circuit == "pair") & (rows.place == 1)].iloc[0]
    assert first.source_text == first.target_text
    assert first.source_text in {repr(c) for c in "abcdefgh"}


def test_the_page_of_a_head_says_it(done):
    words = pd.read_csv(done / "out/tables/head_words.csv")
    mine = words[(words.layer == 1) & (words["head"] == 0)].set_index("fact").text
    assert mine["copies"].startswith("100% of the tokens")
    assert mine["tokens that it is tried on"] == "5 tokens, the most frequent of the file own.txt"
    assert "writes most on reading" in mine.index
    assert "keys that it prefers, whatever the query" in mine.index


def test_what_is_kept_is_not_measured_again(done):
    kept = done / "out/measured/planted/head-tokens/step-00000000.json"
    before = kept.stat().st_mtime_ns, json.loads(kept.read_text())["attrs"]["sources"]
    again = call("analyze", "out", "--only", "head-tokens", "--set", "head-tokens.sources=5", cwd=done)
    assert again.returncode == 0, again.stderr
    assert (kept.stat().st_mtime_ns, json.loads(kept.read_text())["attrs"]["sources"]) == before


def test_a_model_that_cannot_be_read_says_why_on_every_page(tmp_path):
    tiny("gemma2").save_pretrained(tmp_path / "model")
    result = call("analyze", "--checkpoint", "m=model", "--out", "out", "--only", "head-tokens", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    words = pd.read_csv(tmp_path / "out/tables/head_words.csv")
    assert len(words) == 2 * 4
    assert words.text.str.contains("normalises what its attention writes").all()
