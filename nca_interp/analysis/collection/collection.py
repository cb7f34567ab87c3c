"""A collection: the runs that are analysed together, of a study or of checkpoints that come from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from nca_interp.analysis.collection.run import Run, Trained
from nca_interp.base import Frozen, UserError
from nca_interp.config import Study
from nca_interp.data.tokens import TokenMeta, read_meta
from nca_interp.model.source import file_state
from nca_interp.overrides import parse
from nca_interp.readers import damaged
from nca_interp.store import AnalysisDir, RunDir, StudyDir, sha256_file
from nca_interp.train.run import RunConfig, read_run_config

Kind = Literal["study", "one", "pair", "series", "several"]
STAGES = {"ppt": 0, "pt": 1, "ft": 2}
ELSEWHERE = 3
"""Runs of no stage come after those that have one."""


class Settings(Frozen):
    """How checkpoints that come from elsewhere are read; a study's own need none of it."""

    tokens: str | None = None
    """The natural text: a token directory, whose validation rows it is, or a file of text in UTF-8."""
    tokenizer: str | None = None
    """Tokenizer of the natural text; null: each checkpoint's own."""
    text: tuple[str, ...] = ()
    """Files of the user's own text."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights; statistics are fp32 in any case."""
    random: int | None = Field(default=None, ge=0, le=100)
    """Randomly initialised models that heads are compared with; null: as many as the measurement finds enough."""
    fast: bool = False
    """A quarter of the sequences of each stimulus, no random models: a first look."""

    def decide(self) -> dict[str, Any]:
        """What of it decides numbers, beside the weights: empty for a study, whose checkpoints name their tokens."""
        said = self.model_dump(mode="json", exclude_defaults=True, exclude={"random", "device", "text"})
        if self.tokens is not None:
            said["tokens"] = _content(Path(self.tokens))
        return {"settings": said} if said else {}


class Entry(Frozen):
    """One checkpoint of a collection that is not a study."""

    path: str
    """Directory, or org/name[@revision] of the Hugging Face hub."""
    run: str
    """Run that it belongs to; checkpoints of one run are a series."""
    label: str = ""
    """Name in reports; default the run's."""
    regime: str = ""
    """What distinguishes its training; runs of one regime with several seeds are replicates. Default the label."""
    role: str = "regime"
    """regime, control, ..."""
    domain: str = ""
    """What it was trained on last."""
    stage: Literal["", "ppt", "pt", "ft"] = ""
    """Training stage."""
    seed: int | None = None
    """Replicate; seeds that regimes share make pairs."""
    step: int = Field(default=0, ge=0)
    """Optimiser step."""
    tokens: int | None = Field(default=None, ge=0)
    """Training tokens seen."""


class Listed(Frozen):
    """What collection.json holds."""

    title: str
    """Heading of the report."""
    entries: tuple[Entry, ...]
    """Every checkpoint, in order."""
    settings: Settings = Settings()
    """How they are read."""


@dataclass(frozen=True)
class Collection:
    """Runs that are analysed together, and the folder where everything measured of them lies."""

    dir: AnalysisDir
    title: str
    runs: tuple[Run, ...]
    settings: Settings = field(default_factory=Settings)
    study: Study | None = None
    """None: checkpoints from elsewhere."""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Collection:
        """The study or the collection in a folder, as it stands on disk; UserError where there is neither."""
        directory = AnalysisDir(folder)
        if directory.collection.is_file():
            saved = directory.read_collection()
            return cls.of(directory, parse(Listed, saved["collection"]), saved["provenance"])
        study = StudyDir.open(folder)
        config = study.study()
        return cls(study, config.title, tuple(read_runs(study)), Settings(), config, study.read_provenance())

    @classmethod
    def of(cls, directory: AnalysisDir, listed: Listed, provenance: Mapping[str, Any]) -> Collection:
        """Checkpoints that come from elsewhere, to be analysed in a folder."""
        return cls(directory, listed.title, _listed_runs(directory, listed.entries), listed.settings, None, provenance)

    @property
    def kind(self) -> Kind:
        """What the report is about."""
        if self.study is not None:
            return "study"
        if len(self.runs) == 1:
            return "series" if len(self.runs[0].steps) > 1 else "one"
        return "pair" if len(self.runs) == 2 and all(len(run.steps) == 1 for run in self.runs) else "several"

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.dir.path

    @property
    def by_id(self) -> dict[str, Run]:
        """Runs by id."""
        return {run.id: run for run in self.runs}

    def run(self, run_id: str) -> Run:
        """One of the runs."""
        return self.by_id[run_id]

    @property
    def roles(self) -> dict[str, str]:
        """Regime -> role, in the study's order, then in that of the runs."""
        declared = {r.name: r.role for r in self.study.regimes} if self.study is not None else {}
        return declared | {run.regime: run.role for run in self.runs if run.regime not in declared}

    @property
    def domains(self) -> dict[str, str]:
        """Domain -> label."""
        if self.study is not None:
            return {d.name: d.label for d in self.study.domains}
        return {run.domain: run.domain for run in self.runs if run.domain}


