"""Ray clusters of two nodes on one machine, in a world of their own: a network with nothing but loopback, a process tree that ends with this
script, mounts that nobody else sees. `python scenes.py SCENE FOLDER`; started by test_ray.py through `unshare`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import ray
from ray.cluster_utils import Cluster

STUDY = ("train", "smoke", "--regime", "nca", "--domain", "web", "--seed", "0", "--set", "precision=fp32")
LONG = (
    "--set",
    "ppt.steps=60",
    "--set",
    "pt.steps=60",
    "--set",
    "ppt.checkpoint_every=10",
    "--set",
    "pt.checkpoint_every=10",
)
BETWEEN = 240.0
"""Seconds that anything may take: the machine may be busy."""


def command(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    """The command line, as a user starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "nca_interp", *arguments], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )  # fmt: skip


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it said, once it has ended as it should."""
    said, _ = process.communicate(timeout=BETWEEN)
    assert process.returncode == code, (process.returncode, said)
    return said


def wait_for(what, process: subprocess.Popen[str] | None = None) -> None:
    """Until something is so."""
    begin = time.monotonic()
    while not what():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() - begin < BETWEEN, "too slow"
        time.sleep(0.05)


def head() -> Cluster:
    """A cluster with one node of one core."""
    arguments = {
        "num_cpus": 1,
        "object_store_memory": 80_000_000,
        "include_dashboard": False,
        "node_ip_address": "127.0.0.1",
    }
    return Cluster(initialize_head=True, head_node_args=arguments)


def second(hidden: Path, address: str) -> subprocess.Popen[str]:
    """A further node of one core, which sees an empty folder in place of `hidden`."""
    start = (
        'mount -t tmpfs none "$1" && exec "$2" -m ray.scripts.scripts start --block --address="$3" --num-cpus=1 '
        "--object-store-memory=80000000 --node-ip-address=127.0.0.1"
    )
    words = ["unshare", "-m", "sh", "-c", start, "sh", str(hidden), sys.executable, address]
    return subprocess.Popen(words, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def steps(folder: Path, run: str) -> int:
    """Lines of a run's metrics."""
    path = folder / "runs" / run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def kill_worker(name: str) -> None:
    """SIGKILL the worker of the cluster that does a job."""
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.Error):
            if (
                process.info["cmdline"]
                and process.info["cmdline"][0].startswith("ray::")
                and name in process.info["cmdline"][0]
            ):
                process.kill()
                return
    raise AssertionError(f"nobody does {name}: {[p.info['cmdline'] for p in psutil.process_iter(['cmdline'])]}")


def lost(folder: Path) -> None:
    """A worker is killed, then a node; a study ends as if nothing had been, and a user's own actor never notices."""
    (folder / "hidden").mkdir()
    cluster = head()
    node, engine = second(folder / "hidden", cluster.address), ("--engine", f"ray:{cluster.address}")
    ray.init(address=cluster.address, log_to_driver=False)

    @ray.remote(num_cpus=0)
    class Theirs:
        n = 0

        def count(self) -> int:
            self.n += 1
            return self.n

    theirs = Theirs.options(name="theirs", lifetime="detached").remote()
    assert ray.get(theirs.count.remote()) == 1
    wait_for(lambda: sum(n["Alive"] for n in ray.nodes()) == 2)
    said = ended(command(*STUDY, "--out", "hidden/s", *engine, folder=folder), 2)
    assert "is not shared" in said, said
    assert not list((folder / "hidden").iterdir())
    process = command(*STUDY, *LONG, "--out", "s", *engine, folder=folder)
    wait_for(lambda: steps(folder / "s", "ppt.nca.s0") > 5, process)
    kill_worker("train:ppt.nca.s0")
    wait_for(lambda: steps(folder / "s", "pt.nca.web.s0") > 5, process)
    raylets = [p for p in psutil.Process(node.pid).children(recursive=True) if "raylet" in p.name()]
    assert len(raylets) == 1, raylets
    raylets[0].kill()
    said = ended(process)
    assert "trained: s" in said, said
    assert "continues with: nca-interp train smoke" in said, said
    said = ended(command("analyze", "s", "--only", "probes", *engine, folder=folder))
    assert ray.get(theirs.count.remote()) == 2
    print(json.dumps([node["Alive"] for node in ray.nodes()]))


def beheaded(folder: Path) -> None:
    """The head goes: the command ends at once, nothing of it trains on; after the cluster is back the same command goes on."""
    os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"  # noqa: SIM112
    cluster = head()
    engine = ("--engine", f"ray:{cluster.address}")
    process = command(*STUDY, *LONG, "--set", "pt.steps=3000", "--out", "s", *engine, folder=folder)
    wait_for(lambda: steps(folder / "s", "pt.nca.web.s0") > 5, process)
    before = (folder / "s/runs/ppt.nca.s0/status.json").read_bytes()
    cluster.head_node.kill_gcs_server(check_alive=False)
    process.communicate(timeout=BETWEEN)
    assert process.returncode != 0
    with suppress(Exception):
        cluster.shutdown()
    wait_for(lambda: not [p for p in psutil.process_iter(["cmdline"]) if "ray::" in "".join(p.info["cmdline"] or [])])
    reached = steps(folder / "s", "pt.nca.web.s0")
    time.sleep(1)
    assert steps(folder / "s", "pt.nca.web.s0") == reached
    engine = ("--engine", f"ray:{head().address}")
    process = command(*STUDY, *LONG, "--set", "pt.steps=3000", "--out", "s", *engine, folder=folder)
    wait_for(lambda: steps(folder / "s", "pt.nca.web.s0") > reached, process)
    process.send_signal(signal.SIGINT)
    said = ended(process, 130)
    assert "everything is saved, continue with: nca-interp train smoke" in said, said
    status = json.loads((folder / "s/runs/pt.nca.web.s0/status.json").read_text())
    assert (status["state"], status["signal"]) == ("stopped", signal.SIGINT), status
    assert (folder / "s/runs/ppt.nca.s0/status.json").read_bytes() == before


def alone() -> None:
    """Bring loopback up, hide what else of Ray is on this machine."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/tmp/ray").mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/tmp/ray"], check=True)
    os.environ |= {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "NCA_INTERP_RAY_SECONDS": "120",
        "RAY_ADDRESS": "",
    }
    os.environ.pop("RAY_ADDRESS")


if __name__ == "__main__":
    alone()
    signal.alarm(540)
    {"lost": lost, "beheaded": beheaded}[sys.argv[1]](Path(sys.argv[2]))
