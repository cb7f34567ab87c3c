"""A study's runs as they stand on disk: configuration, status, metrics, what their tokens are."""

from __future__ import annotations

from typing import Any, NamedTuple

from nca_interp.data.tokens import TokenMeta
from nca_interp.overrides import parse
from nca_interp.store import MANIFEST, RunDir, StudyDir, read_json
from nca_interp.train.run import RunConfig

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
        return self.tokens * self.flops_per_token

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding and the unembedding, those that no token has included."""
        return max(self.meta.vocab_size, self.config.config.vocab_rows or 0)

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs a token, all rows of the unembedding multiplied."""
        return self.config.model.flops_per_token(self.vocab_rows)


def read_runs(directory: StudyDir) -> list[Run]:
    """All runs that have begun and whose tokens are there, pre-pre-training first."""
    metas: dict[str, TokenMeta] = {}
    runs = []
    for run_dir in directory.all_runs():
        config = parse(RunConfig, read_json(run_dir.config))
        path = directory.path / config.tokens / "meta.json"
        if config.tokens not in metas:
            metas[config.tokens] = TokenMeta.model_validate(read_json(path))
        status = run_dir.status()
        if status["state"] != "new":
            runs.append(Run(run_dir, config, status, metas[config.tokens], run_dir.read_metrics()))
    order = {"ppt": 0, "pt": 1, "ft": 2}
    return sorted(runs, key=lambda r: (order[r.config.stage], r.config.regime, r.config.domain or "", r.config.seed))


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
    manifest = read_json(run_dir.checkpoint(steps[-1]) / MANIFEST)
    return next((e["sha256"] for name, e in sorted(manifest.items()) if name.endswith(".safetensors")), "")
