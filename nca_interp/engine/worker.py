"""The body of a worker process: do one job, tell the parent through a pipe what happened, exit with its code. One that measured
waits for the next measurement first.

Nothing is written to tell it: on a full disk the message still arrives.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, Protocol

from nca_interp.base import Busy, RunFailed, UserError
from nca_interp.console import last_resort
from nca_interp.engine.graph import Job
from nca_interp.engine.jobs import execute
from nca_interp.signals import unshield
from nca_interp.train.allocator import keep_freed_memory

SMALL_BYTES = 2**26
"""Of a model's weights up to which a worker that measures keeps what it frees: forward passes ask for the same sizes again and again."""
EXIT_FAILED, EXIT_USAGE, EXIT_MEMORY, EXIT_BUSY, EXIT_STOPPED = 1, 2, 71, 75, 130


class Work(NamedTuple):
    """What a worker process is to do."""

    study: Path
    job: Job
    probes: Path | None
    smaller: bool
    gpu: int | None
    """Which of the GPUs that the parent may use; None: whatever it has."""
    parent: int
    body: Callable[..., None] = execute


class Pipe(Protocol):
    """Where messages go."""

    def send_bytes(self, message: bytes, /) -> None:
        """Send one."""


def work(asked: Work, messages: Connection) -> None:
    """Do a job in this process and leave it. `messages` carries `note:...`, `share:...`, `error:...` and, where it `goes_on`,
    `ended:CODE` to the parent, and further jobs from it."""
    os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which then asks each worker once
    unshield()
    _die_with(asked.parent)
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if asked.gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[asked.gpu] if visible != [""] else str(asked.gpu)
    if asked.job.kind == "measure" and asked.job.weights <= SMALL_BYTES:
        keep_freed_memory()
    logger = logging.getLogger("nca_interp")
    logger.addHandler(Notes(messages))
    logger.propagate = False
    job = asked.job
    code = guarded(asked.study, job, asked.probes, messages, asked.smaller, asked.body)
    while goes_on(job, code):
        messages.send_bytes(f"ended:{code}".encode())
        try:
            job = messages.recv()
        except EOFError:  # there is no more to measure
            break
        code = guarded(asked.study, job, asked.probes, messages, False, asked.body)
    sys.exit(code)


def goes_on(job: Job, code: int) -> bool:
    """Whether a worker whose job ended so takes another one."""
    return job.kind == "measure" and code in (0, EXIT_FAILED, EXIT_USAGE, EXIT_BUSY)


def state_of(code: int) -> str:
    """What a journal calls the end of a job."""
    if code == EXIT_BUSY:
        return "waiting"
    return "done" if code == 0 else "stopped" if code in (EXIT_STOPPED, 128 + signal.SIGTERM) else "failed"


class Notes(logging.Handler):
    """Sends warnings of the project to the parent."""

    def __init__(self, messages: Pipe) -> None:
        super().__init__(logging.WARNING)
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.send_bytes(f"note:{record.getMessage()}".encode())


def guarded(
    study: Path,
    job: Job,
    probes: Path | None,
    messages: Pipe,
    smaller: bool = False,
    body: Callable[..., None] = execute,
) -> int:
    """The exit code of a job, done in this process; what went wrong is said."""
    from torch import OutOfMemoryError

    from nca_interp.train.loop import Stopped

    def say(what: str, share: float | None) -> None:
        messages.send_bytes(f"share:{'' if share is None else share}:{what}".encode())

    try:
        body(study, job, probes, say, smaller)
        return 0
    except Stopped as stopped:
        return 128 + stopped.signal
    except KeyboardInterrupt:
        return EXIT_STOPPED
    except Busy as error:
        text, code = str(error), EXIT_BUSY
    except UserError as error:
        text, code = str(error), EXIT_USAGE
    except RunFailed as error:
        text, code = str(error), EXIT_FAILED
    except BaseException as error:  # an exit() deep in a library is no success
        if isinstance(error, MemoryError | OutOfMemoryError) or "can't allocate memory" in str(error):
            text, code = (
                f"memory is short: {str(error).splitlines()[0] if str(error) else 'no more can be had'}",
                EXIT_MEMORY,
            )
        else:
            text, code = last_resort(error, job.id), EXIT_FAILED
    messages.send_bytes(f"error:{text}".encode())
    return code


def _die_with(parent: int) -> None:
    """Ask the kernel for SIGTERM when the fork server goes, which goes when the parent does: no orphan trains on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            sys.exit(EXIT_STOPPED)
