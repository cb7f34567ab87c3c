"""One function in a process of its own, beside what this process does meanwhile."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from nca_interp.signals import shielded


@contextmanager
def beside(function: Callable[..., Any], *arguments: Any) -> Iterator[Callable[[], Any]]:
    """Call `function`, which another process can import, there while the block runs; yields what waits for its result and returns it,
    or raises what it raised. What the block does not wait for is given up at its end."""
    os.environ["PYTHONSAFEPATH"] = "1"  # a server that begins here imports nothing from the working directory
    context = multiprocessing.get_context("forkserver")
    pipe, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(theirs, function, arguments), daemon=True)
    resource_tracker.ensure_running()  # here, since it takes the shield away
    with shielded():  # an interruption is for this process, which ends the other
        process.start()
    theirs.close()

    def result() -> Any:
        try:
            failed, value = pipe.recv()
        except EOFError:  # it was killed, as the system does when memory is short
            return function(*arguments)
        if failed:
            raise value
        return value

    try:
        yield result
    finally:
        process.kill()
        process.join()
        pipe.close()


def _call(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        told = False, function(*arguments)
    except Exception as error:  # raised again where it is waited for
        told = True, error
    pipe.send(told)
