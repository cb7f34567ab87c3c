"""What this machine is and can do: for provenance, `doctor`, precision and time estimates."""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from nca_interp.base import UserError
from nca_interp.config import suggest

PACKAGES = (
    "torch", "transformers", "transformer-lens", "accelerate", "numpy", "scipy", "pandas", "statsmodels", "numba",
    "tokenizers", "datasets", "safetensors", "altair", "vl-convert-python", "pydantic", "typer", "rich", "jinja2",
)  # fmt: skip


LEAST_BF16_WIDTH = 128
"""d_model from which products in bf16 save a processor more than its conversions cost (docs/performance.md)."""


def native_bf16() -> bool:
    """Whether matrix products in bf16 run in hardware (otherwise they are emulated, many times slower than fp32)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


DEVICE = "NCA_INTERP_DEVICE"
"""Environment: what `use_device` was asked for last."""


def use_device(asked: str, here: bool = True) -> None:
    """Make this process and those it starts compute on "cpu", "cuda" or "mps"; "auto": an accelerator where there is one.

    Call before anything touches a device. Raises UserError where the asked device is absent, unless others compute (not `here`).
    """
    import torch

    os.environ[DEVICE] = asked
    if asked in ("cuda", "mps") and not here:
        return
    if asked == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    present = {"auto": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto" and not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"  # else accelerate does not join processes of a CPU machine
    if asked not in present:
        raise UserError(
            f"--device {asked}: unknown{suggest(asked, ['auto', 'cpu', *[d for d in present if d != 'auto']])}"
        )
    if not present[asked]:
        usable = ["auto", "cpu", *[d for d in ("cuda", "mps") if present[d]]]
        built = (
            "" if asked != "cuda" or torch.version.cuda else f", and torch {torch.__version__} is built without CUDA"
        )
        raise UserError(f"--device {asked}: there is no such device here{built}; legal here: {', '.join(usable)}")


def check_device(asked: str) -> None:
    """UserError unless `asked` is a device of this machine: "cpu", "cuda", "cuda:1" ..., "mps"."""
    import torch

    here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    here += ["cuda"] if torch.cuda.is_available() else []
    here += ["mps"] if torch.backends.mps.is_available() else []
    if asked not in here:
        raise UserError(f"device: {asked!r} is not usable here{suggest(asked, here)}")


def refuse_lost_processes() -> None:
    """UserError where a launcher was asked for several processes and started one.

    `accelerate launch --cpu --num_processes 2` does so without a word; it leaves only the address of the others.
    """
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ
    joined = any(name in os.environ for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"))
    if by_accelerate and "MASTER_ADDR" in os.environ and not joined:
        raise UserError(
            "accelerate launch was asked for several processes and has started one (it does so with --cpu); "
            f"start them with: {torchrun(2)}"
        )


def torchrun(n: int, arguments: str = "train ...") -> str:
    """The command that starts `n` processes on this machine."""
    import torch

    cpu = "" if torch.cuda.is_available() else "ACCELERATE_USE_CPU=true "
    return f"{cpu}torchrun --standalone --nproc_per_node {n} -m nca_interp {arguments}"


def launched_again(arguments: list[str]) -> str:
    """The command that starts the processes of this launch again, each with these arguments."""
    n, sharded = int(os.environ["WORLD_SIZE"]), os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1")
    line = shlex.join([*arguments, *(["--shard"] if sharded and "--shard" not in arguments else [])])
    here = int(os.environ.get("LOCAL_WORLD_SIZE", n))
    return torchrun(n, line) if here == n else f"{n} processes, on every machine as before: -m nca_interp {line}"


def resolve_precision(asked: str, d_model: int) -> Literal["fp32", "bf16"]:
    """`auto` to what is faster for a model of this width on this hardware; anything else as asked.

    bf16 where the hardware multiplies it natively, but on a processor not below `LEAST_BF16_WIDTH`.
    """
    if asked == "auto":
        import torch

        wide = d_model >= LEAST_BF16_WIDTH or torch.cuda.is_available()
        return "bf16" if wide and native_bf16() else "fp32"
    return "bf16" if asked == "bf16" else "fp32"


def give_back() -> None:
    """Give memory that this process has freed, and keeps for itself, back to the system."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def matmul_flops(precision: str, threads: int = 1) -> float:
    """Measured FLOP/s of a 1024 x 1024 matrix product on one worker's share of this machine (about 0.3 s)."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a = torch.randn(1024, 1024, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
        _sync_matmul(a, 2)
        repeats, seconds = 4, 0.0
        while seconds < 0.2:
            begin = time.perf_counter()
            _sync_matmul(a, repeats)
            seconds = time.perf_counter() - begin
            repeats *= 2
        return 2 * 1024**3 * (repeats / 2) / seconds
    finally:
        torch.set_num_threads(before)


def _sync_matmul(a: Any, repeats: int) -> None:
    import torch

    for _ in range(repeats):
        a @ a
    if a.is_cuda:
        torch.cuda.synchronize()


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """Model name of the processor, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device_type() -> str:
    """Where runs are computed: cuda, or cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name() -> str:
    """The accelerator, or the processor where there is none."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"CPU ({cpu_name()})"


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that results depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def git_state() -> tuple[str | None, bool | None]:
    """(commit, whether the tree differs from it) of the checkout the package lies in; (None, None) outside one."""
    root = Path(__file__).resolve().parent.parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit.stdout.strip(), bool(status.stdout.strip())


def circumstances(command: str) -> dict[str, Any]:
    """What was called when, by which version, on what: everything about a result that its configuration does not say."""
    commit, dirty = git_state()
    return {
        "command": command,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "version": metadata.version("nca-interp"),
        "git_commit": commit,
        "git_dirty": dirty,
        "python": sys.version.split()[0],
        "packages": package_versions(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": cores(),
    }


def provenance(command: str, precision: str, workers: int, threads: int) -> dict[str, Any]:
    """The circumstances of a study that is trained here."""
    return {
        **circumstances(command),
        "workers": workers,
        "threads_per_run": threads,
        "device": device_name(),
        "precision": precision,
    }
