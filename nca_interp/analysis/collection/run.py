"""A run as the analysis sees it: the checkpoints of one network in the order of its training, and who it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nca_interp.config import MODULES
from nca_interp.data.tokens import TokenMeta
from nca_interp.files import weight_hashes
from nca_interp.graft import NOTHING
from nca_interp.store import MANIFEST, RunDir, kept_table
from nca_interp.train.run import RunConfig

IDENTITY = ["run", "regime", "domain", "seed", "stage"]
"""Columns that name a run in every tidy table."""
CHECKPOINT = [*IDENTITY, "step", "tokens"]
"""Columns that name one of its checkpoints."""


@dataclass(frozen=True)
class Trained:
    """What this project's trainer left of a run."""

    dir: RunDir
    status: dict[str, Any]
    meta: TokenMeta

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Its metrics, read when they are first asked for: a measurement of one run needs those of no other. UserError names a bad
        line."""
        return self.dir.read_metrics()


@dataclass(frozen=True)
class Run:
    """Checkpoints of one network in the order of its training; a single checkpoint is a run of one."""

    id: str
    folder: Path
    """Where what is measured of it is kept."""
    regime: str = ""
    label: str = ""
    """Its regime's name in reports."""
    role: str = "regime"
    """Comparison it belongs to: regime, control, transfer, ..."""
    domain: str = ""
    seed: int | None = None
    stage: str = ""
    """ppt, pt, ft, or empty where nobody said."""
    directories: Mapping[int, Path] = field(default_factory=dict)
    """Checkpoints by step, ascending."""
    tokens_at: Mapping[int, int] = field(default_factory=dict)
    """Training tokens by step, where known."""
    parent: str | None = None
    """Id of the run that it started from."""
    keep: tuple[str, ...] = ()
    """Module types that it got from there."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """What its tokens were made from; empty where unknown."""
    config: RunConfig | None = None
    """None: trained elsewhere."""
    trained: Trained | None = None
    """None: trained elsewhere, or not begun."""

    @property
    def identity(self) -> dict[str, Any]:
        """The columns IDENTITY."""
        return dict(zip(IDENTITY, (self.id, self.regime, self.domain, self.seed, self.stage), strict=True))

    def at(self, step: int) -> dict[str, Any]:
        """The columns CHECKPOINT of one of its checkpoints."""
        return {**self.identity, "step": step, "tokens": self.tokens_at.get(step)}

    @property
    def carries_all(self) -> bool:
        """Whether it got the whole body of the run that it started from."""
        return set(self.keep) == set(MODULES) and (self.config is None or self.config.graft == NOTHING)

    @property
    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending."""
        return list(self.directories)

    def checkpoint(self, step: int) -> Path:
        """Directory of the checkpoint after `step` steps."""
        return self.directories[step]

    @property
    def last(self) -> Path:
        """Directory of its last checkpoint."""
        return self.directories[self.steps[-1]]

    def kept(self, measurement: str, step: int) -> Path:
        """Where a measurement keeps its rows of one checkpoint."""
        return kept_table(self.folder, measurement, step)

    def kept_whole(self, measurement: str, table: str) -> Path:
        """Where a measurement of the whole run keeps one of its tables."""
        return self.folder / measurement / f"{table}.csv"

    @property
    def tokens(self) -> int:
        """Training tokens so far, of a run of this project's trainer."""
        assert self.config is not None
        assert self.trained is not None
        return int(self.trained.status.get("step", 0)) * self.config.config.batch_size * self.config.model.n_ctx

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding and the unembedding of a run of this project's trainer, those that no token has included."""
        assert self.config is not None
        assert self.trained is not None
        return max(self.trained.meta.vocab_size, self.config.config.vocab_rows or 0)

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs a token of a run of this project's trainer, all rows of the unembedding multiplied."""
        assert self.config is not None
        return self.config.model.flops_per_token(self.vocab_rows)

    @property
    def flops(self) -> float:
        """Training FLOPs so far, of a run of this project's trainer."""
        return self.tokens * self.flops_per_token

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Its metrics; none where it was trained elsewhere."""
        return self.trained.rows if self.trained is not None else []

    @property
    def done(self) -> bool:
        """Whether it ended as planned; no other run enters a comparison."""
        return self.trained is None or self.trained.status["state"] == "done"


def ppt_of(run: Run, by_id: Mapping[str, Run]) -> Run | None:
    """The pre-pre-training that a run builds on, if any."""
    parent = by_id.get(run.parent or "")
    while parent is not None and parent.stage != "ppt":
        parent = by_id.get(parent.parent or "")
    return parent


def validations(run: Run) -> list[tuple[float, float]]:
    """(tokens, validation loss) in order; a step logged twice (before and after a restart) counts as logged last."""
    found = {row["step"]: (row["tokens"], row["val_loss"]) for row in run.rows if row.get("val_loss") is not None}
    return [found[step] for step in sorted(found)]


def weights_hash(run: Run) -> str:
    """SHA-256 of the last checkpoint's weights, as its manifest has it; empty where there is none."""
    if not run.steps or not (run.last / MANIFEST).is_file():
        return ""
    return next((sha256 for _, sha256 in sorted(weight_hashes(run.last).items())), "")
