"""What stands between a run and the outside: its lock, its configuration on disk, and signals."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from nca_interp.base import RunFailed, UserError
from nca_interp.store import RunDir, differences, read_json, write_json
from nca_interp.train.run import RunConfig


@contextmanager
def locked(run: RunDir) -> Iterator[None]:
    """Hold the run's lock; RunFailed if another process trains it."""
    run.path.mkdir(parents=True, exist_ok=True)
    if not is_first_process():
        yield
        return
    lock = FileLock(run.lock, timeout=3)
    try:
        lock.acquire()
    except Timeout:
        raise RunFailed(f"{run.path}: another process is training this run") from None
    try:
        yield
    finally:
        lock.release()


def is_first_process() -> bool:
    """Whether this process of a distributed launch writes the files."""
    return os.environ.get("RANK", "0") == "0"


def claim(run: RunDir, config: RunConfig) -> None:
    """Write run.json, or raise UserError, key by key, where the folder belongs to another configuration."""
    wanted = config.model_dump(mode="json")
    if run.config.exists():
        found = read_json(run.config)
        if lines := list(differences(found, wanted)):
            shown = "\n".join(f"  {line}" for line in lines)
            raise UserError(f"{run.path}: this run was begun with another configuration:\n{shown}\nnothing was changed")
    elif is_first_process():
        write_json(run.config, wanted)


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying; a second one interrupts at once."""
    received: list[int] = []

    def remember(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        old = {s: signal.signal(s, remember) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals cannot be caught here
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
