"""Does a model represent the rule that makes its context? Attributes of new rules, read out of its residual stream.

An attribute is decoded if some layer gives it better than each of RIVALS, with an interval over rules: better than the counts
of the tokens read so far (what is readable from them says nothing about rules), than models of random weights (which already
spread their context over every position) and than permuted labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from nca_interp.analysis.cache import code_hash, keep, kept
from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import CHECKPOINT, Run
from nca_interp.analysis.collection.series import Series
from nca_interp.analysis.inference.study import NOT_MEASURED, applies
from nca_interp.analysis.probing.null import like
from nca_interp.analysis.readout.regression import Fit, Folds, Judged, jackknife, judge, make_folds, predict, ranks_of
from nca_interp.analysis.readout.rules import Rules, contexts, count_statistics, draw_rules, frame_means, token_counts
from nca_interp.analysis.stimuli.source import weights_sha256
from nca_interp.base import UserError
from nca_interp.measurement import Asked
from nca_interp.store import damage

Floats = npt.NDArray[np.float64]
MODEL, RANDOM, PERMUTED, COUNTS, STATISTICS = (
    "model",
    "random weights",
    "permuted labels",
    "token counts",
    "count statistics",
)
RIVALS = (COUNTS, STATISTICS, RANDOM, PERMUTED)
RANDOM_MODELS = 3
PERMUTATIONS = 39
CHECKPOINTS = 4
"""Checkpoints of a run that are read: the last, the first and some between."""
COLUMNS = ["attribute", "frames", "source", "layer", "spearman", "low", "high", "r2", "r2_low", "r2_high", "n"]
DECODED = [
    "attribute", "verdict", "frames", "layer", "spearman", "low", "high", "rival", "rival_spearman", "effect", "effect_low",
    "effect_high", "n", "sentence",
]  # fmt: skip
NUMBERS = ("spearman", "low", "high", "r2", "r2_low", "r2_high")
INTEGERS = ("frames", "layer", "n")
CODE = (
    "readout/study.py",
    "readout/rules.py",
    "readout/regression.py",
    "similarity/cka.py",
    "probing/null.py",
    "../data/complexity/scores.py",
    "../data/nca/dynamics.py",
)
"""Files that decide a number."""


class Source(NamedTuple):
    """Scores of one description of the rules after some number of frames."""

    name: str
    frames: int
    layer: int | None
    scores: Judged
    """Of all attributes, in order; of permuted labels one row a permutation."""


def decode_rules(model: Any, rules: Rules, null: list[Source] | None = None) -> pd.DataFrame:
    """Tidy table (COLUMNS; docs/tables.md) of an open model on `rules`.

    `null`: `rivals_of` the same rules, where there are several checkpoints of one architecture. `attrs`: "decoded", one
    dictionary of DECODED for each attribute, after as many frames as there are.
    """
    names, truth, folds = list(rules.attributes), _truth(rules), make_folds(len(rules.tokens))
    frames, fits = contexts(_n_frames(rules)), _Fits()
    features = frame_means(model, rules, frames)
    found = list(_streams(MODEL, frames, [features], truth, folds, fits))
    found += rivals_of(model, rules) if null is None else null
    found += _permuted(frames, features, truth, folds, fits)
    frame = pd.DataFrame([row for source in found for row in _rows(source, names, len(truth))], columns=COLUMNS)
    frame = frame.astype({"layer": "Int64"})
    last = max(source.frames for source in found)
    final = [source for source in found if source.frames == last]
    frame.attrs = {"decoded": [verdict(final, index, name, len(truth)) for index, name in enumerate(names)]}
    return frame


def rivals_of(model: Any, rules: Rules) -> list[Source]:
    """What needs no training: counts, their statistics, and models of the architecture with random weights."""
    truth, folds = _truth(rules), make_folds(len(rules.tokens))
    found, frames, ranks = [], contexts(_n_frames(rules)), ranks_of(truth, folds)
    for g in frames:
        for name, features in ((COUNTS, token_counts(rules, g)), (STATISTICS, count_statistics(rules, g))):
            found.append(Source(name, g, None, judge(predict(features, truth, folds), truth, folds, ranks)))
    streams = []
    for random in like(model, RANDOM_MODELS):
        random.set_attn_implementation("sdpa")  # nothing here reads patterns
        streams.append(frame_means(random, rules, frames))
    return [*found, *_streams(RANDOM, frames, streams, truth, folds)]


def _n_frames(rules: Rules) -> int:
    return rules.tokens.shape[1] // rules.spec.tokens_per_frame


def _truth(rules: Rules) -> Floats:
    return np.stack(list(rules.attributes.values()), 1)


class _Fits:
    """What has been fitted on the features of a context and layer, by their places."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], dict[tuple[int, int], Fit]] = {}

    def of(self, context: int, layer: int) -> dict[tuple[int, int], Fit]:
        """By replicate and part."""
        return self._known.setdefault((context, layer), {})


