"""Clusters on one machine, each in a world of its own: a network with nothing but loopback, a process tree that ends with this script, mounts
that nobody else sees. `python scenes.py SCENE FOLDER`; started by test_clusters.py through `unshare`."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

APART = ("unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--mount-proc", "--kill-child", "--propagation", "private")  # fmt: skip
"""Starts a command in such a world."""
SET_FLAGS, UP, SET_ADDRESS = 0x8914, 0x41, 0x8916
"""SIOCSIFFLAGS; IFF_UP and IFF_RUNNING; SIOCSIFADDR."""
TRAIN = ("train", "two", "--out", "s")
PATIENCE = float(os.environ.get("SCENE_SECONDS", "240"))
"""Seconds that anything may take."""
RECIPE = '''"""Two regimes on one domain."""

from nca_interp.config import Domain, ModelConfig, Regime, Seeds, StageConfig, Study
from nca_interp.data.specs import NcaSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run


@run
def two() -> Study:
    """Two regimes on one domain: three runs that last long enough to be killed."""
    stage = StageConfig(steps=400, batch_size=4, lr=1e-3, eval_every=200, checkpoint_every=50, checkpoints="ends")
    return Study(
        name="two", title="Two regimes", precision="fp32", seeds=(Seeds(init=0, order=0, rules=0),), val_rows=8,
        model=ModelConfig(n_layers=2, d_model=32, n_heads=2, d_mlp=64, n_ctx=128), ppt=stage, pt=stage, ft=None,
        regimes=(Regime(name="scratch", label="scratch"), Regime(name="nca", label="NCA", source=NcaSpec(grid=8, n_states=2, band=None))),
        domains=(Domain(name="web", label="web", source=TextSpec(source="site:prose-b", tokenizer=TokenizerSpec(vocab_size=300), max_bytes=900_000)),),
    )
'''


def command(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    """The command line, as a user starts it."""
    words = [sys.executable, "-m", "nca_interp", *arguments]
    return subprocess.Popen(words, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it said, once it has ended as it should."""
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, (process.returncode, said)
    return said


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> None:
    """Until something is so."""
    begin = time.monotonic()
    while not what():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() - begin < PATIENCE, f"too slow: {what.__code__.co_firstlineno}"
        time.sleep(0.05)


def steps(folder: Path, run: str) -> int:
    """Steps that a run has reached."""
    path = folder / "s/runs" / run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def status(folder: Path, run: str) -> dict[str, Any]:
    """Its record."""
    return json.loads((folder / "s/runs" / run / "status.json").read_text())


def tasks() -> dict[str, psutil.Process]:
    """Workers of a Ray cluster by what they do."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        line = (process.info["cmdline"] or [""])[0]
        if line.startswith("ray::"):
            found[line.removeprefix("ray::")] = process
    return found


@contextmanager
def paused(chosen: Callable[[str], bool]) -> Iterator[list[psutil.Process]]:
    """Processes of such command lines, stopped while the block runs: nothing of them ends between a look and what is done about it."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if chosen(" ".join(process.info["cmdline"] or [])):
            with suppress(psutil.Error):
                process.suspend()
                found.append(process)
    try:
        yield found
    finally:
        for process in found:
            with suppress(psutil.Error):
                process.resume()


def head(cores: int = 1) -> Any:
    """A Ray cluster with one node of so many cores."""
    from ray.cluster_utils import Cluster

    small = {"num_cpus": cores, "object_store_memory": 80_000_000, "include_dashboard": False}
    return Cluster(initialize_head=True, head_node_args={**small, "node_ip_address": "127.0.0.1"})


