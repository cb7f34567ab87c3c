"""One program under confinement: the command around it, and the channel on which it says that it has passed."""

from __future__ import annotations

import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

NOBODY = 65534
PASSED = "passed"


class Limits(NamedTuple):
    """What a program may use."""

    seconds: float = 10.0
    """Of the clock."""
    cpu_seconds: int = 5
    memory_bytes: int = 1 << 29
    """Address space."""
    file_bytes: int = 1 << 20
    """Largest file."""
    disk_bytes: int = 1 << 24
    """Of all files together (bubblewrap)."""
    processes: int = 16


LIMITS = Limits()
STARTERS = 1024
"""Processes that the user of the sandboxes may have in all: several run at a time, and one that forks must not keep others from starting."""


class Verdict(NamedTuple):
    """How a program ended."""

    passed: bool
    how: str
    """passed, failed or timed out."""


# Verdict and secret go through a channel of their own: what the program prints, and an exit that says "success" before the end,
# count for nothing. The secret is read after the program has ended.
DRIVER = """
import os, sys
channel = os.dup(1)
os.set_inheritable(channel, False)
size = int(os.read(0, 16))
program = b""
while len(program) < size:
    program += os.read(0, size - len(program))
null = os.open(os.devnull, os.O_RDWR)
os.dup2(null, 1)
os.dup2(null, 2)
try:
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
except BaseException:
    os._exit(1)
os.write(channel, os.read(0, 64))
os._exit(0)
"""


@lru_cache
def interpreter() -> Path | None:
    """A Python that every user may read: the one that runs, or the system's."""
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    found = [
        base,
        *(Path(p).resolve() for name in ("python3",) if (p := shutil.which(name, path="/usr/bin:/usr/local/bin"))),
    ]
    return next((path for path in found if _open_to_all(path)), None)


def _open_to_all(path: Path) -> bool:
    try:
        return path.is_file() and all(parent.stat().st_mode & 0o005 == 0o005 for parent in (path, *path.parents))
    except OSError:
        return False


def _prefix(python: Path) -> list[str]:
    """Folders of the interpreter outside /usr."""
    return [] if str(python).startswith("/usr/") else [str(python.parent.parent)]


def _limited(limits: Limits, processes: int) -> list[str]:
    """Limits of the kernel on what follows, as a user who owns nothing where this process is root."""
    nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs", "--"]
    return [
        *(nobody if os.geteuid() == 0 else []),
        "prlimit", f"--as={limits.memory_bytes}", f"--cpu={limits.cpu_seconds}", f"--fsize={limits.file_bytes}",
        f"--nproc={_own_processes() + processes}", "--nofile=64", "--core=0", "--",
    ]  # fmt: skip


def _own_processes() -> int:
    """Processes that the user of the program has already, which its limit counts."""
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    count = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and os.stat(f"/proc/{name}").st_uid == user:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:  # it has ended meanwhile
            continue
    return count


def command(python: Path, limits: Limits, driver: str = DRIVER) -> list[str]:
    """bubblewrap around the driver."""
    binds = [word for path in ("/usr", *_prefix(python)) for word in ("--ro-bind", path, path)]
    for name in ("bin", "lib", "lib64"):  # merged into /usr on present systems
        path = Path("/") / name
        if path.is_symlink():
            binds += ["--symlink", os.readlink(path), str(path)]
        elif path.exists():
            binds += ["--ro-bind", str(path), str(path)]
    return [
        *_limited(limits, STARTERS),
        "bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv",
        "--setenv", "PATH", "/usr/bin", "--setenv", "LANG", "C.UTF-8", *binds, "--proc", "/proc", "--dev", "/dev",
        "--size", str(limits.disk_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/",
        # inside, where a bomb of another sandbox of this user is not counted
        "--", "prlimit", f"--nproc={_own_processes() + limits.processes + 2}", "--", str(python), "-I", "-S", "-c", driver,
    ]  # fmt: skip


def under_bubblewrap(python: Path, program: str, limits: Limits) -> Verdict:
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
    process = subprocess.Popen(
        command(python, limits), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=environment, start_new_session=True, cwd="/",
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        return _spoken(process.stdin.fileno(), process.stdout.fileno(), program, limits)
    finally:
        # bubblewrap dies, and with it all processes of its namespace
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()
        process.stdin.close()
        process.stdout.close()
        process.wait()


def _spoken(to: int, back: int, program: str, limits: Limits) -> Verdict:
    """Hand the driver its program and a secret, and wait until the secret comes back, the channel closes or the time is up.

    Of what comes back only the first bytes are read: a flood fills the pipe and stops.
    """
    source, secret = program.encode(errors="replace"), secrets.token_hex(32).encode()
    sent = memoryview(b"%16d" % len(source) + source + secret)
    over, got = time.monotonic() + limits.seconds, b""
    os.set_blocking(to, False)
    while (left := over - time.monotonic()) > 0:
        readable, writable, _ = select.select([back], [to] if sent else [], [], left)
        if writable:
            try:
                sent = sent[os.write(to, sent[:4096]) :]
            except BrokenPipeError:
                sent = sent[:0]
        if readable:
            some = os.read(back, 256)
            got += some
            if not some or len(got) >= len(secret):
                return Verdict(True, PASSED) if got == secret else Verdict(False, "failed")
    return Verdict(False, "timed out")


def under_sandlock(python: Path, program: str, limits: Limits) -> Verdict:
    """The same under Landlock and seccomp; the folder that it may write in is its own and is removed."""
    import tempfile

    import sandlock

    folder = Path(tempfile.mkdtemp(prefix="nca-interp-"))
    try:
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        box = sandlock.Sandbox(
            fs_readable=["/usr", "/lib", "/lib64", "/bin", "/dev/null", "/dev/urandom", *_prefix(python)],
            fs_writable=[str(folder), "/dev/null"], cwd=str(folder), max_memory=limits.memory_bytes,
            max_processes=limits.processes, max_open_files=64, no_coredump=True, clean_env=True,
            env={"PATH": "/usr/bin", "LANG": "C.UTF-8"},
        )  # fmt: skip
        piped, null = sandlock.StdioMode.PIPED, sandlock.StdioMode.NULL
        command = [*_limited(limits, STARTERS), str(python), "-I", "-S", "-c", DRIVER]
        process = box.popen(command, stdin=piped, stdout=piped, stderr=null)
        try:
            return _spoken(process.stdin.fileno(), process.stdout.fileno(), program, limits)
        finally:
            process.kill()
            process.stdin.close()
            process.stdout.close()
            process.wait(timeout=5.0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
