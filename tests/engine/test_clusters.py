"""The same study on this machine, on a Ray cluster of two nodes and through a SLURM queue: the same tables, whatever is killed.

Each cluster runs in namespaces of its own (scenes.py): loopback is all there is of a network, and nothing outlives the scene.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from nca_interp.cli.app import call as main
from nca_interp.engine.engines import Resources
from nca_interp.engine.slurm import seconds_of
from nca_interp.errors import UserError
from tests.cli.test_app import call
from tests.engine.scenes import APART, PATIENCE, RECIPE

CLOCK = ["tokens_per_second", "loader_share"]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra [ray])")
needs_slurm = pytest.mark.skipif(
    not all(map(shutil.which, ("slurmctld", "slurmd", "sbatch"))),
    reason="SLURM is not installed (apt-get install slurm-wlm)",
)


def play(scene: str, folder: Path) -> None:
    """Run a scene to its end."""
    if subprocess.run([*APART, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make namespaces, without which servers would listen on more than loopback")
    environment = {**os.environ, "HOME": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(Path(__file__).with_name("scenes.py")), scene, str(folder)]
    done = subprocess.run([*APART, *script], capture_output=True, text=True, env=environment, timeout=3 * PATIENCE + 30)
    logs = [path.read_text()[-2000:] for path in sorted(folder.glob("*.log"))]
    assert done.returncode == 0, "\n".join([done.stdout, done.stderr[-4000:], *logs])


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """The study as the embedded engine makes it, undisturbed; two commands at once share it."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "runs").mkdir()
    (folder / "runs/two.py").write_text(RECIPE)
    words = [sys.executable, "-m", "nca_interp", "train", "two", "--out", "s", "--workers", "1"]
    other = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for arguments in (["train", "two", "--out", "s", "--workers", "1"], ["analyze", "s", "--workers", "1"]):
        done = call(*arguments, cwd=folder)
        assert done.returncode == 0, done.stderr
    assert other.wait(timeout=PATIENCE) == 0, other.communicate()
    return folder / "s"


def same(here: Path, there: Path) -> None:
    """Weights and tables bit for bit, but for what was measured of time."""
    for path in here.glob("runs/*/checkpoints/*/model.safetensors"):
        other = there / path.relative_to(here)
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest(), path
    tables = sorted(path.name for path in (here / "tables").glob("*.csv"))
    assert tables == sorted(path.name for path in (there / "tables").glob("*.csv"))
    for name in tables:
        a, b = (pd.read_csv(folder / "tables" / name).drop(columns=CLOCK, errors="ignore") for folder in (here, there))
        if name == "plan.csv":  # the day when the plan was kept
            a, b = (table[table["item"] != "kept at"] for table in (a, b))
        pd.testing.assert_frame_equal(a, b, check_exact=True, obj=name)


@needs_ray
def test_a_worker_and_a_node_of_a_ray_cluster_are_lost(here, tmp_path):
    play("lost", tmp_path)
    same(here, tmp_path / "s")


@needs_ray
def test_the_head_of_a_ray_cluster_is_lost_and_comes_back(tmp_path):
    play("beheaded", tmp_path)


@needs_slurm
def test_a_queue_does_the_printed_script(here, tmp_path):
    play("queue", tmp_path)
    same(here, tmp_path / "s")


def test_an_engine_that_is_not_there_is_named(tmp_path, monkeypatch):
    from nca_interp.engine import ray_cluster

    def absent(name):
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr("importlib.metadata.version", absent)
    with pytest.raises(UserError, match=r"not installed.*nca-interp\[ray\]"):
        ray_cluster.check("")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.9.1")
    with pytest.raises(UserError, match=r"Ray 2\.9\.1 is installed; needed: 2\.60"):
        ray_cluster.check("")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.60.0")
    for wrong in ("local", "ray://host:10001", "host:port"):
        with pytest.raises(UserError, match="HOST:PORT"):
            ray_cluster.check(wrong)


