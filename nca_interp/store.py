"""The study directory: the only module that knows file names in it. Every write is atomic, every read is checked.

runs/out/<study>/
  study.json                    the resolved configuration, with the command and versions that made it
  tokens/<source>-<hash>/       train.bin, val.bin, meta.json, tokenizer.json (data/tokens.py)
  runs/<run>/                   one training stage of one regime, domain and seed
    run.json                    its whole configuration
    metrics.jsonl               one line a logged step
    status.json                 running | done | stopped | diverged | failed, with step and time
    checkpoints/step-00000100/  a Hugging Face directory + provenance.json + MANIFEST.json
    state/                      the newest resumable state (weights, AdamW moments, step)
    probes/step-00000100.csv    measurements of that checkpoint
  tables/*.csv                  tidy tables of the study
  report.html
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nca_interp.base import RunFailed, UserError

MANIFEST = "MANIFEST.json"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; the file is complete or the old one is untouched."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (temporary file beside it, fsync, rename)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        with disk_errors(path), open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
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


def refuse_foreign(folder: Path, record: str, what: str) -> None:
    """UserError if `folder` is there and is no `what`, known by its file `record`: writing would replace other files."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / record).is_file())):
        raise UserError(f"--out {folder}: not empty and no {what}; choose another folder; nothing was changed")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into RunFailed with one sentence; what was complete before stays."""
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"cannot write {path}: {error.strerror or error}; everything written before is intact"
        ) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # how safetensors reports a full disk
            raise
        raise RunFailed(f"cannot write {path}: {error}; everything written before is intact") from error


def commit_dir(final: Path, write: Callable[[Path], None]) -> Path:
    """Run `write(temporary_directory)`; afterwards `final` exists complete with a SHA-256 manifest, or not at all."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".tmp-{final.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with disk_errors(final):
            temporary.mkdir()
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
    finally:
        os.close(descriptor)


def damage(directory: Path) -> str | None:
    """What is wrong with a committed directory (missing, truncated or altered file), or None if it is whole."""
    try:
        listing = json.loads((directory / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return f"no readable {MANIFEST} ({error})"
    for name, entry in listing.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}"
        if sha256_file(path) != entry["sha256"]:
            return f"{name} was altered (SHA-256 differs)"
    return None


def checkpoint_hash(directory: Path) -> str:
    """Identity of a committed checkpoint: SHA-256 of its manifest."""
    return sha256_file(directory / MANIFEST)


class RunDir:
    """Files of one run (one stage)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "run.json"
        self.metrics = path / "metrics.jsonl"
        self.status_file = path / "status.json"
        self.checkpoints = path / "checkpoints"
        self.state = path / "state"
        self.lock = path / "run.lock"
        self.result = path / "result.json"

    @property
    def id(self) -> str:
        """Name of the run, e.g. `pt.nca.web.s0`."""
        return self.path.name

    def checkpoint(self, step: int) -> Path:
        """Directory of the checkpoint after `step` steps."""
        return self.checkpoints / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps with a committed checkpoint, ascending."""
        return sorted(int(p.name.removeprefix("step-")) for p in self.checkpoints.glob("step-*"))

    def probes(self, step: int) -> Path:
        """Measurements of one checkpoint."""
        return self.path / "probes" / f"step-{step:08d}.csv"

    def status(self) -> dict[str, Any]:
        """`{"state": ..., "step": ..., ...}`; state is `new` before the run began."""
        return read_json(self.status_file) if self.status_file.exists() else {"state": "new", "step": 0}

    def set_status(self, state: str, step: int, **extra: Any) -> None:
        """Record the run's state atomically."""
        write_json(
            self.status_file, {"state": state, "step": step, "time": round(time.time(), 1), "pid": os.getpid(), **extra}
        )

    def read_metrics(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl; an incomplete last line (a kill while writing) is left out."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def sweep(self) -> None:
        """Remove what a killed process left half-written (call only while holding the run's lock)."""
        for parent in (self.path, self.checkpoints):
            for left in parent.glob(".tmp-*"):
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


class StudyDir:
    """Files of one study."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "study.json"
        self.tokens = path / "tokens"
        self.runs = path / "runs"
        self.tables = path / "tables"
        self.report = path / "report.html"
        self.lock = path / "study.lock"

    @classmethod
    def open(cls, path: Path) -> StudyDir:
        """An existing study; UserError if the folder holds none."""
        study = cls(path)
        if not study.config.is_file():
            raise UserError(f"{path}: not a study (no {study.config.name} in it)")
        return study

    def run(self, run_id: str) -> RunDir:
        """The directory of one run (it need not exist yet)."""
        return RunDir(self.runs / run_id)

    def all_runs(self) -> list[RunDir]:
        """Runs that have begun, by name."""
        return [RunDir(p) for p in sorted(self.runs.glob("*")) if (p / "run.json").is_file()]

    def table(self, name: str) -> Path:
        """Path of one tidy table."""
        return self.tables / f"{name}.csv"

    def read_config(self) -> dict[str, Any]:
        """The `study` part of study.json: validate it with `config.parse(Study, ...)`."""
        return read_json(self.config)["study"]

    def read_provenance(self) -> dict[str, Any]:
        """The `provenance` part of study.json: command, versions, commit, machine."""
        return read_json(self.config)["provenance"]

    def claim(self, study: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Write study.json, or check that the folder belongs to the same study; another one is refused, key by key."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self.config.exists():
            found = list(differences(self.read_config(), study))
            if found:
                shown = "\n".join(f"  {line}" for line in found[:12])
                raise UserError(
                    f"{self.path}: this folder belongs to another configuration:\n{shown}\n"
                    "choose another --out, or delete the folder; nothing was changed"
                )
            return
        if any(self.path.iterdir()) and not {p.name for p in self.path.iterdir()} <= {self.lock.name}:
            raise UserError(f"{self.path}: not empty and not a study; choose another --out; nothing was changed")
        write_json(self.config, {"study": study, "provenance": provenance})


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """One line for each value in which two JSON structures differ, by dotted path (list items by their name)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key, "(absent)"), new.get(key, "(absent)"), f"{path}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (a, b) in enumerate(zip(old, new, strict=True)):
            name = a.get("name", index) if isinstance(a, dict) else index
            yield from differences(a, b, f"{path}.{name}")
    elif old != new:
        yield f"{path}: there {_short(old)}, asked for {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
