"""Memory that really is short: the kernel ends a worker in a control group that is too small; an allocation fails under a limit."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nca_interp.engine.engines import Asked
from nca_interp.engine.graph import Job, MeasureJob, Plan
from nca_interp.engine.local import LocalEngine
from nca_interp.engine.memory import groups, oom_kills
from nca_interp.engine.runner import run_plan
from nca_interp.store import AnalysisDir

LIMIT = 2 * 2**30


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group of LIMIT bytes inside that of this process; gone afterwards."""
    inside = next((folder for folder in groups() if (folder / "cgroup.procs").exists()), None)
    if inside is None:
        pytest.skip("no control group of this process holds its memory")
    group, limit = inside / f"nca-interp-{os.getpid()}", None
    try:
        with suppress(OSError):  # of version 2, whose groups hold memory where their parent says so
            (inside / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
        limit = next(group / name for name in ("memory.max", "memory.limit_in_bytes") if (group / name).exists())
        limit.write_text(str(LIMIT))
        for swap in ("memory.swap.max", "memory.memsw.limit_in_bytes"):
            with suppress(OSError):
                (group / swap).write_text("0" if "max" in swap else str(LIMIT))
    except (OSError, StopIteration) as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"this user may not make a control group of limited memory in {inside} ({error!r})")
    yield group
    for _ in range(100):
        try:
            group.rmdir()
            return
        except OSError:  # its last process is ending
            time.sleep(0.1)
    group.rmdir()


def test_a_worker_that_the_kernel_ends_for_want_of_memory_is_told_from_one_that_somebody_kills(small_group, tmp_path):
    root = Path(__file__).resolve().parents[2]
    words = [sys.executable, "-m", "tests.engine.short_of_memory", str(small_group), str(tmp_path), str(LIMIT)]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["states"] == {
        "killed": "done", "hog": "done", "fine": "done", "greedy": "failed", "blocked": "blocked",
    }  # fmt: skip
    short = "the system ended its process since memory is short (SIGKILL)"
    assert found["retried"]["hog"] == f"{short}; it is tried once more with half the micro-batch"
    assert found["messages"] == {"greedy": short}
    assert "SIGKILL" in found["retried"]["killed"]
    assert "since memory is short" not in found["retried"]["killed"]
    assert "half the micro-batch" not in found["retried"]["killed"]
    said = [small_group / name for name in ("memory.events", "memory.oom_control")]
    kills = [line for path in said if path.is_file() for line in path.read_text().splitlines() if "oom_kill " in line]
    assert kills == ["oom_kill 3"], kills  # the kernel's own count: the hog once, the greedy one twice


def allocate(study: Path, job: Job, probes, say, smaller: bool) -> None:
    """More than the address space of this process may grow to, but for the smaller try."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))
    n = 2**20 if smaller else 2**30
    if job.payload.what == "torch":
        import torch

        torch.zeros(n, dtype=torch.uint8)
    elif job.payload.what == "numpy":
        import numpy as np

        np.ones(n, dtype=np.uint8)
    else:
        bytearray(n)


def test_an_allocation_that_fails_is_named_and_tried_again_smaller(tmp_path):
    names = ("torch", "numpy", "python")
    retried = {}
    jobs = [Job(name, "train", MeasureJob(name, name), (), 0.0) for name in names]
    engine = LocalEngine(Asked(tmp_path, lambda device: {}, workers=1, kinds=frozenset(), body=allocate))
    before = oom_kills()
    outcome = run_plan(
        AnalysisDir(tmp_path), Plan(None, jobs), engine=engine, done=lambda study, job: False,
        on_event=lambda what, job, message: retried.setdefault(job.id, message) if what == "retried" else None,
    )  # fmt: skip
    assert outcome.states == dict.fromkeys(names, "done"), outcome.messages
    assert oom_kills() == before
    for name in names:
        assert retried[name].startswith("memory is short: ")
        assert retried[name].endswith("tried once more with half the micro-batch")
