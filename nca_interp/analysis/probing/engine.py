"""Every probe on every head of a checkpoint: one forward pass a stimulus, reduced while it runs.

`analyze` takes any Hugging Face causal language model; `analyze_run` measures all checkpoints of a run, skips what was
measured with the same weights, probe file and engine, and recomputes a changed probe alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pandas as pd

from nca_interp.analysis.attention.anatomy import _KNOWN as WATCHED
from nca_interp.analysis.cache import code_hash
from nca_interp.analysis.collection.collection import Settings
from nca_interp.analysis.collection.run import CHECKPOINT, Run
from nca_interp.analysis.collection.series import Series
from nca_interp.analysis.probing.cache import Refreshed, refresh
from nca_interp.analysis.probing.measure import ENGINE_CODE, Measured, Measurer, open_scored
from nca_interp.analysis.probing.memory import handing_out, is_model, name_of, on_disk, weights_of
from nca_interp.analysis.probing.null import add_null, like
from nca_interp.analysis.probing.opened import open_last
from nca_interp.analysis.probing.probe import TIMES_CHANCE
from nca_interp.analysis.probing.table import COLUMNS as COLUMNS
from nca_interp.analysis.probing.table import read_table as read_table
from nca_interp.analysis.probing.table import table
from nca_interp.analysis.stimuli.base import Subject, account
from nca_interp.analysis.stimuli.source import Source, unchanged, weights_sha256
from nca_interp.analysis.stimuli.subject import describe
from nca_interp.base import UserError
from nca_interp.config import suggest
from nca_interp.discover import Definition, load
from nca_interp.machine import package_versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


Tell = Callable[[float], None]
"""tell(share that is done)."""
Opener = Callable[[int], Any]
"""Opens a run's checkpoint of a step."""
KEPT = 2
"""Subjects whose stimuli a process keeps."""
_BATCHES: dict[tuple[Any, ...], Any] = {}
"""Stimuli of this process, and with them what does not depend on the weights."""


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


def analyze(
    checkpoint: Path | str | PreTrainedModel,
    tokenizer: Path | str | PreTrainedTokenizerBase | None = None,
    *,
    probes: Iterable[str] | None = None,
    probes_folder: Path | str | None = None,
    tokens: Path | str | None = None,
    random: int = 0,
    device: str | None = None,
    dtype: str | None = None,
) -> pd.DataFrame:
    """Tidy table of all `probes` (default: every one found) on one checkpoint, columns as in docs/tables.md.

    `checkpoint`: a Hugging Face directory, `org/name[@revision]` of the hub where there is a network, or a causal language
    model of transformers in memory, which stays as it is, where it is. Natural text comes from `tokens` (a token directory
    or a file of text in UTF-8) or, for models of others, from an English text, in the tokens of `tokenizer`: a path, a
    name on the hub, a fast tokenizer of transformers (default: the checkpoint's own; of a model in memory that of the folder that it is from).
    `random`: measure this many randomly initialised models of the same configuration
    too, and give for each probe the 95th percentile of their heads (null_95; five or more are advised) and whether a
    head is a hit: above its probe's threshold and above null_95. `device` (default cpu) and `dtype` (default float32; or
    bfloat16, float16) of the weights of a checkpoint; statistics are fp32 in any case.

    `attrs`: "problems", probes that failed (file, line and reason; also a warning each), "skipped", those that do not
    apply, and "provenance": checkpoint and its SHA-256, each probe's file, hash and stimulus, what its stimuli
    are made of, engine, versions. Raises
    UserError for a checkpoint that cannot be opened or changes while it is read, an unknown probe, a probe asked for by
    name that does not apply, and where no probe applies at all.
    """
    names = None if probes is None else list(probes)
    definitions, load_problems = choose(names, _path(probes_folder))
    measurer = Measurer(definitions)
    with on_disk(tokenizer) as files:
        if is_model(checkpoint):
            measured, read = _measure_model(
                cast(Any, checkpoint), measurer, _path(tokens), files, random, device or dtype
            )
        else:
            source, asked = Source.find(cast(Path | str, checkpoint)), (device or "cpu", dtype or "float32")
            measured = _measure(source.directory, measurer, _path(tokens), files, random, *asked)
            read = {
                "checkpoint": str(checkpoint),
                "checkpoint_sha256": source.sha256(),
                "device": asked[0],
                "dtype": asked[1],
            }
    if measured.skipped and (names is not None or not (measured.rows or measured.problems)):
        name, reason = next(iter(measured.skipped.items()))
        raise UserError(f"{read['checkpoint']}: probe {name} does not apply: {reason}")
    frame = table(measured.rows)
    frame.attrs = {
        "problems": [*load_problems, *measured.problems.values()],
        "skipped": [f"{name}: {reason}" for name, reason in measured.skipped.items()],
        "provenance": {
            **read,
            "engine": engine_hash(),
            "random": random,
            "tokens": measured.tokens,
            "probes": {
                name: {"file": d.path.name, "sha256": d.sha256, "stimulus": d.value.stimulus.args}
                for name, d in definitions.items()
            },
            "versions": package_versions(),
        },
    }
    for problem in frame.attrs["problems"]:
        warnings.warn(problem, stacklevel=2)
    return frame


