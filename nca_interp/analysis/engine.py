"""Every probe on every head of a checkpoint: one forward pass a stimulus, reduced while it runs.

`analyze_checkpoint` takes any local Hugging Face causal language model; `analyze_run` measures all checkpoints of a run,
skips what was measured with the same weights, probe file and engine, and recomputes a changed probe alone.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from nca_interp.analysis.measure import ATTENTION_CODE, Measured, Measurer
from nca_interp.analysis.subject import describe
from nca_interp.base import UserError
from nca_interp.config import suggest
from nca_interp.discover import Definition, load
from nca_interp.store import RunDir, checkpoint_hash, read_json, write_json, write_text

COLUMNS = [
    "run",
    "regime",
    "domain",
    "seed",
    "stage",
    "step",
    "tokens",
    "probe",
    "layer",
    "head",
    "value",
    "chance",
    "sd",
    "unit",
    "n",
]
IDENTITY = ("run", "regime", "domain", "seed", "stage", "step", "tokens")
_INTEGERS = ("seed", "step", "tokens", "layer", "head", "n")
_NUMBERS = (*_INTEGERS, "value", "chance", "sd")


class RunAnalysis(NamedTuple):
    """What `analyze_run` did."""

    computed: int
    """Checkpoints of which at least one probe was measured."""
    reused: int
    """Checkpoints with nothing to do."""
    problems: list[str]
    """Probes that failed, with file and line."""
    skipped: list[dict[str, Any]]
    """Probes that do not apply, with the reason: {step, probe, reason}."""


def analyze_checkpoint(
    directory: Path | str,
    *,
    probes: Iterable[str] | None = None,
    probes_folder: Path | None = None,
    tokens_dir: Path | str | None = None,
    tokenizer: Path | str | None = None,
) -> pd.DataFrame:
    """Tidy table of all `probes` (default: every one found) on one checkpoint directory, columns as in docs/tables.md.

    `attrs["problems"]` lists probes that failed (file, line and reason), `attrs["skipped"]` those that do not apply to
    this checkpoint. Raises UserError for a directory that cannot be opened, an unknown probe, a probe asked for by name
    that does not apply, and where no probe applies at all.
    """
    probes = None if probes is None else list(probes)
    definitions, load_problems = choose(probes, probes_folder)
    directory = Path(directory)
    measured = _measure(directory, Measurer(definitions), _path(tokens_dir), _path(tokenizer))
    if measured.skipped and (probes is not None or not (measured.rows or measured.problems)):
        name, reason = next(iter(measured.skipped.items()))
        raise UserError(f"{directory}: probe {name} does not apply: {reason}")
    frame = table(measured.rows)
    frame.attrs["problems"] = [*load_problems, *measured.problems.values()]
    frame.attrs["skipped"] = [f"{name}: {reason}" for name, reason in measured.skipped.items()]
    return frame


def analyze_run(
    run_dir: RunDir,
    *,
    probes: Iterable[str] | None = None,
    probes_folder: Path | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> RunAnalysis:
    """Measure every checkpoint of a run into probes/step-XXXXXXXX.csv, with step-XXXXXXXX.json saying from what.

    A checkpoint is done when its manifest, the probe files and the engine are those recorded. `on_step(done, total)` is
    called after each. A damaged checkpoint is a problem of the run, the others are measured.
    """
    definitions, problems = choose(None if probes is None else list(probes), probes_folder)
    measurer = Measurer(definitions)
    steps, computed, skipped = run_dir.steps(), 0, []
    for index, step in enumerate(steps):
        try:
            changed, header = _analyze_step(run_dir, step, measurer)
        except UserError as error:
            problems.append(str(error))
            continue
        computed += changed
        problems += [p for p in header["problems"].values() if p not in problems]
        skipped += [{"step": step, "probe": name, "reason": reason} for name, reason in header["skipped"].items()]
        if on_step is not None:
            on_step(index + 1, len(steps))
    return RunAnalysis(computed, len(steps) - computed, problems, skipped)


def _analyze_step(run_dir: RunDir, step: int, measurer: Measurer) -> tuple[bool, dict[str, Any]]:
    """Measure what is missing of one checkpoint; returns whether anything was, and the header of its table."""
    directory, path = run_dir.checkpoint(step), run_dir.probes(step)
    weights, hashes = checkpoint_hash(directory), measurer.hashes
    old = _read_header(path)
    fresh = old is not None and old["checkpoint"] == weights and old["engine"] == engine_hash()
    done = {name for name, sha in old["probes"].items() if hashes.get(name) == sha} if fresh and old else set()
    if done == set(hashes) and old is not None and done == set(old["probes"]):
        return False, old
    missing = measurer.only(set(hashes) - done)
    measured = _measure(directory, missing, None, None) if missing.hashes else Measured([], {}, {})
    frame = table(measured.rows)
    if done and old is not None:
        kept = read_table(path)
        frame = (
            pd.concat([kept[kept.probe.isin(done)], frame], ignore_index=True)
            if len(frame)
            else kept[kept.probe.isin(done)]
        )
        frame = frame.sort_values("probe", kind="stable")

    def merged(part: str, new: dict[str, str]) -> dict[str, str]:
        return {**{k: v for k, v in (old or {}).get(part, {}).items() if k in done}, **new}

    header = {
        "engine": engine_hash(),
        "checkpoint": weights,
        "probes": hashes,
        "stimuli": {name: p.stimulus.args for name, p in measurer.probes.items()},
        "problems": merged("problems", measured.problems),
        "skipped": merged("skipped", measured.skipped),
    }
    write_table(path, frame)
    write_json(path.with_suffix(".json"), header)
    return True, header


def _read_header(path: Path) -> dict[str, Any] | None:
    file = path.with_suffix(".json")
    if not (file.is_file() and path.is_file()):
        return None
    try:
        header = read_json(file)
    except UserError:
        return None  # damaged: measure again
    wanted = {"engine", "checkpoint", "probes", "problems", "skipped"}
    return header if isinstance(header, dict) and wanted <= header.keys() else None


def _measure(directory: Path, measurer: Measurer, tokens_dir: Path | None, tokenizer: Path | None) -> Measured:
    """Rows of one checkpoint, each with the checkpoint's identity."""
    from nca_interp.model.checkpoint import read_provenance

    model = measurer.open(directory)
    provenance = read_provenance(directory)
    subject = describe(directory, model.config, provenance, tokens_dir, tokenizer)
    identity = {key: provenance.get(key) for key in IDENTITY}
    identity["run"] = identity["run"] or directory.resolve().name
    measured = measurer.measure(model, subject)
    return measured._replace(rows=[{**identity, **row} for row in measured.rows])


