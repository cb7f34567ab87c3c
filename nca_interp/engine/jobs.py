"""What a worker process does with one job. Every job is idempotent: a finished one returns at once."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from nca_interp.base import RunFailed, UserError
from nca_interp.engine.graph import Job, MeasureJob, TokensJob
from nca_interp.files import damage, held, sweep
from nca_interp.machine import give_back
from nca_interp.store import AnalysisDir, StudyDir, read_json
from nca_interp.train.run import RunConfig

Say = Callable[[str, float | None], None]
GENEROUS = 2**30
"""Bytes of a worker above which it gives back what a measurement freed; small models are faster with memory that is still there."""
SAY_SECONDS = 1.0
"""Between two words on how much of a token file is written, at least."""


def execute(
    study_path: Path, job: Job, probes: Path | None, say: Say = lambda what, share: None, smaller: bool = False
) -> None:
    """Do one job in this process. `say(what, share done)` is called now and then, by training only where it takes
    no steps; one that is to be `smaller` halves its micro-batch. Raises UserError, RunFailed or train.loop.Stopped as its part of the work does."""
    study = StudyDir(study_path)
    if isinstance(job.payload, TokensJob):
        path = study.path / job.payload.path
        with held(study.token_lock(path.name), lambda: f"{path}: another process is writing these tokens"):
            sweep(path.parent, path.name)
            write_token_files(study, job.payload, say)
    elif isinstance(job.payload, MeasureJob):
        if problems := _measure(study_path, job.payload, probes, say):  # all else is measured and written
            raise RunFailed("\n".join(problems))
    else:
        from nca_interp.train.grafted import left_out
        from nca_interp.train.loop import train

        if why := left_out(study, job.payload):
            logging.getLogger("nca_interp").warning("%s is left out: %s", job.payload.id, why)
        else:
            train(study, job.payload, smaller, say)


def _measure(folder: Path, job: MeasureJob, probes: Path | None, say: Say) -> list[str]:
    from nca_interp.analysis.collection.collection import Collection
    from nca_interp.measurement import Asked, measurements, resolve

    collection, one = Collection.open(folder), measurements()[job.what]
    assert one.measure is not None
    if (run := collection.by_id.get(job.subject)) is None:
        return []  # its training is done, so it was left out
    problems: list[str] = resolve(one.measure)(run, Asked(collection, one.read(job.options), probes, say, job.part))
    if psutil.Process().memory_info().rss > GENEROUS:
        give_back()
    return problems


def write_token_files(study: StudyDir, job: TokensJob, say: Say = lambda what, share: None) -> None:
    """Write one token directory (or check that it is there)."""
    from pydantic import TypeAdapter

    from nca_interp.data.specs import QaSpec, SourceSpec

    directory = study.path / job.path
    if job.tokenizer_from is not None:
        from nca_interp.data.text.qa import write_qa

        spec = QaSpec.model_validate(job.spec)
        write_qa(directory, spec, study.path / job.tokenizer_from, seq_len=job.seq_len, seed=job.seed)
        return
    from nca_interp.data.tokens import remarks, write_tokens

    source = TypeAdapter(SourceSpec).validate_python(job.spec)
    meta = write_tokens(
        directory,
        source,
        n_train=job.n_train,
        n_val=job.n_val,
        seq_len=job.seq_len,
        seed=job.seed,
        progress=_sparing(say),
    )
    for line in remarks(meta.provenance):
        logging.getLogger("nca_interp").warning(line)


def _sparing(say: Say) -> Say:
    """The same, at most every SAY_SECONDS: token files report every chunk."""
    last = [-math.inf]

    def spared(what: str, share: float | None) -> None:
        if time.monotonic() - last[0] >= SAY_SECONDS:
            last[0] = time.monotonic()
            say(what, share)

    return spared


def is_done(folder: AnalysisDir, job: Job) -> bool:
    """Whether a job's result is already there, as far as that shows without opening it."""
    study = StudyDir(folder.path)
    if isinstance(job.payload, TokensJob):
        return _tokens_stand(study.path / job.payload.path / "meta.json")
    if isinstance(job.payload, RunConfig):
        from nca_interp.train.grafted import left_out

        run = study.run(job.payload.id)
        if not run.config.is_file():
            return bool(left_out(study, job.payload))
        same = run.config.is_file() and RunConfig.model_validate(run.read(run.config)) == job.payload
        final = run.checkpoint(job.payload.config.steps)
        return same and run.status()["state"] == "done" and damage(final, quick=True) is None
    return False  # cheap to ask the measurement itself, which compares hashes


def _tokens_stand(meta: Path) -> bool:
    """Whether tokens are there and none of the files that they were made of seems to have changed."""
    from nca_interp.data.text.inputs import touched

    try:
        return meta.is_file() and not touched(read_json(meta))
    except (UserError, KeyError, TypeError, AttributeError):  # damaged: the job itself says how
        return False
