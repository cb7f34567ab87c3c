"""What only a control has on its page: what its ideal predictors pay, and which of its tokens were a choice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.verdicts.statistics import cluster_interval
from nca_interp.data.control_rows import chosen, ideal_losses
from nca_interp.data.controls.base import Control
from nca_interp.data.sample import Sample

IDEAL_BINS = 32
"""Stretches of a row whose ideal losses are told."""


def ideals(sample: Sample) -> tuple[pd.DataFrame, dict[str, float]]:
    """Nats a token of each ideal predictor of a control, by position in bins of equal width: mean over rows with its interval;
    and its mean over all targets."""
    assert isinstance(sample.spec, Control)
    found = ideal_losses(sample.spec, sample.tokens, sample.seed, sample.split)
    length = sample.tokens.shape[1]
    edges = np.unique(np.linspace(1, length, min(IDEAL_BINS, length - 1) + 1).round().astype(int))
    rows = []
    for name, nats in found.items():
        for first, end in zip(edges[:-1], edges[1:], strict=True):
            mean = cluster_interval(nats[:, first:end].mean(axis=1), sample.groups)
            rows.append({"predictor": name, "first": first, "last": end - 1, **mean._asdict(), "n": len(nats)})
    return pd.DataFrame(rows), {name: float(nats[:, 1:].mean()) for name, nats in found.items()}


def symbols(sample: Sample, row: int, n: int) -> dict[str, Any]:
    """The first `n` tokens of a row with their names, and the bits that the generator chose at each."""
    spec, shown = sample.spec, sample.tokens[row][:n]
    assert isinstance(spec, Control)
    names, nats = spec.names(), chosen(spec, sample.tokens[: row + 1], sample.seed, sample.split)[row]
    bits = (nats[: len(shown)] / math.log(2)).round(2)
    return {"tokens": shown.tolist(), "pieces": [names[t] for t in shown], "bits": bits.tolist()}
