"""Files that are whole or absent: atomic writes, directories committed with a SHA-256 manifest, locks, disk errors."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nca_interp.base import Busy, RunFailed, UserError
from nca_interp.readers import damaged, read_object, sealed
from nca_interp.readers import read_json as read_json

MANIFEST = "MANIFEST.json"
SMALL = 1 << 18
"""Bytes of a file that are read in no time."""


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


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its own SHA-256, which `read_json` checks and leaves out."""
    write_json(path, sealed(value))


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
        raise RunFailed(_cannot_write(path, error.strerror or str(error), error.errno == errno.ENOSPC)) from error
    except Exception as error:
        if not of_system(error):
            raise
        raise RunFailed(_cannot_write(path, str(error), "os error 28" in str(error))) from error


def of_system(error: Exception) -> bool:
    """Whether a Rust library (tokenizers, safetensors) reports what the operating system told it."""
    return type(error).__name__ == "SafetensorError" or bool(re.search(r"\(os error \d+\)", str(error)))


def _cannot_write(path: Path, why: str, full: bool) -> str:
    room = ""
    if full:
        there = next(folder for folder in path.absolute().parents if folder.exists())
        room = f" ({shutil.disk_usage(there).free / 1e6:,.1f} MB are free in {there})"
    return (
        f"cannot write {path}: {why}{room}; everything written before is intact, the same command continues from there"
    )


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
            for path in [*seal(temporary), temporary]:
                _fsync(path)
            if final.is_dir() and not any(final.iterdir()):  # filled in place: somebody may stand in it
                for path in [*(p for p in temporary.iterdir() if p.name != MANIFEST), temporary / MANIFEST]:
                    os.rename(path, final / path.name)
            elif final.exists():
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


def seal(directory: Path) -> list[Path]:
    """Write the manifest of a directory: size and SHA-256 of every file in it. Returns all files, the manifest last."""
    manifest = directory / MANIFEST
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p != manifest)
    listing = {str(p.relative_to(directory)): {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in files}
    write_record(manifest, listing)
    return [*files, manifest]


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


def damage(directory: Path, quick: bool = False, only: str | None = None) -> str | None:
    """What is wrong with a committed directory (missing, truncated or altered file), or None if it is whole.

    `quick` compares the sizes of files above SMALL bytes only, in no time; an altered byte in one shows without it.
    `only`: of one file.
    """
    if not directory.is_dir():
        return "the folder is missing"
    try:
        listing = read_json(directory / MANIFEST)
        if not listing:
            return f"{MANIFEST} lists no file"
        for name, entry in listing.items() if only is None else [(only, listing[only])]:
            path = directory / name
            if not path.is_file():
                return f"{name} is missing"
            if (size := path.stat().st_size) != entry["bytes"]:
                return f"{name} has {size} bytes instead of {entry['bytes']}"
            if not (quick and size > SMALL) and sha256_file(path) != entry["sha256"]:
                return f"{name} was altered (SHA-256 differs)"
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        return f"no readable {MANIFEST} ({error})"
    return None


def checkpoint_hash(directory: Path) -> str:
    """Identity of a committed checkpoint: SHA-256 of its manifest. UserError where that is lost."""
    if not (directory / MANIFEST).is_file():
        raise damaged(directory / MANIFEST, "no such file", "delete the folder, and the run is trained again")
    return sha256_file(directory / MANIFEST)


def weight_hashes(directory: Path) -> dict[str, str]:
    """SHA-256 of every weights file of a committed checkpoint, from its manifest."""
    mend = "the folder is damaged; delete it, and the run is trained again"
    listing = read_object(directory / MANIFEST, mend)
    try:
        return {name: entry["sha256"] for name, entry in listing.items() if name.endswith(".safetensors")}
    except (TypeError, KeyError):
        raise damaged(directory / MANIFEST, "not as it was written", mend) from None
