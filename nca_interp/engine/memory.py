"""Memory of this machine as a scheduler sees it: what there is within the limits of the control group, what the kernel took by force."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def groups() -> Iterator[Path]:
    """Folders of the control groups that hold this process, from its own up."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, name = line.split(":", 2)
            root = CGROUPS if number == "0" else CGROUPS / "memory" if "memory" in controllers.split(",") else None
            if root is not None:
                own = root / name.lstrip("/")
                yield from (folder for folder in (own, *own.parents) if folder == root or root in folder.parents)


def _number(path: Path) -> float | None:
    with suppress(OSError, ValueError):
        return float(path.read_text())
    return None


def _limits() -> Iterator[tuple[float, float]]:
    """(limit, used) in bytes of every control group that has a limit."""
    for folder in groups():
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            most, now = _number(folder / limit), _number(folder / used)
            if most is not None and now is not None:
                yield most, now


def total_memory() -> float:
    """Bytes that processes here can have at most."""
    import psutil

    return float(min([psutil.virtual_memory().total, *(limit for limit, _ in _limits())]))


def free_memory() -> float:
    """Bytes that further processes can have now."""
    import psutil

    return float(min([psutil.virtual_memory().available, *(limit - used for limit, used in _limits())]))


def oom_kills() -> int:
    """Processes that the kernel has ended so far for want of memory: in the control groups of this process, which say so since Linux 4.13,
    or else on the whole machine. Only whether it grows counts."""
    events = [_kills(folder / name) for folder in groups() for name in ("memory.events", "memory.oom_control")]
    known = [n for n in events if n is not None]
    return sum(known) if known else _kills(Path("/proc/vmstat")) or 0


def _kills(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def gpu_bytes(device: str) -> list[float]:
    """Memory of each GPU that this process may use; none where `device` is cpu."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return []
    return [float(torch.cuda.get_device_properties(n).total_memory) for n in range(torch.cuda.device_count())]
