"""What a node of a Ray cluster does: show that it sees the folder, and do a job. Light to import, so that the first look takes no time."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nca_interp.errors import UserError

if TYPE_CHECKING:
    from nca_interp.engine.engines import Asked
    from nca_interp.engine.graph import Job
    from nca_interp.engine.journal import Journal

FORWARDED = ("HF_HUB_OFFLINE", "NCA_INTERP_TRACK", "TOKENIZERS_PARALLELISM", "TQDM_DISABLE")
"""Environment of the driver that jobs get too."""


SEE_TRIES, SEE_SECONDS = 20, 0.5
"""How long a node may take to see a file of the driver."""


class Task(NamedTuple):
    """One job for a node."""

    asked: Asked
    job: Job
    smaller: bool
    directory: Path
    """Working directory of the driver, where a user's definitions lie."""
    environment: Mapping[str, str]
    seen: Path
    """A file of the driver in the folder: a node that joined later has not been asked whether it sees that."""


def look(token: str) -> dict[str, Any]:
    """What a node finds where the driver wrote a token, and what it has."""
    import platform
    import subprocess
    from importlib.metadata import version

    found: dict[str, Any] = {"host": platform.node(), "version": version("nca-interp"), "token": None, "gpus": []}
    with suppress(OSError):
        found["token"] = Path(token).read_text()
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout
        found["gpus"] = [float(line) * 2**20 for line in said.split()]
    return found


class _Told:
    """Messages of a worker: errors are kept, the rest goes into the journal, from which the driver and `watch` read."""

    def __init__(self, journal: Journal, job: str) -> None:
        self.journal, self.job, self.errors = journal, job, list[str]()

    def send_bytes(self, message: bytes, /) -> None:
        kind, _, text = message.decode().partition(":")
        if kind == "error":
            self.errors.append(text)
        else:
            self.journal.add(kind, self.job, text)


def perform(task: Task) -> tuple[int, str]:
    """Do a job in this worker of the cluster; returns its exit code (worker.py) and what went wrong."""
    import logging

    from nca_interp.engine.journal import Journal
    from nca_interp.engine.worker import EXIT_BUSY, EXIT_STOPPED, EXIT_USAGE, Notes, guarded, state_of

    asked, job = task.asked, task.job
    try:
        os.chdir(task.directory)
    except OSError:
        return (
            EXIT_USAGE,
            f"the working directory {task.directory} is not shared: {os.uname().nodename} does not have it",
        )
    if not _sees(task.seen):
        return EXIT_BUSY, f"node {os.uname().nodename} does not see {asked.folder}; another one must do it"
    os.environ.update(task.environment)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(asked.threads)
    logger = logging.getLogger("nca_interp")
    with Journal.begun(asked.folder) as journal:
        told = _Told(journal, job.id)
        notes, propagate = Notes(told), logger.propagate
        logger.addHandler(notes)
        logger.propagate = False
        journal.add("start", job.id)
        try:
            _compute_on(asked)
            code = guarded(asked.folder, job, asked.probes, told, task.smaller, asked.body)
        except KeyboardInterrupt:  # cancelled before or after the work
            code = EXIT_STOPPED
        except UserError as error:  # no such device on this node
            told.errors, code = [str(error)], EXIT_USAGE
        finally:
            logger.removeHandler(notes)
            logger.propagate = propagate
        journal.add(state_of(code), job.id, "\n".join(told.errors))
    return code, "\n".join(told.errors)


def _sees(path: Path) -> bool:
    """Whether a file is there; a shared folder may show it a little later."""
    for _ in range(SEE_TRIES):
        if path.is_file():
            return True
        time.sleep(SEE_SECONDS)
    return False


def _compute_on(asked: Asked) -> None:
    import torch

    from nca_interp.machine import use_device

    torch.set_num_threads(asked.threads)
    if "train" in asked.kinds:  # what is measured says itself where
        use_device(asked.device)
