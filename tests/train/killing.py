"""Training in processes that die: forks of one warm server, killed from outside or at a planted point inside a write."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from nca_interp.store import RunDir, StudyDir
from nca_interp.train.run import RunConfig

KILLED = -signal.SIGKILL


class Trap(NamedTuple):
    """Where the process kills itself: at the `nth` call of `what` (`line`: half of a metrics line is written)."""

    what: str
    nth: int


def start(study: StudyDir, runs: list[RunConfig], trap: Trap | None = None) -> BaseProcess:
    """Train `runs` one after the other in a fork; exit codes as those of the command line."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "nca_interp.train.loop", "transformers.models.llama.modeling_llama"])
    arguments = (study.path, [run.model_dump_json() for run in runs], trap)
    process = context.Process(target=_train, args=arguments, daemon=True)
    process.start()
    return process


def _train(study: Path, runs: list[str], trap: Trap | None) -> None:
    import sys

    import torch

    from nca_interp.base import RunFailed, UserError
    from nca_interp.train.loop import Stopped, train

    torch.set_num_threads(1)
    if trap is not None:
        _set(trap)
    try:
        for run in runs:
            train(StudyDir(study), RunConfig.model_validate_json(run))
    except Stopped as stopped:
        sys.exit(128 + stopped.signal)
    except (RunFailed, UserError) as error:
        sys.exit(f"error: {error}")


def _set(trap: Trap) -> None:
    calls = 0

    def die_at_last() -> None:
        nonlocal calls
        calls += 1
        if calls == trap.nth:
            os.kill(os.getpid(), signal.SIGKILL)

    if trap.what == "line":
        append = RunDir.append_metrics

        def torn(run: RunDir, row: dict) -> None:
            if calls == trap.nth - 1:
                with open(run.metrics, "a") as file:
                    file.write('{"step": 1')
            die_at_last()
            append(run, row)

        RunDir.append_metrics = torn  # type: ignore[method-assign]
        return
    real = getattr(os, trap.what)

    def deadly(*arguments):
        die_at_last()
        return real(*arguments)

    setattr(os, trap.what, deadly)
