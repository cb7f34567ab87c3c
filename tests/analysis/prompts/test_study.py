"""Own prompts and a pair through the real command: tables, arrays, report, and what is wrong said before anything is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from tests.analysis.models import TOKENS, letter_tokenizer, planted_gpt2
from tests.cli.test_app import call

PAIR = ("--clean", "abcda", "--corrupt", "ebcda", "--answer", "b", "--wrong", "e")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "planted"
    directory.mkdir()
    return letter_tokenizer(planted_gpt2(directory), TOKENS - 1, {"<bos>": TOKENS - 1})


@pytest.fixture(scope="module")
def done(model, tmp_path_factory):
    """Folder of one analysis, and what it printed."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "own.txt").write_text("abcda\n\nfghijfghij\n\nz\n\nklm\n")
    result = call(
        "analyze", "--checkpoint", f"planted={model}", "--out", "out", "--only", "--text", "own.txt", *PAIR,
        "--set", "prompts.prompts=3", "--set", "prompts.tokens=9", cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder, result


def read(done, name: str) -> pd.DataFrame:
    return pd.read_csv(done[0] / f"out/tables/{name}.csv")


def test_every_prompt_is_in_the_tables_and_what_is_cut_is_said(done):
    tokens = read(done, "prompts")
    assert tokens.groupby("prompt", sort=False).size().to_dict() == {"own.txt:1": 6, "own.txt:2": 9}
    assert tokens[tokens.prompt == "own.txt:1"].text.tolist() == ["<bos>", "a", "b", "c", "d", "a"]
    notes = set(read(done, "prompt_notes").note)
    assert "own.txt: 3 of 4 paragraphs (prompts.prompts=3)" in notes
    assert "the first 9 of 11 tokens (prompts.tokens=9)" in notes
    said = read(done, "prompt_predictions")
    end = said[(said.prompt == "own.txt:1") & (said.position == 5)]
    assert end.text.iloc[0] == "b"
    assert 1 >= end.probability.sum() > 0.5
    parts = read(done, "prompt_parts")
    parts = parts[(parts.prompt == "own.txt:1") & (parts.position == 5)]
    whole = parts[parts.part.isin(["embedding", "bias", "attn", "mlp"])]
    assert whole.value.sum() == pytest.approx(end.logit.iloc[0], abs=1e-4)
    groups = parts[parts.part.isin(["neurons raising", "neurons lowering", "other neurons", "mlp bias"])]
    assert groups.groupby("layer").centred.sum().tolist() == pytest.approx(
        parts[parts.part == "mlp"].centred.tolist(), abs=1e-5
    )


def test_the_summary_fits_a_terminal_and_names_the_planted_heads(done):
    lines = done[1].stdout.splitlines()
    assert max(map(len, lines)) <= 80 + len(str(done[0]))
    own = next(line for line in lines if "own.txt:1 " in line)
    assert "'b'" in own
    assert "1.0(" in own
    assert any("head -> head" in line and "0.0->1.0" in line for line in lines)


def test_the_report_shows_both(done):
    html = (done[0] / "out/report.html").read_text()
    for part in ("On your own text", "A pair of prompts", "fig-prompt-lens", "fig-patch-heads", "fig-prompt-patterns"):
        assert part in html


def test_the_pair_is_patched(done):
    patches = read(done, "patches")
    one = patches[(patches.site == "head") & (patches.layer == 0) & (patches["head"] == 0)]
    assert one.recovery.iloc[0] == pytest.approx(1.0, abs=1e-3)
    pair = read(done, "prompt_pairs").iloc[0]
    assert pair.clean_value > 1
    assert pair.corrupt_value == pytest.approx(0.0, abs=1e-3)


def test_the_snippet_of_the_documentation_loads_patterns_for_other_viewers(done, root):
    page = (root / "docs/tables.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    (done[0] / "snippet.py").write_text(code.replace("runs/out/analysis/NAME", "out"))
    ran = subprocess.run(
        [sys.executable, "snippet.py"], cwd=done[0], capture_output=True, text=True, check=False, env=os.environ
    )
    assert ran.returncode == 0, ran.stderr
    assert "planted own.txt:1 1.0 (6, 6)" in ran.stdout
    assert "looks at 'b'" in ran.stdout
    stored = np.load(done[0] / "out/tables/prompt_patterns.npz")
    entries = json.loads((done[0] / "out/tables/prompt_patterns.json").read_text())
    head = next(e for e in entries if (e["prompt"], e["layer"], e["head"]) == ("own.txt:1", 1, 0))
    np.testing.assert_allclose(stored[head["key"]].astype(float).sum(-1), 1.0, atol=2e-3)
    assert stored[head["key"]][5].argmax() == 2


def test_again_it_is_up_to_date_and_another_text_is_measured(done):
    from nca_interp.analysis.collection.collection import Collection
    from nca_interp.analysis.prompts import study
    from nca_interp.analysis.prompts.texts import Options
    from nca_interp.measurement import Asked

    collection = Collection.open(done[0] / "out")
    run, kept = collection.runs[0], collection.runs[0].kept("prompts", 0)
    before = kept.stat().st_mtime_ns
    options = Options(prompts=3, tokens=9)
    assert study.measure(run, Asked(collection, options)) == []
    assert kept.stat().st_mtime_ns == before
    study.measure(run, Asked(collection, options.model_copy(update={"prompts": 1})))
    assert kept.stat().st_mtime_ns != before
    assert set(study.tables(collection, {}, Asked(collection, None))["prompts"].prompt) == {"own.txt:1"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--text", "nowhere.txt"), "nowhere.txt: no such file"),
        (("--clean", "abc", "--corrupt", "abcd", "--answer", "b"), "4 and 5 tokens"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(model, tmp_path, arguments, said):
    result = call("analyze", "--checkpoint", model, "--out", "out", "--only", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_is_lacking_is_named_where_it_was_asked_for(done, tmp_path):
    from dataclasses import replace

    from nca_interp.analysis.collection.collection import Collection, Settings
    from nca_interp.analysis.pairs import pair
    from nca_interp.analysis.prompts import texts
    from nca_interp.base import UserError

    collection = replace(Collection.open(done[0] / "out"), settings=Settings())
    assert not texts.wanted(collection, texts.Options(), False)
    assert not pair.wanted(collection, pair.Options(), False)
    with pytest.raises(UserError, match="--prompts: there is no text"):
        texts.wanted(collection, texts.Options(), True)
    with pytest.raises(UserError, match="--pairs: no pair of prompts"):
        pair.wanted(collection, pair.Options(), True)
    with pytest.raises(UserError, match="--corrupt, --answer: missing"):
        pair.wanted(collection, pair.Options(clean="abc"), False)
    with pytest.raises(UserError, match="--answer 'bc': 2 tokens"):
        pair.wanted(collection, pair.Options(clean="abc", corrupt="abd", answer="bc"), False)
    (tmp_path / "a.txt").write_text("abc")
    assert texts.wanted(collection, texts.Options(files=(str(tmp_path / "a.txt"),)), False)
