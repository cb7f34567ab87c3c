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
from multiprocessing.connection import Connection
from pathlib import Path

from nca_interp.base import Busy, RunFailed, UserError
from nca_interp.console import last_resort
from nca_interp.engine.jobs import execute
from nca_interp.engine.plan import Job
from nca_interp.signals import unshield

EXIT_FAILED, EXIT_USAGE, EXIT_BUSY, EXIT_STOPPED = 1, 2, 75, 130


def work(study: Path, job: Job, probes: Path | None, slot: int, parent: int, messages: Connection) -> None:
    """Do `job` in this process and leave it. `messages` carries `note:...`, `share:...`, `error:...` and, where it `goes_on`,
    `ended:CODE` to the parent, and further jobs from it."""
    os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which then asks each worker once
    unshield()
    _die_with(parent)
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if os.environ.get("CUDA_VISIBLE_DEVICES") is None and torch.cuda.device_count() > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(slot % torch.cuda.device_count())
    logger = logging.getLogger("nca_interp")
    logger.addHandler(_Notes(messages))
    logger.propagate = False
    code = _guarded(study, job, probes, messages)
    while goes_on(job, code):
        messages.send_bytes(f"ended:{code}".encode())
        try:
            job = messages.recv()
        except EOFError:  # there is no more to measure
            break
        code = _guarded(study, job, probes, messages)
    sys.exit(code)


def goes_on(job: Job, code: int) -> bool:
    """Whether a worker whose job ended so takes another one."""
    return job.kind == "measure" and code in (0, EXIT_FAILED, EXIT_USAGE, EXIT_BUSY)


class _Notes(logging.Handler):
    """Sends warnings of the project to the parent."""

    def __init__(self, messages: Connection) -> None:
        super().__init__(logging.WARNING)
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.send_bytes(f"note:{record.getMessage()}".encode())


def _guarded(study: Path, job: Job, probes: Path | None, messages: Connection) -> int:
    from nca_interp.train.loop import Stopped

    def say(what: str, share: float | None) -> None:
        messages.send_bytes(f"share:{'' if share is None else share}:{what}".encode())

    try:
        execute(study, job, probes, say)
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
    except (Exception, SystemExit) as error:  # an exit() deep in a library is no success
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
