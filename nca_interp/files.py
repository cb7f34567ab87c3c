"""Files that are whole or absent: atomic writes, directories committed with a SHA-256 manifest, locks, disk errors."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nca_interp.base import Busy, RunFailed, UserError

MANIFEST = "MANIFEST.json"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; the file is complete or the old one is untouched."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically (temporary file beside it, fsync, rename)."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Parsed JSON; UserError naming the file if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None


def is_new(folder: Path) -> bool:
    """Whether nothing stands at a path that is to become a folder; an empty folder is nothing."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def refuse_unwritable(option: str, folder: Path) -> None:
    """UserError if no file can be put into a folder that may still have to be made: said before the work, not after it."""
    from tempfile import TemporaryFile

    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    try:
        with TemporaryFile(dir=there):
            return
    except NotADirectoryError:
        reason = f"{there} is a file, and a folder is needed"
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT):
            return  # a full disk is no mistake in the call
        reason = f"nothing can be written in {there} ({error.strerror})"
    raise UserError(f"{option} {folder}: {reason}; choose another; nothing was changed")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into RunFailed with one sentence; what was complete before stays."""
    try:
        yield
    except OSError as error:
        raise RunFailed(_cannot_write(path, error.strerror or str(error))) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # how safetensors reports a full disk
            raise
        raise RunFailed(_cannot_write(path, str(error))) from error


def _cannot_write(path: Path, reason: str) -> str:
    return f"cannot write {path}: {reason}; everything written before is intact, the same command continues from there"


@contextmanager
def held(lock: Path, busy: Callable[[], str], patience: float = 1.0) -> Iterator[None]:
    """Hold an exclusive file lock; Busy(busy()) if another process keeps it for `patience` seconds.

    The kernel drops the lock when its holder dies, however it dies, so no lock is ever stale and no clock is read.
    """
    from filelock import FileLock, Timeout

    handle = FileLock(lock)
    with disk_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle.acquire(timeout=patience)
        except Timeout:
            raise Busy(busy()) from None
    try:
        yield
    finally:
        handle.release()


def is_held(lock: Path) -> bool | None:
    """Whether a process holds the lock now; None where the file system cannot say. Changes nothing."""
    import fcntl

    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return True if error.errno in (errno.EAGAIN, errno.EACCES) else None
    finally:
        os.close(descriptor)
    return False


def commit_dir(final: Path, write: Callable[[Path], None]) -> Path:
    """Run `write(temporary_directory)`; afterwards `final` exists complete with a SHA-256 manifest, or not at all."""
    temporary = final.with_name(f".tmp-{final.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with disk_errors(final):
            temporary.mkdir(parents=True)
            write(temporary)
            files = sorted(p for p in temporary.rglob("*") if p.is_file())
            listing = {
                str(p.relative_to(temporary)): {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in files
            }
            (temporary / MANIFEST).write_text(json.dumps(listing, indent=1, sort_keys=True))
            for path in [*files, temporary / MANIFEST, temporary]:
                _fsync(path)
            if final.exists():
                old = final.with_name(f".tmp-old-{final.name}-{os.getpid()}")
                os.rename(final, old)
                os.rename(temporary, final)
                shutil.rmtree(old)
            else:
                os.rename(temporary, final)
            _fsync(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync a directory
            raise
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Bring a file that was appended to onto the disk."""
    with disk_errors(path):
        _fsync(path)


def sweep(directory: Path, name: str = "") -> None:
    """Remove what a killed process left half-written in `directory` (of `name`), while holding the lock that guards it."""
    for left in directory.glob(f".tmp-{name}*"):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def damage(directory: Path, quick: bool = False) -> str | None:
    """What is wrong with a committed directory (missing, truncated or altered file), or None if it is whole.

    `quick` compares sizes only, in no time; an altered byte shows without it.
    """
    if not directory.is_dir():
        return "the folder is missing"
    try:
        listing = json.loads((directory / MANIFEST).read_text())
        if not listing:
            return f"{MANIFEST} lists no file"
        for name, entry in listing.items():
            path = directory / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}"
            if not quick and sha256_file(path) != entry["sha256"]:
                return f"{name} was altered (SHA-256 differs)"
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        return f"no readable {MANIFEST} ({error})"
    return None


def checkpoint_hash(directory: Path) -> str:
    """Identity of a committed checkpoint: SHA-256 of its manifest."""
    return sha256_file(directory / MANIFEST)


def weight_hashes(directory: Path) -> dict[str, str]:
    """SHA-256 of every weights file of a committed checkpoint, from its manifest."""
    listing = read_json(directory / MANIFEST)
    return {name: entry["sha256"] for name, entry in listing.items() if name.endswith(".safetensors")}