def _streams(
    name: str, frames: list[int], features: list[Any], truth: Floats, folds: Folds, fits: _Fits | None = None
) -> Iterator[Source]:
    """One source a context and layer from the features [context, layer, rule, width] of each model; of several models the mean of
    their scores. `fits`: where those of a single model are kept."""
    ranks = ranks_of(truth, folds)
    for g, count in enumerate(frames):
        for layer in range(features[0].shape[1]):
            known = None if fits is None else fits.of(g, layer)
            each = [judge(predict(f[g, layer], truth, folds, known), truth, folds, ranks) for f in features]
            mean = Judged(*(np.mean(values, axis=0) for values in zip(*each, strict=True)))
            yield Source(name, count, layer, mean)


def _permuted(frames: list[int], features: Any, truth: Floats, folds: Folds, fits: _Fits) -> Iterator[Source]:
    """The model's own streams against attributes dealt out anew to the rules; the first row is the mean of the permutations."""
    rng, alone = np.random.default_rng(0), folds._replace(kept=folds.kept[:1])
    dealt = np.concatenate([truth[rng.permutation(len(truth))] for _ in range(PERMUTATIONS)], 1)
    ranks = ranks_of(dealt, alone)
    for g, count in enumerate(frames):
        for layer, stream in enumerate(features[g]):
            scores = judge(predict(stream, dealt, alone, fits.of(g, layer)), dealt, alone, ranks)
            shaped = (values.reshape(PERMUTATIONS, -1) for values in scores)
            mean = Judged(*(np.concatenate([v.mean(0, keepdims=True), v]) for v in shaped))
            yield Source(PERMUTED, count, layer, mean)


def _rows(source: Source, names: list[str], n: int) -> Iterator[dict[str, Any]]:
    for index, name in enumerate(names):
        (s, r) = (values[:, index] for values in source.scores)
        between = _percentiles if source.name == PERMUTED else _between
        (low, high), (r2_low, r2_high) = between(s), between(r)
        yield {
            "attribute": name, "frames": source.frames, "source": source.name, "layer": source.layer, "spearman": s[0],
            "low": low, "high": high, "r2": r[0], "r2_low": r2_low, "r2_high": r2_high, "n": n,
        }  # fmt: skip


def _between(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Interval of a score from its replicates."""
    return jackknife(values, level)[1:]


def _percentiles(values: Floats) -> tuple[float, float]:
    """Between which 95 % of permutations lie (all but the first value)."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return float(low), float(high)


def verdict(found: list[Source], index: int, attribute: str, n: int) -> dict[str, Any]:
    """The row of DECODED of the attribute number `index` from the sources of one context.

    The layer is the best of L, so every difference has the interval of level 1 - 0.05 / L (Bonferroni), over rules and fits. decoded: above each
    rival, every interval above zero. not decoded: a rival is certainly as good. Random weights compete with their own best
    layer, permuted labels with their mean.
    """
    own = {s.layer: s.scores.spearman[:, index] for s in found if s.name == MODEL}
    layer = max(own, key=lambda k: own[k][0])
    level = 1 - 0.05 / len(own)
    rivals = {
        name: max((s.scores.spearman[:, index] for s in found if s.name == name), key=lambda v: float(v[0]))
        for name in RIVALS
    }
    permuted = next(s for s in found if s.name == PERMUTED and s.layer == layer).scores.spearman[0, index]
    rivals[PERMUTED] = np.full_like(own[layer], permuted)
    gaps = {name: _between(own[layer] - values, level) for name, values in rivals.items()}
    weakest, beaten = min(gaps, key=lambda name: gaps[name][0]), min(gaps, key=lambda name: gaps[name][1])
    word, rival = "inconclusive", weakest
    if gaps[weakest][0] > 0:
        word = "decoded"
    elif gaps[beaten][1] <= 0:
        word, rival = "not decoded", beaten
    (low, high), (gap_low, gap_high) = _between(own[layer]), gaps[rival]
    value, other = float(own[layer][0]), float(rivals[rival][0])
    frames = found[0].frames
    told = {
        "decoded": f"{attribute} is read out beyond what needs no training",
        "not decoded": f"{attribute} is not read out beyond what needs no training",
    }.get(word, f"Whether {attribute} is read out beyond what needs no training is open")
    sentence = (
        f"{told}: after {frames} frames of {n} new rules, best in layer {layer}, Spearman {value:.3f} [{low:.3f}, {high:.3f}]; "
        f"{rival} {other:.3f}; difference {value - other:+z.3f} [{gap_low:+z.3f}, {gap_high:+z.3f}]."
    )
    row = [
        attribute, word, frames, layer, value, low, high, rival, other, value - other, gap_low, gap_high, n, sentence,
    ]  # fmt: skip
    return dict(zip(DECODED, row, strict=True))


def decode_run(run: Run) -> list[str]:
    """Read some checkpoints of a run, unless that is up to date; what cannot be measured is kept with the reason."""
    wanted = [step for step in chosen_steps(run.steps) if _kept(run, step) is None]
    if not wanted:
        return []
    try:
        frames = list(_measure(run, wanted))
    except UserError as error:
        if found := [problem for step in wanted if (problem := damage(run.checkpoint(step)))]:
            return [f"{run.id}: {problem}" for problem in found]
        empty = pd.DataFrame(columns=COLUMNS)
        empty.attrs = {"decoded": [], "reason": str(error)}
        frames = [empty] * len(wanted)
    for step, frame in zip(wanted, frames, strict=True):
        keep(run.kept("decode", step), frame, _made_from(run, step))
    return []


def chosen_steps(steps: list[int]) -> list[int]:
    """At most CHECKPOINTS of them, evenly spaced in their order, first and last among them."""
    return [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, CHECKPOINTS).round().astype(int))]


