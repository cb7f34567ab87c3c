"""Run programs that a model wrote: in a sandbox, or not at all. Linux only.

First choice bubblewrap: no network, own process, IPC and user namespaces, the system read-only, a small file system in memory,
started as an unprivileged user, because limits on processes do not bind root. Second choice sandlock (Landlock and seccomp, no
namespaces). Which of them works is tried, not assumed: a program must run, and each thing that it must not do must fail.
"""

from __future__ import annotations

import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from nca_interp.base import UserError

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


class Verdict(NamedTuple):
    """How a program ended."""

    passed: bool
    how: str
    """passed, failed or timed out."""


class Sandbox(NamedTuple):
    """One way to run a program that works on this machine."""

    name: str
    run: Callable[[str, Limits], Verdict]


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
PROBE = """
import os, socket
def refused(do):
    try:
        do()
    except OSError:
        return True
    return False
def connect():
    s = socket.socket(); s.settimeout(1); s.connect(("127.0.0.1", 9))
def children():
    for _ in range(200):
        if os.fork() == 0:
            import time; time.sleep(5); os._exit(0)
assert refused(lambda: open("/usr/nca_interp_probe", "w")), "writes"
assert refused(connect), "network"
assert refused(lambda: os.kill(%(parent)d, 0)), "signals"
assert "NCA_INTERP_PROBE" not in os.environ, "environment"
assert refused(lambda: os.listdir(%(home)r)), "files of the user"
assert refused(children), "processes"
"""
"""What must be refused in a sandbox that is used."""


def working() -> tuple[Sandbox | None, str]:
    """The first sandbox that works here, or None and why none does."""
    reasons = []
    for name, found in candidates().items():
        if isinstance(found, str):
            reasons.append(f"{name}: {found}")
        elif (why := _tried(found)) is None:
            return found, ""
        else:
            reasons.append(f"{name}: {why}")
    return None, "; ".join(reasons)


def sandbox() -> Sandbox:
    """The sandbox of this machine; UserError says why there is none."""
    found, why = _working()
    if found is None:
        raise UserError(
            f"--run-generated-code: no sandbox works on this machine ({why}); programs that a model wrote never run without one. "
            "On Debian: apt-get install bubblewrap; without user namespaces: pip install sandlock"
        )
    return found


@lru_cache
def _working() -> tuple[Sandbox | None, str]:
    return working()


@lru_cache
def candidates() -> dict[str, Sandbox | str]:
    """Both sandboxes by name; a sentence where one cannot even be tried."""
    if sys.platform != "linux":
        return {"bubblewrap": "programs are run on Linux only"}
    found: dict[str, Sandbox | str] = {}
    python = _interpreter()
    tools = [
        tool for tool in ("bwrap", "prlimit", *(["setpriv"] if os.geteuid() == 0 else [])) if not shutil.which(tool)
    ]
    found["bubblewrap"] = (
        f"not installed: {', '.join(tools)}" if tools
        else "no Python that every user may read" if python is None
        else Sandbox("bubblewrap", partial(_bubblewrap, python))
    )  # fmt: skip
    try:
        import sandlock

        enough = sandlock.landlock_abi_version() >= sandlock.min_landlock_abi()
        found["sandlock"] = (
            Sandbox("sandlock", partial(_sandlock, python)) if enough and python is not None
            else f"the kernel has Landlock {sandlock.landlock_abi_version()}, {sandlock.min_landlock_abi()} is needed"
        )  # fmt: skip
    except ImportError:
        found["sandlock"] = "not installed"
    except Exception as error:  # a library that does not load
        found["sandlock"] = str(error)
    return found


def run_all(programs: Sequence[str], limits: Limits = LIMITS, workers: int | None = None) -> list[Verdict]:
    """Run programs, several at a time, each in a sandbox of its own. UserError where no sandbox works."""
    box = sandbox()
    with ThreadPoolExecutor(workers or max(1, len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(lambda program: box.run(program, limits), programs))


def _tried(box: Sandbox) -> str | None:
    """Why a sandbox is not used; None where it is."""
    limits = Limits(seconds=20.0)
    os.environ["NCA_INTERP_PROBE"] = "1"
    try:
        if not (first := box.run("x = 1\n", limits)).passed:
            return f"a program that does nothing {first.how}: {_complaint(box)}"
        home = str(Path.home()) if str(Path.home()) not in ("/", "/nonexistent") else "/root"
        if not box.run(PROBE % {"parent": os.getpid(), "home": home}, limits).passed:
            return "it does not refuse all that it must"
    except Exception as error:  # whatever a sandbox raises, it is not used
        return str(error)
    finally:
        del os.environ["NCA_INTERP_PROBE"]
    return None


def _complaint(box: Sandbox) -> str:
    """What bubblewrap says where it cannot start."""
    python = _interpreter()
    if box.name != "bubblewrap" or python is None:
        return "no reason given"
    done = subprocess.run(
        _command(python, Limits(), "pass"), stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
    )
    return " ".join(done.stderr.decode(errors="replace").split())[:200] or "no reason given"


@lru_cache
def _interpreter() -> Path | None:
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


def _limited(limits: Limits) -> list[str]:
    """Limits of the kernel on what follows, as a user who owns nothing where this process is root."""
    nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs", "--"]
    return [
        *(nobody if os.geteuid() == 0 else []),
        "prlimit", f"--as={limits.memory_bytes}", f"--cpu={limits.cpu_seconds}", f"--fsize={limits.file_bytes}",
        # bubblewrap itself is two of them
        f"--nproc={_own_processes() + limits.processes + 4}", "--nofile=64", "--core=0", "--",
    ]  # fmt: skip


def _own_processes() -> int:
    """Processes that the user of the program has already, which its limit counts."""
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    count = 0
    for status in Path("/proc").glob("[0-9]*/task/*"):
        try:
            count += status.stat().st_uid == user
        except OSError:
            continue
    return count


def _command(python: Path, limits: Limits, driver: str = DRIVER) -> list[str]:
    """bubblewrap around the driver."""
    binds = [word for path in ("/usr", *_prefix(python)) for word in ("--ro-bind", path, path)]
    for name in ("bin", "lib", "lib64"):  # merged into /usr on present systems
        path = Path("/") / name
        if path.is_symlink():
            binds += ["--symlink", os.readlink(path), str(path)]
        elif path.exists():
            binds += ["--ro-bind", str(path), str(path)]
    return [
        *_limited(limits),
        "bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv",
        "--setenv", "PATH", "/usr/bin", "--setenv", "LANG", "C.UTF-8", *binds, "--proc", "/proc", "--dev", "/dev",
        "--size", str(limits.disk_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/",
        "--", str(python), "-I", "-S", "-c", driver,
    ]  # fmt: skip


def _bubblewrap(python: Path, program: str, limits: Limits) -> Verdict:
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
    process = subprocess.Popen(
        _command(python, limits), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
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


def _sandlock(python: Path, program: str, limits: Limits) -> Verdict:
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
        command = [*_limited(limits), str(python), "-I", "-S", "-c", DRIVER]
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
