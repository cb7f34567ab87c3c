"""Running a plan: two commands at once, a file system that fills up, and what a worker has to say without a disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress

import pytest

from nca_interp.store import StudyDir
from tests.test_cli import CLI, call


def launch(*arguments, cwd):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "150"}
    return subprocess.Popen(
        [*CLI, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(condition, process, seconds=120):
    begin = time.monotonic()
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - begin < seconds
        time.sleep(0.01)


def test_a_second_command_waits_and_takes_over(tmp_path):
    """Started twice: one trains, the other waits; after Ctrl-C on the first, the second ends the study."""
    arguments = ["train", "smoke", "--regime", "nca", "--domain", "web", "--seed", 0, "--out", tmp_path / "s"]
    changes = ["--set", "ppt.steps=1500", "--set", "ppt.checkpoints=ends", "--set", "pt.checkpoints=ends"]
    study = StudyDir(tmp_path / "s")
    first = launch(*arguments, *changes, cwd=tmp_path)
    parent = study.run("ppt.nca.s0")
    wait_for(lambda: len(parent.read_metrics()) > 3, first)
    second = launch(*arguments, *changes, cwd=tmp_path)
    waiting = second.stderr.readline()
    while "waiting:" not in waiting:
        assert waiting, second.communicate()
        waiting = second.stderr.readline()
    assert f"process {parent.status()['pid']} on" in waiting
    shown = json.loads(call("watch", study.path, "--json", cwd=tmp_path).stdout)
    states = {row["run"]: row["state"] for row in shown["runs"]}
    assert (states["ppt.nca.s0"], states["pt.nca.web.s0"]) == ("running", "not begun")
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "stopped; everything is saved, continue with: nca-interp train smoke --regime nca" in errors
    stopped_at = parent.state_steps()[-1]
    _, errors = second.communicate(timeout=200)
    assert second.returncode == 0, errors
    assert parent.status()["step"] == 1500 > stopped_at
    assert [row["step"] for row in parent.read_metrics()] == list(range(1501))
    once = call("watch", study.path, "--once", cwd=tmp_path).stdout
    assert "2 of 32 runs done" in once
    assert "running" not in once


def test_a_file_system_of_50_mb_that_fills_up(tmp_path):
    """One sentence, exit 1, nothing before it lost; with room again the same command ends well."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        changes = ["--set", "pt.steps=300", "--set", "pt.checkpoint_every=10"]
        arguments = ["train", "smoke", "--regime", "scratch", "--domain", "web", "--seed", 0, "--out", small / "s"]
        process = launch(*arguments, *changes, cwd=tmp_path)
        run = StudyDir(small / "s").run("pt.scratch.web.s0")
        wait_for(lambda: 20 in run.steps(), process)
        ballast = small / "ballast"
        with suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1, errors
        assert "No space left on device" in errors
        assert "everything written before is intact" in errors
        assert "Traceback" not in errors
        assert not list(small.rglob(".tmp-*"))
        ballast.unlink()
        again = call(*arguments, *changes, cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert [row["step"] for row in run.read_metrics()] == list(range(301))
        assert run.steps()[-1] == 300
        assert not run.states.exists()
    finally:
        subprocess.run(["umount", small], check=True)
