"""Running a plan: two commands at once, a file system that fills up, and what a worker has to say without a disk."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from contextlib import suppress

import psutil
import pytest

from nca_interp import discover
from nca_interp.engine.inline import run_inline
from nca_interp.engine.plan import make_plan
from nca_interp.files import held
from nca_interp.store import StudyDir, write_json
from nca_interp.train.health import Diverged
from tests.cli.test_app import CLI, call


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


def test_a_command_waits_takes_over_and_is_interrupted(tmp_path):
    """While another process holds the run it waits; then it trains; Ctrl-C saves, and says how to go on."""
    arguments = ["train", "smoke", "--regime", "nca", "--domain", "web", "--seed", 0, "--out", tmp_path / "s"]
    study = StudyDir(tmp_path / "s")
    run = study.run("ppt.nca.s0")
    process = launch(*arguments, "--set", "ppt.steps=100000", "--set", "ppt.checkpoints=ends", cwd=tmp_path)
    wait_for(study.config.exists, process)
    with held(run.lock, lambda: "busy"):
        write_json(run.status_file, {"state": "running", "step": 0, "pid": 7, "host": "elsewhere", "time": 0})
        said = ""
        while "waiting:" not in said:
            said = process.stderr.readline()
            assert said, process.communicate()
        assert "process 7 on elsewhere is training this run" in said
        assert run.read_metrics() == []
    wait_for(lambda: len(run.read_metrics()) > 3, process)
    shown = json.loads(call("watch", study.path, "--json", cwd=tmp_path).stdout)
    states = {row["run"]: row["state"] for row in shown["runs"]}
    assert (states["ppt.nca.s0"], states["pt.nca.web.s0"]) == ("running", "not begun")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; everything is saved, continue with: nca-interp train smoke --regime nca" in errors
    assert run.status()["state"] == "stopped"
    assert run.state_steps()[-1] == run.status()["step"] == run.read_metrics()[-1]["step"]
    once = call("watch", study.path, "--once", cwd=tmp_path).stdout
    assert "0 of 32 runs done, 1 stopped" in once


def test_a_signal_to_every_process_is_one_request_to_stop(tmp_path):
    """As srun, timeout and Ctrl-C under a launcher send it: server, workers and parent all get it, some more than once."""
    out = tmp_path / "a folder's name"
    process = launch(
        *("train", "smoke", "--regime", "nca", "--domain", "web", "--seed", 0, "--workers", 1, "--out", out),
        *("--set", "ppt.steps=100000", "--set", "ppt.checkpoint_every=100000", "--set", "ppt.checkpoints=ends"),
        cwd=tmp_path,
    )
    run = StudyDir(out).run("ppt.nca.s0")
    wait_for(lambda: len(run.read_metrics()) > 3, process)
    everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for _ in range(2):
        for each in everyone:
            with suppress(psutil.NoSuchProcess):
                each.terminate()
        time.sleep(0.02)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "failed" not in errors
    command = errors.rpartition("stopped; everything is saved, continue with: nca-interp ")[2]
    assert shlex.split(command)[-6:-4] == ["--set", "ppt.steps=100000"]
    assert str(out) in shlex.split(command)
    assert run.status()["state"] == "stopped"
    assert run.state_steps() == [run.status()["step"]] == [run.read_metrics()[-1]["step"]]


def test_one_after_the_other_a_diverged_run_blocks_only_what_needs_it(tmp_path, monkeypatch):
    plan = make_plan(discover.find("runs", "smoke").value(), "fp32", domain="web", seed=0, analyze=False)
    done = []

    def execute(study, job, probes):
        if job.id == "train:ppt.nca.s0":
            raise Diverged("loss is not finite")
        done.append(job.id)

    monkeypatch.setattr("nca_interp.engine.inline.execute", execute)
    outcome = run_inline(StudyDir(tmp_path), plan)
    blocked = {"train:pt.nca.web.s0", "train:pt.nca-reinit-attn.web.s0"}
    assert outcome.messages == {"train:ppt.nca.s0": "loss is not finite"}
    assert outcome.failed == ["train:ppt.nca.s0"]
    assert {job for job, state in outcome.states.items() if state == "blocked"} == blocked
    assert set(done) == {job.id for job in plan.jobs} - blocked - {"train:ppt.nca.s0"}


def test_a_file_system_of_50_mb_that_fills_up(tmp_path):
    """One sentence, exit 1, nothing before it lost; with room again the same command ends well."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        changes = ["--set", "pt.steps=300", "--set", "pt.checkpoint_every=10"]
        arguments = ["train", "smoke", "--regime", "scratch", "--domain", "web", "--seed", 0, "--out", small / "s"]
        both = [launch(*arguments, *changes, cwd=tmp_path) for _ in range(2)]  # at once: one trains, the other waits
        run = StudyDir(small / "s").run("pt.scratch.web.s0")
        wait_for(lambda: 20 in run.steps(), both[0])
        ballast = small / "ballast"
        with suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        for process in both:  # the one that waited takes over, and meets the same disk
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
