"""A phase diagram from the command line: what it says first, what it refuses, stopped anywhere and continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pandas as pd
import pytest

from tests.cli.test_app import CLI, call

TINY = [
    "train", "phase", "--workers", "1",
    *(
        argument
        for setting in (
            "grid.models=['tiny']", "grid.swaps=['small', 'crossed']", "grid.states=[2]", "grid.lrs=[1e-3]", "grid.synthetic_tokens=[2048]",
            "grid.language_tokens=2048", "grid.first_seeds=2", "grid.last_seed=3", "grid.val_rows=8", "grid.budget=4e10",
            "studies.tiny.domains.web.source.source=arithmetic:", "studies.tiny.domains.web.source.max_bytes=60000",
            "studies.tiny.domains.web.source.tokenizer.vocab_size=300",
        )
        for argument in ("--set", setting)
    ),
]  # fmt: skip


@pytest.mark.parametrize("recipe", ["laptop", "phase", "gpu"])
def test_dry_run_begins_with_what_the_recipe_can_and_cannot_conclude(tmp_path, recipe):
    result = call("train", recipe, "--dry-run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    about = result.stdout.partition("\nphase  " if recipe == "phase" else "\nstudy  ")[0]
    assert "Can conclude" in about
    assert "Cannot conclude" in about
    assert all(len(line) <= 80 for line in about.splitlines())
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_a_phase_says_what_it_costs_and_what_its_seeds_show(tmp_path):
    out = call("train", "phase", "--dry-run", cwd=tmp_path).stdout
    for said in (
        "budget 1.8e+15",
        "3 to 8 seeds a cell",
        "5% over all of them",
        "tiny.nca2.small.lr0.0005.1m",
        "next seed",
        "disk",
        "time",
    ):
        assert said in out, said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "1"], "--seed: goes with a recipe of one study"),
        (["--regime", "nca"], "--regime: goes with a recipe of one study"),
        (["--set", "grid.budget=1e9"], "budget: 1e+09 FLOPs; the first 3 seeds of 64 cells need"),
        (["--set", "grid.first_seeds=9"], "first_seeds: 9; legal: 2 to 8"),
        (["--set", "grid.swaps=['smal']"], "grid.swaps"),
        (["--set", "budgt=1e9"], "unknown key 'budgt'; did you mean 'budget'"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(tmp_path, arguments, message):
    result = call("train", "phase", *arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stdout
    assert message.removeprefix("grid.swaps") in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_stopped_anywhere_it_goes_on_and_ends_with_a_table_and_a_page(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    process = subprocess.Popen([*CLI, *TINY], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "runs" / "out" / "phase"
    begun = time.monotonic()
    while (
        not list(folder.glob("tiny/runs/*/status.json")) and process.poll() is None and time.monotonic() - begun < 240
    ):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "continue with: " in said
    table = folder / "tables" / "phase.csv"
    assert (pd.read_csv(table).n < 2).any()
    ended = call(*TINY, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    cells = pd.read_csv(table)
    assert (cells.n >= 2).all()
    assert cells.state.isin(["settled", "more seeds", "no more seeds"]).all()
    spent = json.loads((folder / "phase.json").read_text())["spent"]
    assert 0 < spent <= 4e10
    before, stamps = table.read_bytes(), {p: p.stat().st_mtime for p in folder.glob("tiny/runs/*/metrics.jsonl")}
    assert call(*TINY, cwd=tmp_path).returncode == 0
    assert table.read_bytes() == before
    assert {p: p.stat().st_mtime for p in folder.glob("tiny/runs/*/metrics.jsonl")} == stamps
    (folder / "report.html").unlink()
    assert call("report", "runs/out/phase", cwd=tmp_path).returncode == 0
    assert (folder / "report.html").is_file()
    assert "it holds studies: tiny" in call("watch", "runs/out/phase", "--once", cwd=tmp_path).stderr
