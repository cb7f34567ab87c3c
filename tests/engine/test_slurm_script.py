"""The printed script, run by bash with stand-ins for the queue's commands: whenever a signal comes, it is passed on once and answered right."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nca_interp.engine.engines import Resources
from nca_interp.engine.export import Commands
from nca_interp.engine.plan import make_plan
from nca_interp.engine.slurm import Ask, script
from tests.engine.test_change import STUDY

STANDS_IN = {
    "sbatch": 'echo "$NCA_INTERP_STAGE" >> submitted; sleep "${SUBMITTING:-0}"; echo 7',
    "scontrol": 'echo "$*" >> requeued',
    # saves within 0.3 s of being asked and says so, as training does; or has just ended as it is asked
    "work": 'trap "sleep 0.3; exit ${ANSWER:-143}" TERM; echo begun >> begun; for i in $(seq 100); do sleep 0.05; [ -e end ] && exit 0; done; exit 9',
}


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Starts the script as a task of an array."""
    for name, body in STANDS_IN.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    plan = make_plan(STUDY, "fp32", analyze=False)
    commands = Commands([str(tmp_path / "work")], ["true"], ["true"])
    text = script(plan, {"j": Resources(memory=1e9)}, commands, Ask(1, 1, 1, rate=1e9), tmp_path / "s", "nca-interp")
    (tmp_path / "job.sh").write_text(text)

    def start(**environment: str) -> subprocess.Popen[str]:
        task = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_MIN": "0"}
        known = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **task, **environment}
        return subprocess.Popen(
            ["bash", "job.sh"], env=known, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return start


def until(path: str) -> None:
    begin = time.monotonic()
    while not Path(path).exists():
        assert time.monotonic() - begin < 30, path
        time.sleep(0.01)


def code(task: subprocess.Popen[str]) -> int:
    said, _ = task.communicate(timeout=30)
    print(said)
    return task.returncode


@pytest.mark.parametrize(("sent", "again"), [(signal.SIGTERM, False), (signal.SIGUSR1, True)])
def test_a_signal_before_anything_has_begun_ends_the_task_before_it_begins(queue, sent, again):
    """The script waits for sbatch then; it once passed such a signal to its own process group, without end."""
    task = queue(SUBMITTING="0.5")
    until("submitted")
    task.send_signal(sent)
    assert code(task) == 143
    assert not Path("begun").exists()
    assert Path("requeued").exists() == again
    assert Path("submitted").read_text().split() == ["analyze", "report"]


@pytest.mark.parametrize(
    ("sent", "answer", "requeued"), [(signal.SIGTERM, 143, ""), (signal.SIGUSR1, 143, "requeue 5_0\n"), (signal.SIGUSR1, 0, "")]
)  # fmt: skip
def test_work_is_asked_to_save_and_only_the_end_of_time_requeues(queue, sent, answer, requeued):
    task = queue(ANSWER=str(answer))
    until("begun")
    task.send_signal(sent)
    time.sleep(0.1)
    task.send_signal(sent)  # some queues send it twice
    assert code(task) == answer
    assert (Path("requeued").read_text() if Path("requeued").exists() else "") == requeued
    assert Path("begun").read_text() == "begun\n"


def test_what_comes_later_is_submitted_once_by_whichever_start_comes_so_far(queue):
    task = queue(SUBMITTING="5")
    until("submitted")
    os.killpg(task.pid, signal.SIGKILL)  # the node dies as the first stage is submitted
    task.wait(timeout=30)
    assert not Path("tiny-5.later").exists()
    Path("end").touch()
    assert code(queue(SLURM_RESTART_COUNT="1")) == 0
    assert Path("tiny-5.later").read_text() == "analysis 7, report 7\n"
    assert code(queue(SLURM_RESTART_COUNT="2")) == 0
    assert Path("submitted").read_text().split() == ["analyze", "analyze", "report"]
