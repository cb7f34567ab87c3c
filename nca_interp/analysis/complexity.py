"""How complex is a token source? One vector of measures, the same code for NCA bands, Dyck and any corpus.

What each measure is, its source and its pitfalls: docs/measures.md. `MEASURES` names them; `profile` computes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from nca_interp.base import UserError
from nca_interp.config import suggest
from nca_interp.data import measures as m
from nca_interp.data.sample import Sample
from nca_interp.data.scores import INF, SCORES, Material, Measure, scores
from nca_interp.data.specs import NcaSpec

PROFILE = ["measure", "sequence", "group", "value", "note"]
POOLED: dict[str, Measure] = {
    p.name: p
    for p in (
        Measure("unigram_entropy", "share of ln V", 0, 1.1, "entropy of the tokens of all rows", "tokens", True, 1000),
        Measure("conditional_entropy", "nats per token", -INF, INF, "entropy of a token given the one before, all rows", "tokens", True, 1000),
        Measure("conditional_entropy_2", "nats per token", -INF, INF, "entropy of a token given the two before, all rows", "tokens", True, 1000),
        Measure("zipf_exponent", "minus slope of ln f on ln rank", 0, INF, "rank-frequency slope, ranks 1 to 1000", "tokens", True, 1000),
        Measure("mi_exponent", "power of the lag", 0, 10, "exponent of a power law fitted to mutual information against lag", "tokens", True, 4096),
        Measure("mi_power_preference", "AIC", -INF, INF, "AIC of an exponential minus AIC of a power law: positive, the power law fits better", "tokens", True, 4096),
    )
}  # fmt: skip
MEASURES: dict[str, Measure] = {**SCORES, **POOLED}
"""Every measure by name."""


def profile(sample: Sample, measures: Iterable[str] | None = None) -> pd.DataFrame:
    """Tidy table: measure, sequence (row number; NA: pooled over all rows), group, value, note.

    Without `measures`: all that apply but those on "model", which train one. A value is NaN where the measure is
    censored, or where the sample is too short for it, which `note` then says ("needs at least N"). UserError for an
    unknown measure and for one that does not apply to this kind of source.
    """
    names = choose(sample, measures)
    short = {name: _too_short(sample, MEASURES[name]) for name in names}
    single = [name for name in names if not MEASURES[name].pooled]
    n = len(sample.tokens)
    material = Material(sample.tokens, sample.vocab_size, _nca(sample), sample.frames, sample.keys)
    values = scores(material, [name for name in single if not short[name]])
    parts = []
    for name in names:
        if name in single:
            column = values.get(name, np.full(n, math.nan))
            rows: dict[str, object] = {"sequence": range(n), "group": sample.groups}
        else:
            column = np.array([math.nan if short[name] else pooled(sample, name)])
            rows = {"sequence": [pd.NA], "group": [pd.NA]}
        parts.append(pd.DataFrame({"measure": name, **rows, "value": column, "note": short[name]}))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=PROFILE)
    return table.astype({"sequence": "Int64", "group": "string", "value": "float64", "note": "string"})[PROFILE]


def choose(sample: Sample, measures: Iterable[str] | None) -> list[str]:
    """The named measures, or all that apply to the sample but those that train a model."""
    if measures is None:
        return [name for name, measure in MEASURES.items() if measure.on != "model" and not _lacks(sample, measure)]
    names = list(dict.fromkeys(measures))
    for name in names:
        if name not in MEASURES:
            raise UserError(f"measures: {name!r} is unknown{suggest(name, MEASURES)}")
        if lack := _lacks(sample, MEASURES[name]):
            raise UserError(f"measures: {name} {lack}")
    return names


def _nca(sample: Sample) -> NcaSpec | None:
    return sample.spec if isinstance(sample.spec, NcaSpec) else None


def _lacks(sample: Sample, measure: Measure) -> str:
    if measure.on == "cells" and sample.frames is None:
        return f"is measured on the cells of an NCA; this source is {sample.description}"
    if measure.on == "rule" and (sample.keys is None or sample.frames is None):
        return f"is measured on the rule of a row; this source is {sample.description}"
    return ""


def _too_short(sample: Sample, measure: Measure) -> str:
    n, length = sample.tokens.shape
    have, where = (n * length, "in all") if measure.pooled else (length, "a row")
    if have < measure.min_tokens:
        return f"needs at least {measure.min_tokens:,} tokens {where}, has {have:,}"
    frames = 0 if sample.frames is None else sample.frames.shape[1]
    if frames < measure.min_frames:
        return f"needs at least {measure.min_frames} whole frames a row, has {frames}"
    return ""


def pooled(sample: Sample, name: str) -> float:
    """Value of one pooled measure."""
    rows = sample.tokens
    if name == "unigram_entropy":
        return m.entropy(np.unique(rows, return_counts=True)[1]) / math.log(sample.vocab_size)
    if name.startswith("conditional_entropy"):
        return m.conditional_entropy(rows, 2 if name.endswith("_2") else 1)
    if name == "zipf_exponent":
        return m.rank_slope(rows)
    decay = m.mi_decay(m.mutual_information(rows))
    return decay.exponent if name == "mi_exponent" else decay.preference


class Summary(NamedTuple):
    """One measure of a source in a study's `complexity` table; `n` rows, and the standard deviation between them."""

    measure: str
    value: float
    unit: str
    n: int
    sd: float | None


def summaries(val: Sample, train: Sample) -> list[Summary]:
    """Every measure of a source that applies: of single rows on `val`, pooled ones on `train`."""
    out = []
    for name in choose(val, None):
        measure = MEASURES[name]
        table = profile(train if measure.pooled else val, [name])
        values = table.value.dropna().to_numpy()
        if not len(values):
            continue
        n = len(train.tokens) if measure.pooled else len(values)
        sd = float(values.std(ddof=1)) if len(values) > 1 else None
        out.append(Summary(name, float(values.mean()), measure.unit, n, sd))
    return out
