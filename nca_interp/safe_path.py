"""Imports never come from the working directory: a user's `tokenize.py` or `datasets/` there is no module of ours.

Imports nothing that a file of the working directory could stand in for.
"""

from __future__ import annotations

import os
import sys


def leave_out_working_directory() -> None:
    """Take the working directory out of this process's module path where Python put it before the standard library
    (`python -m`, an empty entry of PYTHONPATH), and keep it out of that of every process started from here.

    Nothing is lost: what is installed stands behind the standard library, and modules that are imported already stay.
    """
    library = os.path.dirname(os.__file__)
    before = sys.path.index(library) if library in sys.path else len(sys.path)
    sys.path[:before] = _elsewhere(sys.path[:before])
    os.environ["PYTHONSAFEPATH"] = "1"
    if "PYTHONPATH" in os.environ:
        os.environ["PYTHONPATH"] = os.pathsep.join(_elsewhere(os.environ["PYTHONPATH"].split(os.pathsep)))


def _elsewhere(entries: list[str]) -> list[str]:
    try:
        here = os.path.realpath(os.getcwd())
    except FileNotFoundError:  # deleted: nothing is imported from there
        return [entry for entry in entries if entry]
    return [entry for entry in entries if entry and os.path.realpath(entry) != here]
