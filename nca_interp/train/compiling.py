"""Whether the blocks of a run go through torch.compile: where it pays, and where there is a compiler."""

from __future__ import annotations

import logging
import os
import shutil
from importlib.util import find_spec

import torch

LEAST_FLOPS = {"cpu": 5e13, "cuda": 1e16}
"""`auto` compiles runs of at least this much: on a CPU core some ten minutes, three times what it takes for half a minute of
compiling to pay, at a step 1.15 to 1.2 times as fast (docs/performance.md); on a GPU by the same proportion, unmeasured."""
logger = logging.getLogger(__name__)


def should_compile(asked: str, flops: float, device: str, run: str) -> bool:
    """`asked` is auto, on or off; `flops` those of the whole run. Warns where compiling was wanted and cannot be done."""
    if asked == "off" or (asked == "auto" and flops < LEAST_FLOPS.get(device, float("inf"))):
        return False
    problem = _problem(device)
    if problem:
        logger.warning("%s is not compiled: %s", run, problem)
    return problem is None


def _problem(device: str) -> str | None:
    if device == "cuda":
        return None if find_spec("triton") else "triton is not installed"
    if device != "cpu":
        return f"compiling for {device} is not supported"
    wanted = [name] if (name := os.environ.get("CXX")) else ["g++", "clang++", "c++"]
    if not any(shutil.which(name) for name in wanted):
        return f"no C++ compiler ({', '.join(wanted)}) is on the path"
    torch._inductor.config.compile_threads = 1  # processes of its own would not outlive a worker, and cores are taken
    forget_other_processors()
    try:
        torch.compile(_probe)(torch.ones(64))
    except Exception as error:  # whatever the compiler says, the run can do without it
        return f"the C++ compiler does not work ({str(error).strip().splitlines()[0][:200]})"
    return None


def forget_other_processors() -> None:
    """Compile anew where ATEN_CPU_CAPABILITY forces instructions: what torch's cache keeps of a graph does not say for which they were
    (torch 2.13: code for AVX-512 comes back under "default", and does not compile)."""
    if "ATEN_CPU_CAPABILITY" in os.environ:
        torch._inductor.config.force_disable_caches = True


def _probe(x: torch.Tensor) -> torch.Tensor:
    return (x + 1).sum()
