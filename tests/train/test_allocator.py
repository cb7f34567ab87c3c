"""Memory that was freed is used again, instead of being returned to the system and faulted in a page at a time."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from nca_interp.train.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
bytearray(2**26)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(2**26)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is of glibc")
def test_freed_memory_is_kept():
    faults = {}
    for asked in ("leave", "keep"):
        command = [sys.executable, "-c", FAULTS, asked]
        faults[asked] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert faults["keep"] < faults["leave"] / 10
