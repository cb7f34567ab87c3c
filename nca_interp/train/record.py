"""What a run leaves on disk while it goes: metrics, checkpoints, resumable states."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from nca_interp.model.checkpoint import save_model
from nca_interp.store import read_json
from nca_interp.train.loop_state import Loop
from nca_interp.train.parallel import whole
from nca_interp.train.state import save_state
from nca_interp.train.update import GROUPS, Step


def record_start(loop: Loop) -> None:
    """The row of step 0: the loss before any training."""
    if loop.main:
        loop.run.append_metrics(_row(loop, {"loss": loop.val["val_loss"], "lr": 0.0}))


def record_step(loop: Loop, step: Step, seconds: float, waited: float) -> None:
    """The row of the step just taken: `seconds` long, of which the data took `waited`."""
    if not loop.main:
        return
    norms = {f"grad_norm_{group}": _finite(step.grad_norms[group]) for group in GROUPS}
    row = _row(
        loop,
        {
            "loss": _finite(step.loss),
            "grad_norm": _finite(step.grad_norms["total"]),
            **norms,
            "lr": loop.optimizer.param_groups[0]["lr"],
            "tokens_per_second": round(loop.config.config.batch_size * loop.config.model.n_ctx / seconds, 1),
            "loader_share": round(waited / seconds, 5),
            "event": step.verdict.event,
            "skipped": step.verdict.skip,
        },
    )
    loop.run.append_metrics(row)
    for tracker in loop.trackers:
        tracker.log({key: value for key, value in row.items() if isinstance(value, float | int)}, step=loop.step)


def _row(loop: Loop, values: dict[str, Any]) -> dict[str, Any]:
    keys = (
        "loss", "val_loss", "val_bpb", "grad_norm", *(f"grad_norm_{group}" for group in GROUPS), "lr",
        "tokens_per_second", "loader_share", "event", "skipped",
    )  # fmt: skip
    known = {"skipped": False, **loop.val, **values}
    tokens = loop.step * loop.config.config.batch_size * loop.config.model.n_ctx
    return {"step": loop.step, "tokens": tokens, **{key: known.get(key) for key in keys}}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def checkpoint(loop: Loop) -> None:
    """Write the Hugging Face directory of this step; every process takes part, the first one writes."""
    weights = {name: whole(value) for name, value in loop.raw_model.state_dict().items()}
    loop.accelerator.wait_for_everyone()
    if not loop.main:
        return
    config = loop.config
    tokenizer = loop.study.path / config.tokens / "tokenizer.json"
    provenance = {
        "run": config.id,
        "stage": config.stage,
        "regime": config.regime,
        "domain": config.domain,
        "seed": config.seed,
        "seeds": config.seeds.model_dump(),
        "step": loop.step,
        "tokens": loop.step * config.config.batch_size * config.model.n_ctx,
        "tokens_dir": config.tokens,
        "vocab_size": loop.tokens.meta.vocab_size,
        "meta": loop.tokens.meta.model_dump(mode="json"),
        "precision": config.precision,
        "execution": loop.execution._asdict(),
        "plan_sha256": _recorded(loop.study.plan),
        "validation_sha256": _recorded(loop.run.validation) if loop.step == config.config.steps else None,
    }
    path = loop.run.checkpoint(loop.step)
    save_model(loop.raw_model, path, provenance, tokenizer if tokenizer.is_file() else None, weights)


def _recorded(path: Path) -> str | None:
    """The hash that a file of ours states of its own content, if there is such a file."""
    return str(read_json(path).get("sha256")) if path.is_file() else None


def keep_state(loop: Loop) -> None:
    """Write the resumable state of this step; every process takes part, the first one writes."""
    save_state(loop.run, loop.raw_model, loop.optimizer, loop.step, loop.config.config.state_steps, write=loop.main)
