"""Finding a Ray cluster: whether it answers, whether its nodes see the folder, whether one of them has what a job needs. Every answer that is
no is a UserError, before anything is written."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from nca_interp.base import UserError
from nca_interp.engine.engines import Resources, distinct
from nca_interp.engine.ray_node import look

LEAST = (2, 60)
"""Version of Ray."""
LOOK = "NCA_INTERP_RAY_SECONDS"
"""Environment: how long a cluster or a node may take to answer."""
CONNECT_SECONDS, LOOK_SECONDS = 14.0, 60.0
"""That by default: of the cluster, of a node."""
PROBE = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level=40); print(len(ray.nodes()))"


class Node(NamedTuple):
    """A node of the cluster."""

    name: str
    cpus: float
    gpus: float
    memory: float
    gpu_bytes: float = 0.0
    """Of its smallest GPU; 0: unknown."""


def check(address: str) -> None:
    """UserError unless Ray is installed, new enough, and the address is one that this process may connect to."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("ray")
    except PackageNotFoundError:
        raise UserError(
            "--engine ray: Ray is not installed; it comes with the extra: pip install 'nca-interp[ray]'"
        ) from None
    if tuple(int(part) for part in found.split(".")[:2]) < LEAST:
        raise UserError(f"--engine ray: Ray {found} is installed; needed: {LEAST[0]}.{LEAST[1]} or later")
    if address == "local" or "://" in address or (":" in address and not address.rpartition(":")[2].isdecimal()):
        raise UserError(
            f"--engine ray:{address}: legal: ray (the cluster of this machine, or RAY_ADDRESS), ray:HOST:PORT of its head"
        )


def probe(address: str) -> None:
    """UserError unless a cluster answers: asked in a process of its own, since Ray itself would wait for minutes or end this one."""
    import subprocess
    import sys

    patience = float(os.environ.get(LOOK, CONNECT_SECONDS))
    nothing = f"--engine ray: no cluster answers at {address}"
    how = "start one (ray start --head) or give its address: --engine ray:HOST:PORT; none is started for you"
    if ":" in address:
        import socket

        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"{nothing} ({error}); {how}") from None
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, address], capture_output=True, text=True, timeout=patience, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UserError(f"{nothing} within {patience:.0f} s; {how}") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"{nothing}: {said[-1].strip()[:300] if said else 'it ended the connection'}; {how}")


def looked_at(folder: Path) -> list[Node]:
    """The living nodes of the cluster that this process is connected to. UserError where one of them does not read a token that is
    written into the folder now, or is of another version, or where none is left."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    token, text = folder / f".tmp-shared-{secrets.token_hex(8)}", secrets.token_hex(16)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        token.write_text(text)
        return _look_all(folder, token, text)
    except BaseException:
        token.unlink(missing_ok=True)
        for made in new:  # nothing stays of a command that was refused
            with suppress(OSError):
                made.rmdir()
        raise
    finally:
        token.unlink(missing_ok=True)


def _look_all(folder: Path, token: Path, text: str) -> list[Node]:
    from importlib.metadata import version

    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive, patience = [node for node in ray.nodes() if node["Alive"]], float(os.environ.get(LOOK, LOOK_SECONDS))
    refs = {}
    for node in alive:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        refs[ray.remote(look).options(num_cpus=0, scheduling_strategy=there, max_retries=0).remote(str(token))] = node
    done, silent = ray.wait(list(refs), num_returns=len(refs), timeout=patience)
    if silent:
        raise UserError(
            f"--engine ray: node {refs[silent[0]]['NodeManagerHostname']} did not answer within {patience:.0f} s"
        )
    nodes = []
    for ref in done:
        node, has = refs[ref], refs[ref]["Resources"]
        name = node["NodeManagerHostname"]
        try:
            found = ray.get(ref)
        except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
            continue  # died, and the cluster had not noticed when its nodes were listed
        except ray.exceptions.RayError as error:
            raise UserError(
                f"--engine ray: node {name} cannot do this work: {str(error).strip().splitlines()[-1]}"
            ) from None
        if found["token"] != text:
            raise UserError(
                f"--engine ray: {folder} is not shared: node {name} ({node['NodeManagerAddress']}) does not see what was just written "
                "there; choose a folder that all nodes share (--out)"
            )
        if found["version"] != version("nca-interp"):
            raise UserError(
                f"--engine ray: node {name} has nca-interp {found['version']}, here it is {version('nca-interp')}"
            )
        size = min(found["gpus"], default=0.0)
        nodes.append(Node(name, has.get("CPU", 0.0), has.get("GPU", 0.0), has.get("memory", 0.0), size))
    if not nodes:
        raise UserError(f"--engine ray: none of the {len(alive)} node(s) that the cluster lists takes a task")
    return nodes


def check_needs(needs: Mapping[str, Resources], nodes: list[Node], device: str) -> None:
    """UserError for the first job that no node has room for, even when it is idle."""
    from nca_interp.engine.cost import size

    if device == "cuda" and not any(node.gpus for node in nodes):
        raise UserError(f"--device cuda: none of the {len(nodes)} node(s) of the cluster has a GPU")
    for what, job in distinct(needs).items():
        fit = [node for node in nodes if node.cpus >= what.cpus]
        if not fit:
            most = max(node.cpus for node in nodes)
            raise UserError(f"{job}: needs {what.cpus} cores (--threads), the largest node of the cluster has {most:g}")
        if what.gpu_memory and not (fit := [node for node in fit if node.gpus >= 1]):
            raise UserError(f"{job}: needs a GPU, and no node of the cluster with {what.cpus} cores has a whole one")
        if what.gpu_memory and not (fit := [n for n in fit if not n.gpu_bytes or n.gpu_bytes >= what.gpu_memory]):
            raise UserError(
                f"{job}: needs about {size(what.gpu_memory)} of one GPU, and no GPU of the cluster has that"
            )
        if not any(node.memory >= what.memory for node in fit):
            raise UserError(
                f"{job}: needs about {size(what.memory)} of memory, the largest node of the cluster offers "
                f"{size(max(node.memory for node in fit))}; a smaller micro_batch needs less"
            )