def choose(names: list[str] | None, folder: Path | None) -> tuple[dict[str, Definition], list[str]]:
    """Probe definitions by name (None: all that load) and the problems of files that do not load.

    Raises UserError for an unknown name, or one whose file does not load.
    """
    problems: list[str] = []
    found = load("probes", folder, problems.append)
    if names is None:
        return dict(sorted(found.items())), problems
    unknown = [name for name in names if name not in found]
    if unknown:
        broken = f"; these files do not load: {'; '.join(problems)}" if problems else ""
        raise UserError(f"unknown probe {unknown[0]!r}{suggest(unknown[0], found)}{broken}")
    return {name: found[name] for name in names}, []


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a data frame with the columns, order and types of the probes table."""
    return _typed(pd.DataFrame(rows, columns=COLUMNS))


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    for column in COLUMNS:
        if column in _INTEGERS:
            frame[column] = pd.to_numeric(frame[column]).astype("Int64")
        elif column in _NUMBERS:
            frame[column] = pd.to_numeric(frame[column]).astype(float)
        else:
            frame[column] = frame[column].astype(object).where(frame[column].notna(), "")
    return frame


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV, atomically; floats keep all their digits."""
    buffer = io.StringIO()
    frame.to_csv(buffer, index=False, lineterminator="\n")
    write_text(path, buffer.getvalue())


def read_table(path: Path) -> pd.DataFrame:
    """Read what `write_table` wrote of a probes table; UserError if it is damaged."""
    try:
        # every cell as text first: a regime may be called "nan", and Python's own float() reads back what was written
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)[COLUMNS]
        for column in _NUMBERS:
            frame[column] = [float(cell) if cell else None for cell in frame[column]]
        return _typed(frame)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not readable as a table of probes ({error}); delete it and analyse again") from None


@lru_cache(maxsize=1)
def engine_hash() -> str:
    """Hash of the code that makes the numbers: results of another engine are measured again."""
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in ATTENTION_CODE)).hexdigest()


def _path(value: Path | str | None) -> Path | None:
    return None if value is None else Path(value)