@needs_ray
def test_no_cluster_or_a_silent_one_is_one_message(tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        done = call("train", "smoke", "--out", "s", "--engine", f"ray:{address}", cwd=tmp_path)
    assert done.returncode == 2
    assert f"error: --engine ray: no cluster answers at {address}" in done.stderr
    assert not (tmp_path / "s").exists()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        from nca_interp.engine.ray_cluster import LOOK, probe

        monkeypatch.setenv(LOOK, "3")
        begin = time.monotonic()
        with pytest.raises(UserError, match="no cluster answers at .* within 3 s"):
            probe(f"127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - begin < 20


def test_a_node_that_joined_later_and_does_not_see_the_folder_hands_its_task_back(tmp_path, monkeypatch):
    """Nothing is written there, so nothing is taken for done; the runner gives the job out again."""
    from nca_interp.engine import ray_node
    from nca_interp.engine.engines import Asked
    from nca_interp.engine.graph import Job, MeasureJob
    from nca_interp.engine.worker import EXIT_BUSY

    done = []
    asked = Asked(tmp_path / "s", lambda device: {}, body=lambda *given: done.append(given), kinds=frozenset())
    job = Job("j", "measure", MeasureJob("x", "r"), (), 0.0)
    task = ray_node.Task(asked, job, False, tmp_path, {}, tmp_path / "s" / "jobs" / "driver-1.jsonl")
    monkeypatch.setattr(ray_node, "SEE_SECONDS", 0.01)
    monkeypatch.setattr(ray_node, "_compute_on", lambda asked: None)  # this process has its threads
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.chdir(tmp_path)
    code, said = ray_node.perform(task)
    assert code == EXIT_BUSY
    assert f"does not see {tmp_path / 's'}" in said
    assert not (tmp_path / "s").exists()
    assert not done
    task.seen.parent.mkdir(parents=True)
    task.seen.touch()
    assert ray_node.perform(task) == (0, "")
    assert len(done) == 1


def test_a_cluster_without_what_a_job_needs_is_refused():
    from nca_interp.engine.ray_cluster import Node, check_needs

    small, large = Node("small", 2, 0, 4e9), Node("large", 8, 1, 64e9, 24e9)
    check_needs({"j": Resources(1, 1e9)}, [small], "auto")
    check_needs({"j": Resources(4, 1e9, 20e9)}, [small, large], "auto")
    for needs, nodes, device, said in (
        (Resources(), [small], "cuda", "--device cuda: none of the 1 node"),
        (Resources(4), [small], "auto", "needs 4 cores"),
        (Resources(1, 1e9, 20e9), [small], "auto", "needs a GPU"),
        (Resources(1, 1e9, 30e9), [small, large], "auto", "of one GPU"),
        (Resources(1, 8e9), [small], "auto", "of memory, the largest node"),
    ):
        with pytest.raises(UserError, match=said):
            check_needs({"j": needs}, nodes, device)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-2", 93_600), ("1-2:30", 95_400), ("1-2:30:05", 95_405)],
)
def test_time_limits_are_read_as_sbatch_reads_them(text, seconds):
    assert seconds_of(text) == seconds


def test_plans_for_others(tmp_path):
    """The script holds what was asked; a limit that is too short is refused; make finds its way through the graph."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/two.py").write_text(RECIPE)
    asked = ("plan", "two", "--format", "slurm", "--out", "s", "--set", "pt.steps=500", "--rate", "1e9")
    done = call(*asked, "--time", "2:00:00", "--gpus", 2, "--tasks", 9, "--sbatch=--account=x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for line in (
        "--array=0-1",
        "--gpus=2",
        "--time=02:00:00",
        "--requeue",
        "--signal=B:USR1@",
        "--account=x",
        "cpus-per-task=2",
    ):
        assert line in done.stdout, done.stdout
    assert "train two --set pt.steps=500" in done.stdout
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True).returncode == 0
    short = call(*asked, "--time", "0:30", cwd=tmp_path)
    assert short.returncode == 2
    assert "--time 0:30: shorter than" in short.stderr
    made = call("plan", "two", "--format", "make", "--out", "s p$a#c:d'e", cwd=tmp_path)
    (tmp_path / "Makefile").write_text(made.stdout)
    if shutil.which("make"):
        told = subprocess.run(["make", "-n", "-C", tmp_path], capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        order = [line.split("--job ")[-1].split()[0].strip("'") for line in told.stdout.splitlines() if "--job" in line]
        assert (
            order.index("train:ppt.nca.s0") < order.index("train:pt.nca.web.s0") < order.index("probes:pt.nca.web.s0")
        )
        assert "report" in told.stdout.splitlines()[-2]
        assert not list(tmp_path.glob("s*"))
        (tmp_path / "nothing").symlink_to(shutil.which("true"))
        (tmp_path / "Makefile").write_text(re.sub(r"\t\S*nca-interp", "\t./nothing", made.stdout))
        for begun in (True, False):  # what is made is known again
            told = subprocess.run(["make", "-C", tmp_path], capture_output=True, text=True)
            assert told.returncode == 0, told.stderr
            assert ("--job" in told.stdout) == begun
    assert not (tmp_path / "s").exists()


def test_what_a_script_or_makefile_cannot_hold_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/two.py").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    for words, said in (
        (("slurm", "--sbatch", "--account=x\nrm y"), "--sbatch '--account=x\\nrm y': legal: one option"),
        (("slurm", "--sbatch", "account=x"), "--sbatch 'account=x': legal: one option"),
        (("slurm", "--rate", "inf"), "--rate inf: legal"),
        (("slurm", "--out", "a\nb"), "holds a line break"),
        (("make", "--out", "50%"), "holds % or a line break"),
    ):
        assert main(["plan", "two", "--format", *words]) == 2
        assert said in capsys.readouterr().err