def analyze_run(
    run: Run,
    *,
    probes: Iterable[str] | None = None,
    probes_folder: Path | None = None,
    settings: Settings | None = None,
    on_step: Callable[[int, int], None] | None = None,
    tell: Tell = lambda share: None,
) -> RunAnalysis:
    """Measure every checkpoint of a run into probes/step-XXXXXXXX.csv, with step-XXXXXXXX.json saying from what.

    A checkpoint is done when its weights, the probe files, the engine and the `settings` are those recorded. `on_step(done,
    total)` is called after each, `tell(share of all that is done)` within them, too. A damaged checkpoint is a problem of the run, the others are measured.
    """
    definitions, problems = choose(None if probes is None else list(probes), probes_folder)
    measurer, settings = shared(definitions), settings or Settings()
    open_ = _opener(run, settings)
    computed, skipped = 0, []
    for index, step in enumerate(run.steps):
        try:
            within = partial(_within, tell, index, len(run.steps))
            changed, header = _analyze_step(run, step, measurer, settings, open_, within)
        except UserError as error:
            problems.append(str(error))
            continue
        computed += changed
        problems += [p for p in header["problems"].values() if p not in problems]
        skipped += [{"step": step, "probe": name, "reason": reason} for name, reason in header["skipped"].items()]
        if on_step is not None:
            on_step(index + 1, len(run.steps))
    return RunAnalysis(computed, len(run.steps) - computed, problems, skipped)


def shared(definitions: dict[str, Definition]) -> Measurer:
    """A measurer that finds what those before it in this process have kept: a worker's next run is often shown the same."""
    measurer = Measurer(definitions)
    measurer._batches = _BATCHES
    return measurer


def keep_recent(measurer: Measurer, subject: Subject) -> None:
    """Of what a measurer keeps, leave what belongs to the KEPT subjects that were measured last, `subject` the last of them."""
    batches, recent = measurer._batches, {key[1:]: None for key in measurer._batches}
    recent.pop(subject.key, None)
    order = [*recent, subject.key]
    kept = sorted(
        (item for item in batches.items() if item[0][1:] in order[-KEPT:]), key=lambda i: order.index(i[0][1:])
    )
    batches.clear()
    batches.update(kept)


def _opener(run: Run, settings: Settings) -> Opener:
    """How the checkpoints of a run are opened for their scores: those of our own trainer into one model."""
    if run.config is None:
        return lambda step: open_last(run.checkpoint(step), settings.device, settings.dtype)
    series = Series(run, settings, lambda directory: open_scored(directory, settings.device, settings.dtype))

    def opened(step: int) -> Any:
        model = series.open(step)
        WATCHED.pop(model, None)  # what was seen of it depends on its weights
        return model

    return opened


def _within(tell: Tell, index: int, total: int, share: float) -> None:
    tell((index + share) / total)


def _analyze_step(run: Run, step: int, measurer: Measurer, settings: Settings, open_: Opener, tell: Tell) -> Refreshed:
    directory = run.checkpoint(step)
    made_from = {"engine": engine_hash(), "checkpoint": weights_sha256(directory), **settings.decide()}

    def measure(missing: Measurer) -> Measured:
        found = _measure(
            directory, missing, _path(settings.tokens), _path(settings.tokenizer), fast=settings.fast,
            open_=lambda: open_(step), tell=tell,
        )  # fmt: skip
        return found._replace(rows=[{**row, **run.at(step)} for row in found.rows])

    return refresh(run.kept("probes", step), measurer, made_from, measure)


def _measure(
    directory: Path,
    measurer: Measurer,
    tokens: Path | None = None,
    tokenizer: Path | None = None,
    random: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    fast: bool = False,
    open_: Callable[[], PreTrainedModel] | None = None,
    tell: Tell = lambda share: None,
) -> Measured:
    """Rows of one checkpoint, each with the checkpoint's identity; `open_`: how it is opened, if not by itself."""
    from nca_interp.model.checkpoint import read_provenance

    with unchanged(directory):
        model = open_scored(directory, device, dtype) if open_ is None else open_()
        provenance = read_provenance(directory)
        subject = replace(describe(directory, model.config, provenance, tokens, tokenizer), fast=fast)
        measured = measurer.measure(model, subject, tell)
        keep_recent(measurer, subject)
    if random:
        _add_null(measured, measurer, model, random, subject)
    return _identified(measured, subject, provenance, directory.resolve().name)


def _add_null(measured: Measured, measurer: Measurer, model: PreTrainedModel, models: int, subject: Subject) -> None:
    """`add_null`, and no head is of a kind by what uniform attention has."""
    add_null(measured, measurer, like(model, models), subject)
    for row in measured.rows:
        if row["hit"] and row["chance"] is not None:
            row["hit"] = int(row["value"] > TIMES_CHANCE * row["chance"])


def _measure_model(
    model: PreTrainedModel, measurer: Measurer, tokens: Path | None, tokenizer: Path | None, random: int, moved: str | None
) -> tuple[Measured, dict[str, Any]]:  # fmt: skip
    """Rows of a model in memory, and what it is for provenance."""
    if moved is not None:
        raise UserError(f"{moved!r}: a model in memory is measured where it is and as it is; move it before")
    name = name_of(model)
    with handing_out(model):
        subject = describe(Path(name), model.config, {}, tokens, tokenizer)
        measured = measurer.measure(model, subject)
        if random:
            _add_null(measured, measurer, model, random, subject)
    read = {
        "checkpoint": name, "checkpoint_sha256": weights_of(model), "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
    }  # fmt: skip
    return _identified(measured, subject, {}, Path(name).name), read


def _identified(measured: Measured, subject: Subject, provenance: dict[str, Any], name: str) -> Measured:
    """Rows with the checkpoint's identity, and what the stimuli were made of."""
    identity = {key: provenance.get(key) for key in CHECKPOINT}
    identity["run"] = identity["run"] or name
    return measured._replace(rows=[{**identity, **row} for row in measured.rows], tokens=account(subject))


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


def engine_hash() -> str:
    """Hash of the code that makes the numbers: results of another engine are measured again."""
    return code_hash(ENGINE_CODE)


def _path(value: Path | str | None) -> Path | None:
    return None if value is None else Path(value)
