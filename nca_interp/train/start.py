"""swap.json: what happened between the synthetic stage and language, and what the network is like before its first step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nca_interp.data.tokens import TokenFile
from nca_interp.graft import NOTHING
from nca_interp.model.start import measure_start
from nca_interp.store import RunDir, StudyDir, write_json
from nca_interp.train.batches import to_tensors
from nca_interp.train.grafted import grafted_heads
from nca_interp.train.run import RunConfig, read_run_config

TOKENS = 4096
"""Positions that are measured, of the first validation rows."""


def record_swap(
    study: StudyDir, run: RunDir, config: RunConfig, tokens: TokenFile, model: Any, parent: Any, log: Sequence[dict[str, Any]],
) -> None:  # fmt: skip
    """Write swap.json of a pre-training run, of a scratch run too, once; what it holds: docs/swap.md.

    `model` before its first step, and `parent` (None: scratch) on its own validation rows, both on the device of their weights.
    """
    path = run.path / "swap.json"
    if path.exists():
        return
    found = {
        "parent": config.parent,
        "policy": config.swap.model_dump(mode="json"),
        "words": config.swap.words(config.model),
        **_grafted(study, config),
        "tensors": list(log),
        "before": _of_parent(study, config, parent),
        "after": {"tokens": config.tokens, "rows": _measured(model, tokens, _prefix(config, tokens))},
    }
    write_json(path, found)


def _grafted(study: StudyDir, config: RunConfig) -> dict[str, Any]:
    """What was re-initialised or kept, with the heads that were found or drawn; nothing where everything is carried over."""
    if config.graft == NOTHING:
        return {}
    heads = grafted_heads(study, config)
    return {
        "graft": config.graft.model_dump(mode="json"), "graft_words": config.graft.words(), "donor": config.donor,
        "heads": [list(head) for head in heads.heads], "heads_disjoint": heads.disjoint,
    }  # fmt: skip


def _of_parent(study: StudyDir, config: RunConfig, parent: Any) -> dict[str, Any] | None:
    """What the parent was like at its end; None for scratch, and where the parent's tokens are gone."""
    if config.parent is None or parent is None:
        return None
    own = read_run_config(study.run(config.parent))
    folder: Path = study.path / own.tokens
    if not (folder / "meta.json").is_file():
        return None
    tokens = TokenFile.open(folder)
    return {"tokens": own.tokens, "rows": _measured(parent, tokens, _prefix(own, tokens))}


def _prefix(config: RunConfig, tokens: TokenFile) -> int:
    return 0 if config.config.first_frame_targets else tokens.meta.unsupervised_prefix


def _measured(model: Any, tokens: TokenFile, prefix: int) -> list[dict[str, Any]]:
    rows = slice(0, max(1, TOKENS // tokens.meta.seq_len))
    mask = tokens.val_mask
    inputs, targets = to_tensors(tokens.val[rows], prefix, None if mask is None else mask[rows])
    with torch.enable_grad():
        return measure_start(model, inputs, targets)
