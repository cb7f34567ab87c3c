"""Workers that go on with the next measurement, and what happens where one dies."""

from __future__ import annotations

import json
import shutil

from tests.cli.test_app import call

WHO = '''"""Which process measured."""

import os
import signal

import pandas as pd
from nca_interp import Measurement, keep


def measure(run, asked):
    if run.id == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    keep(run.kept("who", run.steps[-1]), pd.DataFrame({"value": [float(os.getpid())]}), {})
    return ["this one has a problem"] if run.id == "failing" else []


def tables(collection, tables, asked):
    kept = {run.id: run.kept("who", run.steps[-1]) for run in collection.runs}
    return {"who": pd.DataFrame([{"run": n, "pid": pd.read_csv(p).value[0]} for n, p in kept.items() if p.is_file()])}


MEASUREMENT = Measurement("who", "Which process measured.", 5, measure=measure, tables=tables, columns={"who": "run pid"})
'''


def test_one_process_measures_one_after_the_other_until_it_dies(tmp_path, tiny_checkpoint):
    (tmp_path / "measurements").mkdir()
    (tmp_path / "measurements" / "who.py").write_text(WHO)
    names = ("first", "second", "killed", "third", "failing", "last")
    for name in names:
        shutil.copytree(tiny_checkpoint, tmp_path / name)
    checkpoints = [word for name in names for word in ("--checkpoint", name)]
    done = call("analyze", *checkpoints, "--out", "out", "--only", "who", "--workers", 1, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "who:killed: its process was ended by SIGKILL" in done.stderr
    assert "who:failing: this one has a problem" in done.stderr
    lines = (tmp_path / "out/tables/who.csv").read_text().split()[1:]
    pids = dict(line.split(",") for line in lines)
    assert set(pids) == set(names) - {"killed"}
    assert pids["first"] == pids["second"] != pids["third"]
    assert pids["third"] == pids["failing"] == pids["last"]
    assert json.loads((tmp_path / "out/report.json").read_text())
