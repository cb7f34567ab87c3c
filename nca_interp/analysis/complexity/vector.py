"""How complex is a token source? One vector of measures, the same code for NCA bands, Dyck and any corpus.

What each measure is, its source and its pitfalls: docs/measures.md. `MEASURES` names them; `profile` computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from nca_interp.analysis.complexity.learnability import Budget, learnability, shortage
from nca_interp.base import UserError
from nca_interp.config import suggest
from nca_interp.data.complexity import heavy_tail
from nca_interp.data.complexity import measures as m
from nca_interp.data.complexity.scores import INF, SCORES, Material, Measure, scores
from nca_interp.data.sample import Sample
from nca_interp.data.specs import NcaSpec

PROFILE = ["measure", "sequence", "group", "value", "note"]
Family = Callable[[Sample], Mapping[str, float | str]]
"""Values of the pooled measures of a family; a text is why one has no value."""
POOLED: dict[str, Measure] = {}
_FAMILY: dict[str, Family] = {}


def _family(*members: Measure) -> Callable[[Family], Family]:
    def enter(function: Family) -> Family:
        for measure in members:
            POOLED[measure.name], _FAMILY[measure.name] = measure, function
        return function

    return enter


@_family(Measure("unigram_entropy", "share of ln V", 0, 1.1, "entropy of the tokens of all rows", "tokens", True, 1000))
def _unigram(s: Sample) -> dict[str, float]:
    return {"unigram_entropy": m.entropy(np.unique(s.tokens, return_counts=True)[1]) / math.log(s.vocab_size)}


@_family(Measure("conditional_entropy", "nats per token", -INF, INF, "entropy of a token given the one before, all rows", "tokens", True, 1000))  # fmt: skip
def _conditional(s: Sample) -> dict[str, float]:
    return {"conditional_entropy": m.conditional_entropy(s.tokens)}


@_family(Measure("conditional_entropy_2", "nats per token", -INF, INF, "entropy of a token given the two before, all rows", "tokens", True, 1000))  # fmt: skip
def _conditional_2(s: Sample) -> dict[str, float]:
    return {"conditional_entropy_2": m.conditional_entropy(s.tokens, 2)}


@_family(Measure("zipf_exponent", "minus slope of ln f on ln rank", 0, INF, "rank-frequency slope, ranks 1 to 1000", "tokens", True, 1000))  # fmt: skip
def _zipf(s: Sample) -> dict[str, float]:
    return {"zipf_exponent": m.rank_slope(s.tokens)}


@_family(
    Measure("tail_exponent", "alpha of p(x) = x^-alpha", 1, 8, "discrete power law fitted to how often each token occurs", "tokens", True, 10_000, min_kinds=50),
    Measure("tail_start", "occurrences", 1, INF, "x_min, above which the power law is fitted", "tokens", True, 10_000, min_kinds=50),
    Measure("tail_distance", "KS distance", 0, 1, "distance of the tail to its power law", "tokens", True, 10_000, min_kinds=50),
    Measure("tail_against_lognormal", "Vuong's statistic", -INF, INF, "positive: a power law fits the tail better than a lognormal; within +-1.64 undecided", "tokens", True, 10_000, min_kinds=50),
)  # fmt: skip
def _tail(s: Sample) -> dict[str, float]:
    counts = np.unique(s.tokens, return_counts=True)[1]
    fit = heavy_tail.power_law(counts)
    ratio = heavy_tail.against_lognormal(counts, fit).ratio
    return {
        "tail_exponent": fit.alpha, "tail_start": fit.x_min, "tail_distance": fit.ks, "tail_against_lognormal": ratio,
    }  # fmt: skip


@_family(Measure("tail_p", "p", 0, 1, "share of 1,000 samples of the fitted power law that fit worse; below 0.1 it is implausible", "tokens", True, 10_000, min_kinds=50, dear=True))  # fmt: skip
def _tail_p(s: Sample) -> dict[str, float]:
    counts = np.unique(s.tokens, return_counts=True)[1]
    return {"tail_p": heavy_tail.bootstrap_p(counts, heavy_tail.power_law(counts))}


@_family(
    Measure("mi_exponent", "power of the lag", 0, 10, "exponent of a power law fitted to mutual information against lag", "tokens", True, 4096),
    Measure("mi_length", "tokens", 0, INF, "decay length of an exponential fitted to the same", "tokens", True, 4096),
    Measure("mi_power_preference", "AIC", -INF, INF, "AIC of the exponential minus AIC of the power law: positive, the power law fits better", "tokens", True, 4096),
)  # fmt: skip
def _decay(s: Sample) -> Mapping[str, float | str]:
    decay = m.mi_decay(m.mutual_information(s.tokens))
    if decay.flaw:
        return dict.fromkeys(("mi_exponent", "mi_length", "mi_power_preference"), decay.flaw)
    return {"mi_exponent": decay.exponent, "mi_length": decay.length, "mi_power_preference": decay.preference}


@_family(
    Measure("learnability", "bits per token", -INF, INF, "area of a small model's loss curve above its end, minus that of the shuffled stream", "model", True, Budget().tokens, dear=True),
    Measure("learned_loss", "nats per token", 0, INF, "where that loss curve ends", "model", True, Budget().tokens, dear=True),
    Measure("learned_gain", "nats per token", -INF, INF, "how far the shuffled stream's loss curve ends above it", "model", True, Budget().tokens, dear=True),
)  # fmt: skip
def _learnability(s: Sample) -> dict[str, float]:
    found = learnability(s)
    return {"learnability": found.bits, "learned_loss": found.final_loss, "learned_gain": found.gain}


MEASURES: dict[str, Measure] = {**SCORES, **POOLED}
"""Every measure by name."""


def profile(sample: Sample, measures: Iterable[str] | None = None) -> pd.DataFrame:
    """Tidy table: measure, sequence (row number; NA: pooled over all rows), group, value, note.

    Without `measures`: all that apply but the dear ones. A value is NaN where the measure is
    censored, or where the sample is too short for it or has nothing such, which `note` then says. UserError for an
    unknown measure and for one that does not apply to this kind of source.
    """
    names = choose(sample, measures)
    short = {name: _too_short(sample, MEASURES[name]) for name in names}
    single = [name for name in names if not MEASURES[name].pooled]
    n = len(sample.tokens)
    material = Material(sample.tokens, sample.vocab_size, _nca(sample), sample.frames, sample.keys)
    values = scores(material, [name for name in single if not short[name]])
    pooled = _pooled(sample, [name for name in names if MEASURES[name].pooled and not short[name]])
    parts = []
    for name in names:
        if name in single:
            column = values.get(name, np.full(n, math.nan))
            rows: dict[str, object] = {"sequence": range(n), "group": sample.groups}
        else:
            found = pooled.get(name, math.nan)
            if isinstance(found, str):
                short[name], found = found, math.nan
            column, rows = np.array([found]), {"sequence": [pd.NA], "group": [pd.NA]}
        parts.append(pd.DataFrame({"measure": name, **rows, "value": column, "note": short[name]}))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=PROFILE)
    return table.astype({"sequence": "Int64", "group": "string", "value": "float64", "note": "string"})[PROFILE]


def choose(sample: Sample, measures: Iterable[str] | None) -> list[str]:
    """The named measures, or all that apply to the sample but the dear ones."""
    if measures is None:
        return [name for name, measure in MEASURES.items() if not measure.dear and not _lacks(sample, measure)]
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
    if measure.on == "model":
        return shortage(sample, Budget())
    have, where = (n * length, "in all") if measure.pooled else (length, "a row")
    if have < measure.min_tokens:
        return f"needs at least {measure.min_tokens:,} tokens {where}, has {have:,}"
    if measure.min_kinds and (kinds := len(np.unique(sample.tokens))) < measure.min_kinds:
        return f"needs at least {measure.min_kinds} different tokens, has {kinds}"
    frames = 0 if sample.frames is None else sample.frames.shape[1]
    if frames < measure.min_frames:
        return f"needs at least {measure.min_frames} whole frames a row, has {frames}"
    return ""


def _pooled(sample: Sample, names: Iterable[str]) -> dict[str, float | str]:
    out: dict[str, float | str] = {}
    for name in names:
        if name not in out:
            out |= _FAMILY[name](sample)
    return out


class Summary(NamedTuple):
    """One measure of a source in a study's `complexity` table; `n` rows, and the standard deviation between them."""

    measure: str
    value: float
    unit: str
    n: int
    sd: float | None


def summaries(val: Sample, train: Sample) -> list[Summary]:
    """Every measure of a source that applies: of single rows on `val`, pooled ones on `train`."""
    names = choose(val, None)
    single = profile(val, [name for name in names if not MEASURES[name].pooled])
    table = pd.concat([single, profile(train, [name for name in names if MEASURES[name].pooled])])
    out = []
    for name, values in table.dropna(subset="value").groupby("measure", sort=False).value:
        measure = MEASURES[str(name)]
        n = len(train.tokens) if measure.pooled else len(values)
        sd = float(values.std()) if len(values) > 1 else None
        out.append(Summary(measure.name, float(values.mean()), measure.unit, n, sd))
    return out
