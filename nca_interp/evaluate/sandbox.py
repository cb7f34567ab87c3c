"""Run programs that a model wrote: in a sandbox, or not at all. Linux only.

First choice bubblewrap: no network, own process, IPC and user namespaces, the system read-only, a small file system in memory,
started as an unprivileged user, because limits on processes do not bind root. Second choice sandlock (Landlock and seccomp, no
namespaces). Which of them works is tried, not assumed: a program must run, and each thing that it must not do must fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from nca_interp.base import UserError
from nca_interp.evaluate.confine import DRIVER as DRIVER
from nca_interp.evaluate.confine import LIMITS, Limits, Verdict, command, interpreter, under_bubblewrap, under_sandlock


class Sandbox(NamedTuple):
    """One way to run a program that works on this machine."""

    name: str
    run: Callable[[str, Limits], Verdict]


PROBE = """
import os, socket
def refused(do):
    try:
        do()
    except OSError:
        return True
    return False
def connect():
    s = socket.socket(); s.settimeout(1); s.connect(("127.0.0.1", 9))
def children():
    for _ in range(200):
        if os.fork() == 0:
            import time; time.sleep(5); os._exit(0)
assert refused(lambda: open("/usr/nca_interp_probe", "w")), "writes"
assert refused(connect), "network"
assert refused(lambda: os.kill(%(parent)d, 0)), "signals"
assert "NCA_INTERP_PROBE" not in os.environ, "environment"
assert refused(lambda: os.listdir(%(home)r)), "files of the user"
assert refused(children), "processes"
"""
"""What must be refused in a sandbox that is used."""


def working() -> tuple[Sandbox | None, str]:
    """The first sandbox that works here, or None and why none does."""
    reasons = []
    for name, found in candidates().items():
        if isinstance(found, str):
            reasons.append(f"{name}: {found}")
        elif (why := _tried(found)) is None:
            return found, ""
        else:
            reasons.append(f"{name}: {why}")
    return None, "; ".join(reasons)


def sandbox() -> Sandbox:
    """The sandbox of this machine; UserError says why there is none."""
    found, why = _working()
    if found is None:
        raise UserError(
            f"--run-generated-code: no sandbox works on this machine ({why}); programs that a model wrote never run without one. "
            "On Debian: apt-get install bubblewrap; without user namespaces: pip install sandlock"
        )
    return found


@lru_cache
def _working() -> tuple[Sandbox | None, str]:
    return working()


@lru_cache
def candidates() -> dict[str, Sandbox | str]:
    """Both sandboxes by name; a sentence where one cannot even be tried."""
    if sys.platform != "linux":
        return {"bubblewrap": "programs are run on Linux only"}
    found: dict[str, Sandbox | str] = {}
    python = interpreter()
    tools = [
        tool for tool in ("bwrap", "prlimit", *(["setpriv"] if os.geteuid() == 0 else [])) if not shutil.which(tool)
    ]
    found["bubblewrap"] = (
        f"not installed: {', '.join(tools)}" if tools
        else "no Python that every user may read" if python is None
        else Sandbox("bubblewrap", partial(under_bubblewrap, python))
    )  # fmt: skip
    try:
        import sandlock

        enough = sandlock.landlock_abi_version() >= sandlock.min_landlock_abi()
        found["sandlock"] = (
            Sandbox("sandlock", partial(under_sandlock, python)) if enough and python is not None
            else f"the kernel has Landlock {sandlock.landlock_abi_version()}, {sandlock.min_landlock_abi()} is needed"
        )  # fmt: skip
    except ImportError:
        found["sandlock"] = "not installed"
    except Exception as error:  # a library that does not load
        found["sandlock"] = str(error)
    return found


def run_all(programs: Sequence[str], limits: Limits = LIMITS, workers: int | None = None) -> list[Verdict]:
    """Run programs, several at a time, each in a sandbox of its own. UserError where no sandbox works."""
    box = sandbox()
    with ThreadPoolExecutor(workers or max(1, len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(lambda program: box.run(program, limits), programs))


def _tried(box: Sandbox) -> str | None:
    """Why a sandbox is not used; None where it is."""
    limits = Limits(seconds=20.0)
    os.environ["NCA_INTERP_PROBE"] = "1"
    try:
        if not (first := box.run("x = 1\n", limits)).passed:
            return f"a program that does nothing {first.how}: {_complaint(box)}"
        home = str(Path.home()) if str(Path.home()) not in ("/", "/nonexistent") else "/root"
        if not box.run(PROBE % {"parent": os.getpid(), "home": home}, limits).passed:
            return "it does not refuse all that it must"
    except Exception as error:  # whatever a sandbox raises, it is not used
        return str(error)
    finally:
        del os.environ["NCA_INTERP_PROBE"]
    return None


def _complaint(box: Sandbox) -> str:
    """What bubblewrap says where it cannot start."""
    python = interpreter()
    if box.name != "bubblewrap" or python is None:
        return "no reason given"
    done = subprocess.run(
        command(python, Limits(), "pass"), stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
    )
    return " ".join(done.stderr.decode(errors="replace").split())[:200] or "no reason given"