def _content(tokens: Path) -> str:
    """SHA-256 of a file of text, or of what names the content of a token directory; the path where there is neither."""
    file = tokens if tokens.is_file() else tokens / "meta.json"
    return sha256_file(file) if file.is_file() else str(tokens)


def read_runs(study: StudyDir) -> list[Run]:
    """All runs of a study that have begun, pre-pre-training first. UserError where a file of one is damaged or lost."""
    metas: dict[str, TokenMeta] = {}
    runs = []
    for run_dir in study.all_runs():
        config, status = _records(run_dir)
        if status["state"] == "new":
            continue
        if config.tokens not in metas:
            metas[config.tokens] = read_meta(study.path / config.tokens)
        runs.append(run_of(config, Trained(run_dir, dict(status), metas[config.tokens])))
    return sorted(runs, key=lambda r: (STAGES[r.stage], r.regime, r.domain, r.seed))


_READ: dict[Path, tuple[tuple[Any, ...], RunConfig, dict[str, Any]]] = {}
"""Records of runs that this process has read, with the state of the files in which they stood."""


def _records(run: RunDir) -> tuple[RunConfig, dict[str, Any]]:
    """Configuration and status of a run; read and checked again only where one of its files has changed, since a worker opens a study
    anew for each of its measurements."""
    state = tuple(_state(path) for path in (run.config, run.status_file, run.metrics, run.result))
    known = _READ.get(run.path)
    if known is None or known[0] != state:
        config, status = read_run_config(run), run.status()
        if status["state"] == "done":
            _check_done(run, config, status)
        known = _READ[run.path] = (state, config, status)
    return known[1:]


def _state(path: Path) -> tuple[int, ...] | None:
    """`file_state`; None where there is none."""
    try:
        return file_state(path)
    except OSError:
        return None


def _check_done(run: RunDir, config: RunConfig, status: dict[str, Any]) -> None:
    run.check_metrics(status)
    if config.stage == "ft" and not run.result.is_file():
        raise damaged(run.result, "no such file, though the run is done", run.anew())


def run_of(c: RunConfig, trained: Trained) -> Run:
    """A run that this project trained."""
    run_dir, tokens_a_step = trained.dir, c.config.batch_size * c.model.n_ctx
    steps = run_dir.steps()
    return Run(
        id=c.id,
        folder=run_dir.path,
        regime=c.regime,
        label=c.label,
        role=c.role,
        domain=c.domain or "",
        seed=c.seed,
        stage=c.stage,
        directories={step: run_dir.checkpoint(step) for step in steps},
        tokens_at={step: step * tokens_a_step for step in steps},
        parent=c.parent,
        keep=c.keep,
        source=trained.meta.spec,
        config=c,
        trained=trained,
    )


def planned(config: RunConfig) -> Run:
    """A run before it has begun: what it will be, without checkpoints."""
    return Run(
        config.id, Path(config.id), config.regime, config.label, config.role, config.domain or "", config.seed, config.stage,
        parent=config.parent, keep=config.keep, source=config.source, config=config,
    )  # fmt: skip


def _listed_runs(directory: AnalysisDir, entries: tuple[Entry, ...]) -> tuple[Run, ...]:
    """Runs in the order in which they are first named."""
    from nca_interp.analysis.stimuli.source import Source

    grouped: dict[str, list[Entry]] = {}
    for entry in entries:
        grouped.setdefault(entry.run, []).append(entry)
    runs = []
    for run_id, of_run in grouped.items():
        series = sorted(of_run, key=lambda e: e.step)
        first = series[0]
        if len({e.step for e in series}) < len(series):
            raise UserError(f"{directory.collection}: run {run_id!r} has two checkpoints of one step")
        label = first.label or run_id
        directories = {e.step: Source.find(e.path).directory for e in series}
        runs.append(
            Run(
                id=run_id,
                folder=directory.measured / run_id,
                regime=first.regime or label,
                label=label,
                role=first.role,
                domain=first.domain,
                seed=first.seed,
                stage=first.stage,
                directories=directories,
                tokens_at={e.step: e.tokens for e in series if e.tokens is not None},
                source=_source_of(series[-1], directories),
            )
        )
    return tuple(runs)


def _source_of(entry: Entry, directories: Mapping[int, Path]) -> dict[str, Any]:
    """What our own provenance says of its tokens; empty for others' checkpoints."""
    from nca_interp.model.checkpoint import read_provenance

    spec = (read_provenance(directories[entry.step]).get("meta") or {}).get("spec")
    return spec if isinstance(spec, dict) else {}