def second(hidden: Path, address: str) -> subprocess.Popen[str]:
    """A further node of one core, which sees an empty folder in place of `hidden`."""
    start = (
        'mount -t tmpfs none "$1" && exec "$2" -m ray.scripts.scripts start --block --address="$3" --num-cpus=1 '
        "--object-store-memory=80000000 --node-ip-address=127.0.0.1"
    )
    words = ["unshare", "-m", "sh", "-c", start, "sh", str(hidden), sys.executable, address]
    return subprocess.Popen(words, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def lost(folder: Path) -> None:
    """A folder that one node does not see is refused; a worker is killed, then a node; a user's own actor never notices."""
    import ray

    from nca_interp.engine.ray_cluster import looked_at

    (folder / "hidden").mkdir()
    cluster = head()
    engine = ("--engine", f"ray:{cluster.address}")
    ray.init(address=cluster.address, log_to_driver=False)

    @ray.remote(num_cpus=0)
    class Theirs:
        n = 0

        def count(self) -> int:
            self.n += 1
            return self.n

    theirs = Theirs.options(name="theirs", lifetime="detached").remote()
    assert ray.get(theirs.count.remote()) == 1
    busy = Theirs.options(num_cpus=1).remote()  # on the first node, whose core it keeps: jobs go to the second one
    assert ray.get(busy.count.remote()) == 1
    node = second(folder / "hidden", cluster.address)
    wait_for(lambda: sum(n["Alive"] for n in ray.nodes()) == 2)
    both = ray.nodes()
    said = ended(command("train", "two", "--out", "hidden/s", *engine, folder=folder), 2)
    assert "is not shared" in said, said
    assert not list((folder / "hidden").iterdir())
    process = command(*TRAIN, *engine, folder=folder)
    other = command(
        *TRAIN, "--regime", "scratch", "--workers", "1", folder=folder
    )  # the embedded engine, on the same folder
    wait_for(lambda: steps(folder, "ppt.nca.s0") > 60, process)
    with paused(lambda line: line.startswith("ray::train:ppt.nca.s0")) as trainers:
        assert len(trainers) == 1
        assert steps(folder, "ppt.nca.s0") < 400, "it ended before it could be killed"
        trainers[0].kill()
    wait_for(lambda: steps(folder, "pt.nca.web.s0") > 60, process)
    with paused(lambda line: line.startswith("ray::train:pt.nca.web.s0")) as trainers:
        assert len(trainers) == 1
        assert steps(folder, "pt.nca.web.s0") < 400, "it ended before its node could be killed"
        raylet = trainers[0].parent()
        assert raylet is not None
        assert "raylet" in raylet.name()
        assert node.pid in {p.pid for p in raylet.parents()}
        raylet.kill()
    reached = steps(folder, "pt.nca.web.s0")
    ray.kill(busy)  # now there is room on the first node
    said = ended(process)
    assert reached < 400 == steps(folder, "pt.nca.web.s0") - 1
    assert "continues with: nca-interp train two" in said, said
    assert "trained: s" in said, said
    ended(other)
    with mock.patch("ray.nodes", return_value=both):  # listed as alive for a while after its death
        assert len(looked_at(folder / "s")) == 1
    ended(command("analyze", "s", *engine, folder=folder))
    assert ray.get(theirs.count.remote()) == 2


def beheaded(folder: Path) -> None:
    """The head goes: the command ends, nothing of it trains on; after the cluster is back the same command goes on, and Ctrl-C saves."""
    os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"  # noqa: SIM112  as Ray spells it
    cluster, more = head(), ("--set", "pt.steps=100000")
    process = command(*TRAIN, *more, "--regime", "nca", "--engine", f"ray:{cluster.address}", folder=folder)
    wait_for(lambda: steps(folder, "pt.nca.web.s0") > 60, process)
    before = (folder / "s/runs/ppt.nca.s0/status.json").read_bytes()
    cluster.head_node.kill_gcs_server(check_alive=False)
    process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    with suppress(Exception):
        cluster.shutdown()
    wait_for(lambda: not tasks())
    reached = steps(folder, "pt.nca.web.s0")
    time.sleep(1)
    assert steps(folder, "pt.nca.web.s0") == reached
    process = command(*TRAIN, *more, "--regime", "nca", "--engine", f"ray:{head().address}", folder=folder)
    wait_for(lambda: steps(folder, "pt.nca.web.s0") > reached, process)
    process.send_signal(signal.SIGINT)
    said = ended(process, 130)
    assert "everything is saved, continue with: nca-interp train two" in said, said
    assert status(folder, "pt.nca.web.s0")["state"] == "stopped"
    assert (folder / "s/runs/ppt.nca.s0/status.json").read_bytes() == before


SLURM = """
ClusterName=scene
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=30
MinJobAge=3600
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2
ReturnToService=2
KillWait=60
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd.pid
SlurmctldLogFile={at}/slurmctld.log
SlurmdLogFile={at}/slurmd.log
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def slurm(*words: str) -> str:
    """What a command of SLURM says."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout.strip()


def states() -> dict[str, str]:
    """Every job of the queue by name and task, with its state."""
    lines = slurm("squeue", "--all", "--states=all", "--noheader", "--format=%j %K %T").splitlines()
    return {f"{name}-{task}": state for name, task, state in (line.split() for line in lines if len(line.split()) == 3)}


def queue(folder: Path) -> None:
    """The script as it is printed, submitted: one task of the array is cancelled and requeued, analysis and report come by themselves."""
    subprocess.run(["hostname", "localhost"], check=True)
    at = folder / "slurm"
    for part in ("state", "spool"):
        (at / part).mkdir(parents=True)
    (at / "slurm.conf").write_text(SLURM.format(at=at))
    os.environ["SLURM_CONF"] = str(at / "slurm.conf")
    for server in ("slurmctld", "slurmd"):
        subprocess.Popen([shutil.which(server) or server, "-D"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: subprocess.run(["sinfo", "-h", "-t", "idle"], capture_output=True, text=True).stdout.strip())
    script = folder / "two.sh"
    asked = ("plan", "two", "--format", "slurm", "--tasks", "2", "--time", "30", "--rate", "1e10", "--out", "s")
    script.write_text(ended(command(*asked, folder=folder)))
    number = slurm("sbatch", "--parsable", str(script))
    run = "pt.scratch.web.s0"  # the smaller share, so the second one
    wait_for(lambda: steps(folder, run) > 60)
    with paused(lambda line: "multiprocessing.forkserver" in line):
        assert steps(folder, run) < 400, "it ended before it could be cancelled"
        slurm("scancel", f"{number}_1")
    wait_for(lambda: states().get("two-1") == "CANCELLED")
    wait_for(lambda: status(folder, run)["state"] == "stopped")
    slurm("scontrol", "requeue", f"{number}_1")
    for job in ("two-1", "two-0", "two-analyze-0", "two-report-0"):
        wait_for(lambda job=job: states().get(job) == "COMPLETED")
    assert (folder / "s/report.html").is_file()
    print(states())


def alone() -> None:
    """Bring loopback up, hide what else of Ray is on this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh14x", b"lo", UP))
        # getaddrinfo(AI_ADDRCONFIG), as SLURM calls it, takes a machine that has 127.0.0.1 alone for one without any address
        second = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton("127.0.0.2"))
        fcntl.ioctl(any_socket, SET_ADDRESS, second)
    Path("/tmp/ray").mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/tmp/ray"], check=True)
    os.environ.pop("RAY_ADDRESS", None)
    patience = {
        "raylet_start_wait_time_s": PATIENCE,
        "worker_register_timeout_seconds": PATIENCE,
        "health_check_timeout_ms": 60_000,
        "agent_register_timeout_ms": 1000 * PATIENCE,
        "gcs_rpc_server_connect_timeout_s": 60,
        "memory_monitor_refresh_ms": 0,  # how full this machine is is not what is tried here
    }
    os.environ |= {f"RAY_{name}": str(int(value)) for name, value in patience.items()}
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "NCA_INTERP_RAY_SECONDS": str(PATIENCE)}


if __name__ == "__main__":
    alone()
    signal.alarm(int(3 * PATIENCE))
    place = Path(sys.argv[2])
    (place / "runs").mkdir(exist_ok=True)
    (place / "runs/two.py").write_text(RECIPE)
    {"lost": lost, "beheaded": beheaded, "queue": queue}[sys.argv[1]](place)
