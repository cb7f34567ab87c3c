"""What this machine is and can do: for provenance, `doctor`, precision and time estimates."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

PACKAGES = (
    "torch", "transformers", "transformer-lens", "accelerate", "numpy", "scipy", "pandas", "statsmodels", "numba",
    "tokenizers", "datasets", "safetensors", "altair", "vl-convert-python", "pydantic", "typer", "rich", "jinja2",
)  # fmt: skip


def native_bf16() -> bool:
    """Whether matrix products in bf16 run in hardware (otherwise they are emulated, many times slower than fp32)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def resolve_precision(asked: str) -> Literal["fp32", "bf16"]:
    """`auto` to what this hardware does natively; anything else as asked."""
    if asked == "auto":
        return "bf16" if native_bf16() else "fp32"
    return "bf16" if asked == "bf16" else "fp32"


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
