"""A function in another process: its result, what it raises, and what is not waited for."""

import os
import time

import pytest

from nca_interp.base import UserError
from nca_interp.beside import beside


def fail():
    raise UserError("no such thing")


def die_elsewhere(here):
    if os.getpid() != here:
        os._exit(1)
    return "done here"


def test_it_returns_and_raises_what_the_function_does():
    with beside(os.getpid) as result:
        assert result() != os.getpid()
    with beside(fail) as result, pytest.raises(UserError, match="no such thing"):
        result()


def test_what_dies_there_is_done_here():
    with beside(die_elsewhere, os.getpid()) as result:
        assert result() == "done here"


def test_what_is_not_waited_for_ends():
    begin = time.monotonic()
    with beside(time.sleep, 600):
        pass
    assert time.monotonic() - begin < 60