def _measure(run: Run, steps: list[int]) -> Iterator[pd.DataFrame]:
    null, rules, series = None, None, Series(run)
    for step in steps:
        model = series.open(step)
        if rules is None:
            rules = rules_of(model, run.checkpoint(step))
            null = rivals_of(model, rules)
        yield decode_rules(model, rules, null)


def rules_of(model: Any, directory: Path) -> Rules:
    """The rules that a checkpoint of ours is read on. UserError where it has no NCA behind it, a control without a rule, a
    context of one frame, or no attribute that varies."""
    from nca_interp.analysis.stimuli.subject import context_length
    from nca_interp.data.specs import NcaSpec
    from nca_interp.model.checkpoint import read_provenance

    meta = read_provenance(directory).get("meta") or {}
    if (meta.get("spec") or {}).get("kind") != "nca":
        raise UserError(f"{directory}: no NCA behind it")
    spec = NcaSpec.model_validate(meta["spec"])
    n_frames = context_length(model.config) // spec.tokens_per_frame
    if spec.control != "none":
        raise UserError(f"the control {spec.control} has no rule to read out")
    if n_frames < 2:
        raise UserError(f"the context holds less than two frames of {spec.tokens_per_frame} tokens")
    rules = draw_rules(spec, int(meta["seed"]), n_frames)
    if not rules.attributes:
        raise UserError(f"no attribute varies between rules of {spec.n_states} states")
    return rules


def measure(run: Run, asked: Asked) -> list[str]:
    """Read some checkpoints of a run, unless that is up to date."""
    return decode_run(run)


def tables(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> dict[str, pd.DataFrame]:
    """Tables `decode` and `decoded`."""
    return decode_tables(collection.runs)


def decode_tables(runs: Iterable[Run]) -> dict[str, pd.DataFrame]:
    """Tables `decode` (a row a number) and `decoded` (a row a run and attribute, last checkpoint)."""
    rows, decoded = [], []
    for run in runs:
        if not (applies(run) and run.done and run.steps):
            continue
        steps = chosen_steps(run.steps)
        for step in steps:
            frame = _kept(run, step)
            attrs = {} if frame is None else frame.attrs
            if step == steps[-1]:
                reason = attrs.get("reason", "the analysis has not reached this run")
                blank = {"attribute": "", "verdict": NOT_MEASURED, "sentence": f"Not measured: {reason}."}
                decoded += [{**run.at(step), **row} for row in attrs.get("decoded") or [blank]]
            if frame is not None and len(frame):
                frame.attrs = {}
                rows.append(frame.assign(**run.at(step))[[*CHECKPOINT, *COLUMNS]])
    return {
        "decode": pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=[*CHECKPOINT, *COLUMNS]),
        "decoded": pd.DataFrame(decoded, columns=[*CHECKPOINT, *DECODED]),
    }


def _made_from(run: Run, step: int) -> dict[str, Any]:
    return {"checkpoint": weights_sha256(run.checkpoint(step)), "engine": code_hash(CODE)}


def _kept(run: Run, step: int) -> pd.DataFrame | None:
    return kept(run.kept("decode", step), _made_from(run, step), numbers=NUMBERS, integers=INTEGERS)
