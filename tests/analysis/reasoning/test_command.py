"""The whole command on small random models: tables, report, files for others; a second call asks nothing again."""

from __future__ import annotations

import json

import pandas as pd
import pytest

pytest.importorskip("lm_eval", reason="needs the extra [eval] (lm-evaluation-harness)")

from nca_interp.cli.app import call
from tests.analysis.reasoning.checkpoints import checkpoint


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    listed = [
        {"path": str(checkpoint(folder / f"{regime}{seed}", seed + 10 * (regime == "nca"))), "run": f"{regime}{seed}", "regime": regime, "seed": seed}
        for regime in ("nca", "scratch") for seed in range(1)
    ]  # fmt: skip
    (folder / "list.json").write_text(json.dumps({"checkpoints": listed}))
    return folder


def test_evaluate_from_checkpoints_to_a_report(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = [
        "evaluate", "--checkpoint", str(models / "list.json"), "--tasks", "recall:1,recall-choice:1", "--limit", "6", "--sampling", "paper",
        "--samples", "3", "--k", "1,3", "--parts", "2", "--workers", "1", "--out", "out",
    ]  # fmt: skip
    assert call(line) == 0
    shown = capsys.readouterr().out
    assert "recall-choice:1" in shown
    table = pd.read_csv("out/tables/evaluations.csv")
    assert set(zip(table.task, table.k, strict=True)) == {("recall:1", 1), ("recall:1", 3), ("recall-choice:1", 1)}
    assert set(table.run) == {"nca0", "scratch0"}
    contrasts = pd.read_csv("out/tables/evaluation_contrasts.csv")
    assert set(contrasts.task) == {"recall:1", "recall-choice:1"}
    assert set(contrasts.n) == {1}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "What it can do: reasoning tasks" in page
    assert "pass@k" in page
    kept = tmp_path / "out" / "measured" / "nca0" / "reasoning" / "step-00000000"
    results = json.loads((kept / "results.json").read_text())
    assert results["results"]["recall-1"]["pass@3,none"] == pytest.approx(
        table[(table.run == "nca0") & (table.task == "recall:1") & (table.k == 3)].value.iloc[0]
    )
    assert len((kept / "samples_recall-1.jsonl").read_text().splitlines()) == 6
    assert "model-index" in (kept / "README.md").read_text()
    answers = {p.name: p.read_bytes() for p in kept.glob("answers-*.jsonl")}
    assert set(answers) == {"answers-0.jsonl", "answers-1.jsonl"}, "two jobs, and nothing was left for the last"
    assert call([*line[:-1], "out", "--k", "1,2,3"]) == 0
    assert {p.name: p.read_bytes() for p in kept.glob("answers-*.jsonl")} == answers, "other k: scored again, not asked"
    assert set(pd.read_csv("out/tables/evaluations.csv").k) == {1, 2, 3}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--tasks: none is named"),
        (["--tasks", "recall:1", "--samples", "4"], "greedy answers are all the same"),
        (["--tasks", "recall:1", "--sampling", "paper", "--samples", "2", "--k", "4"], "k: 4 is larger"),
        (["--tasks", "humaneval=no.jsonl"], "add --run-generated-code"),
        (["--tasks", "gsm8k=no.jsonl"], "matches no file"),
        (["--tasks", "gsm8k"], "openai/gsm8k of the hub"),
        (["--tasks", "recal:1"], "did you mean 'recall'"),
        (["--tasks", "recall:1", "--sampling", "hot"], "sampling"),
    ],
)
def test_mistakes_are_one_message_and_write_nothing(models, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    assert call(["evaluate", "--checkpoint", str(models / "nca0"), "--out", "out", *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_tokenizer_is_said(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        call(["evaluate", "--checkpoint", str(tiny_checkpoint), "--tasks", "recall:1", "--limit", "2", "--out", "out"])
        == 2
    )
    assert "no tokenizer there" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
