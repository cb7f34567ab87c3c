"""A study's runs as they stand on disk: configuration, status, metrics, what their tokens are."""

from __future__ import annotations

from typing import Any, NamedTuple

from nca_interp.data.tokens import TokenMeta, read_meta
from nca_interp.files import weight_hashes
from nca_interp.readers import damaged
from nca_interp.store import RunDir, StudyDir
from nca_interp.train.run import RunConfig, read_run_config

IDENTITY = ["run", "regime", "domain", "seed", "stage"]
"""Columns that name a run in every tidy table."""
CHECKPOINT = [*IDENTITY, "step", "tokens"]
"""Columns that name one of its checkpoints."""


class Run(NamedTuple):
    """One run as it stands on disk."""

    dir: RunDir
    config: RunConfig
    status: dict[str, Any]
    meta: TokenMeta
    rows: list[dict[str, Any]]
    """Its metrics."""

    @property
    def identity(self) -> dict[str, Any]:
        """The columns IDENTITY."""
        c = self.config
        return dict(zip(IDENTITY, (c.id, c.regime, c.domain or "", c.seed, c.stage), strict=True))

    def at(self, step: int) -> dict[str, Any]:
        """The columns CHECKPOINT of one of its checkpoints."""
        return {**self.identity, "step": step, "tokens": step * self.config.config.batch_size * self.config.model.n_ctx}

    @property
    def done(self) -> bool:
        """Whether it ended as planned; no other run enters a comparison."""
        return self.status["state"] == "done"

    @property
    def tokens(self) -> int:
        """Training tokens so far."""
        return int(self.status.get("step", 0)) * self.config.config.batch_size * self.config.model.n_ctx

    @property
    def flops(self) -> float:
        """Training FLOPs so far."""
        return self.tokens * self.config.model.flops_per_token(self.meta.vocab_size)


def read_runs(directory: StudyDir) -> list[Run]:
    """All runs that have begun, pre-pre-training first. UserError where a file of one is damaged or lost."""
    metas: dict[str, TokenMeta] = {}
    runs = []
    for run_dir in directory.all_runs():
        config = read_run_config(run_dir)
        if (status := run_dir.status())["state"] == "new":
            continue
        if config.tokens not in metas:
            metas[config.tokens] = read_meta(directory.path / config.tokens)
        if status["state"] == "done":
            _check_done(run_dir, config, status)
        runs.append(Run(run_dir, config, status, metas[config.tokens], run_dir.read_metrics()))
    order = {"ppt": 0, "pt": 1, "ft": 2}
    return sorted(runs, key=lambda r: (order[r.config.stage], r.config.regime, r.config.domain or "", r.config.seed))


def _check_done(run: RunDir, config: RunConfig, status: dict[str, Any]) -> None:
    run.check_metrics(status)
    if config.stage == "ft" and not run.result.is_file():
        raise damaged(run.result, "no such file, though the run is done", run.anew())


def ppt_of(run: Run, by_id: dict[str, Run]) -> Run | None:
    """The pre-pre-training that a run builds on, if any."""
    parent = by_id.get(run.config.parent or "")
    while parent is not None and parent.config.stage != "ppt":
        parent = by_id.get(parent.config.parent or "")
    return parent


def validations(run: Run) -> list[tuple[float, float]]:
    """(tokens, validation loss) in order; a step logged twice (before and after a restart) counts as logged last."""
    found = {row["step"]: (row["tokens"], row["val_loss"]) for row in run.rows if row.get("val_loss") is not None}
    return [found[step] for step in sorted(found)]


def weights_hash(run_dir: RunDir) -> str:
    """SHA-256 of the last checkpoint's weights, as its manifest has it."""
    steps = run_dir.steps()
    if not steps:
        return ""
    return next((sha256 for _, sha256 in sorted(weight_hashes(run_dir.checkpoint(steps[-1])).items())), "")
