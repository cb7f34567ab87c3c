"""The null of every probe: what randomly initialised models of the same architecture score (Dead Salmons, arXiv 2512.18792)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nca_interp.analysis.probing.measure import Measured, Measurer
from nca_interp.analysis.stimuli.base import Subject

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PERCENTILE = 95


def random_models(config: Any, n: int, dtype: torch.dtype, device: Any) -> Iterator[PreTrainedModel]:
    """`n` models of a Hugging Face `config` with freshly drawn weights, one at a time, the same ones in every call."""
    from transformers import AutoModelForCausalLM

    for seed in range(n):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype)
        yield drawn.to(device).eval()
        del drawn  # two at a time are not needed


def like(model: PreTrainedModel, n: int) -> Iterator[PreTrainedModel]:
    """`n` randomly initialised models of the configuration, device and precision of `model`."""
    return random_models(model.config, n, model.dtype, model.device)


def add_null(measured: Measured, measurer: Measurer, models: Iterator[PreTrainedModel], subject: Subject) -> None:
    """Fill in `null_95`, the 95th percentile of a probe over all heads of the models, and `hit`, whether a head of the
    kind that the probe looks for is above it and above the probe's threshold (None where the probe names no kind)."""
    values: dict[str, list[float]] = {}
    for model in models:
        for row in measurer.measure(model, subject).rows:
            values.setdefault(row["probe"], []).append(row["value"])
    for row in measured.rows:
        drawn, threshold = values.get(row["probe"]), measurer.probes[row["probe"]].hit
        if drawn:
            row["null_95"] = float(np.percentile(drawn, PERCENTILE))
            if threshold is not None:
                row["hit"] = int(row["value"] > max(threshold, row["null_95"]))
