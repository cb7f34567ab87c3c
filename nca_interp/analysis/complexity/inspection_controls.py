"""What a control has on its page beside others: what its ideal predictors pay (brackets have some too), and which of its tokens were a choice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.verdicts.statistics import cluster_interval
from nca_interp.data.control_rows import chosen, ideal_losses
from nca_interp.data.controls.base import Control
from nca_interp.data.controls.counting import LARGEST_COUNTED, RIVALS
from nca_interp.data.dyck.ideal import dyck_nats
from nca_interp.data.sample import Sample
from nca_interp.data.specs import DyckSpec

IDEAL_BINS = 32
"""Stretches of a row whose ideal losses are told."""


def ideals(sample: Sample) -> tuple[pd.DataFrame, dict[str, float]]:
    """Nats a token of each ideal predictor of a control or of brackets, by position in bins of equal width: mean over rows with its
    interval; and its mean over all targets."""
    spec = sample.spec
    if isinstance(spec, DyckSpec):
        rivals = RIVALS if spec.vocab_size <= LARGEST_COUNTED else {}
        counted = {name: rival(sample.tokens.astype(np.int64), spec.vocab_size) for name, rival in rivals.items()}
        found = {"bayes": dyck_nats(spec, sample.tokens, sample.whole), **counted}
    else:
        assert isinstance(spec, Control)
        found = ideal_losses(spec, sample.tokens, sample.seed, sample.split)
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
