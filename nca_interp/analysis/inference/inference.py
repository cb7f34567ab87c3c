"""The rule-inference curve: what an NCA model predicts of a frame after g frames of a rule, beside ideal predictors.

How far a model came is a ladder (rungs.py): better than each predictor that knows no rule (RIVALS, data/nca/predictors.py) on the
same rows of rules it was never trained on, free-running, in the last third of the frames. Free-running, because a rival of whole
frames is not given the patches of the frame itself, which teacher-forcing gives away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nca_interp.analysis.inference.read import (
    Reading,
    changed_context,
    fitting_threads,
    free_running,
    shuffle_context,
    swap_context,
    teacher_forced,
)
from nca_interp.analysis.inference.rungs import ORACLE, RIVALS, Context, climb, least_beaten, sentence
from nca_interp.analysis.inference.trial import NEW, generated_frames, last_third, make_trial
from nca_interp.analysis.probing.measure import on_device
from nca_interp.analysis.stimuli.source import Source, unchanged
from nca_interp.analysis.stimuli.subject import context_length
from nca_interp.analysis.verdicts.statistics import Interval, cluster_interval
from nca_interp.base import UserError
from nca_interp.data.sample import Sample
from nca_interp.data.specs import NcaSpec

Floats = npt.NDArray[np.float64]
RULES = 64
"""Rules of each kind, one row each: intervals of some hundredths of the cells, seconds for a small model."""
TEACHER, FREE, SWAP, SHUFFLE = "teacher-forced", "free-running", "context swap", "frame shuffle"
CONTROLLED = 4
"""Frames with a changed context."""
COLUMNS = ["rules", "band_low", "band_high", "predictor", "frame", "quantity", "value", "low", "high", "n"]
LEARNED = [
    "verdict", "inferred", "uses_context", "accuracy", "rival", "rival_accuracy", "effect", "low", "high", "n", "oracle_accuracy",
    "teacher_accuracy", "first_frame", "last_frame", "slope", "slope_low", "slope_high", "gain", "gain_low", "gain_high", "swap", "swap_low",
    "swap_high", "shuffle", "shuffle_low", "shuffle_high", "sentence",
]  # fmt: skip
COURSE = ["predictor", "quantity", "value", "low", "high", "n"]
GAP = "gap"
"""Quantity of a course: accuracy, free-running, minus that of the rival (of all) that is least surely beaten."""
NO_RULE = "no rule to learn"
CODE = (
    "inference/inference.py",
    "inference/read.py",
    "inference/rungs.py",
    "inference/trial.py",
    "verdicts/statistics.py",
    "complexity/inspection_nca.py",
    "../data/nca/predictors.py",
    "../data/nca/rules.py",
    "../data/nca/rows.py",
)
"""Files that decide a number."""


def rule_inference(
    checkpoint: Path | str,
    *,
    rules: int = RULES,
    temperature: float = 0.0,
    device: str = "cpu",
    whole: bool = True,
    open_: Callable[[], Any] | None = None,
) -> pd.DataFrame:
    """Tidy table (COLUMNS; docs/tables.md) of an NCA checkpoint of ours on `rules` trained, new and other-band rules.

    `open_`: how it is opened, if not by itself. `temperature` of the free-running frames, 0: greedy. `whole` False: the model alone on the new rules, what a checkpoint
    on the way is asked. `attrs`: "learned" (LEARNED: verdict, effect, slope, controls, a sentence), "course" (rows of COURSE:
    new rules, mean of the last third of the frames), "notes" (what was left out), "checkpoint_sha256", "engine". Raises
    UserError for a checkpoint that does not say on which NCA it was trained, and for a context of less than two frames.
    """
    from nca_interp.model.checkpoint import load_model, read_provenance

    if rules < 2 or temperature < 0:
        raise UserError(f"rules: {rules}, temperature: {temperature}; legal: 2 or more rules, a temperature from 0 up")
    source = Source.find(checkpoint)
    with unchanged(source.directory):
        model = on_device(load_model(source.directory), device) if open_ is None else open_()
        meta = read_provenance(source.directory).get("meta") or {}
        if (meta.get("spec") or {}).get("kind") != "nca":
            raise UserError(
                f"{checkpoint}: no NCA behind it: rule inference needs a checkpoint of the pre-pre-training on NCA data, "
                "whose provenance.json names the specification"
            )
        with fitting_threads(model):
            frame = measure(model, meta, rules, temperature, whole)
        frame.attrs |= {"checkpoint_sha256": source.sha256(), "engine": inference_hash()}
    return frame


def measure(
    model: Any, meta: dict[str, Any], rules: int = RULES, temperature: float = 0.0, whole: bool = True
) -> pd.DataFrame:
    """As `rule_inference`, of an open model; `meta`: spec, seed and n_train of its tokens."""
    spec = NcaSpec.model_validate(meta["spec"])
    n_frames = context_length(model.config) // spec.tokens_per_frame
    if n_frames < 2:
        raise UserError(
            f"rule inference: a context of {context_length(model.config)} tokens holds less than two frames of "
            f"{spec.tokens_per_frame}"
        )
    trial = make_trial(spec.model_dump_json(), int(meta["seed"]), int(meta["n_train"]), n_frames, rules)
    sets = trial.sets if whole else {NEW: trial.sets[NEW]}
    # all sets in one batch: generation is bound by its steps
    tokens, generated = np.concatenate([sample.tokens for sample in sets.values()]), generated_frames(n_frames)
    asked = generated if whole else last_third(generated)
    forced = teacher_forced(model, spec, tokens)
    free = free_running(model, spec, tokens, asked, temperature=temperature)
    parts, learned, end = [], {}, 0
    for kind, sample in sets.items():
        rows = slice(end, end := end + len(sample.tokens))
        found = {TEACHER: Reading(*(v[rows] for v in forced)), FREE: Reading(*(v[rows] for v in free))}
        if whole and kind == NEW:
            found |= _controls(model, spec, sample.tokens, generated)
        told = found | trial.ideal[kind]
        parts.append(_table(kind, sample, told if whole else found))
        if kind == NEW:
            learned = _learned(sample, told, temperature)
    frame = pd.concat(parts, ignore_index=True)
    frame.attrs.update(learned)
    frame.attrs["notes"] = list(trial.notes)
    return frame


def _controls(model: Any, spec: NcaSpec, tokens: npt.ArrayLike, generated: list[int]) -> dict[str, Reading]:
    """Readings after a changed context of CONTROLLED frames at most, the last among them."""
    late = [generated[i] for i in np.unique(np.linspace(0, len(generated) - 1, CONTROLLED).round().astype(int))]
    return {
        SWAP: changed_context(model, spec, tokens, [g for g in late if g >= 2], swap_context(spec)),
        SHUFFLE: changed_context(model, spec, tokens, [g for g in late if g >= 3], shuffle_context(spec)),
    }


def _table(kind: str, sample: Sample, found: dict[str, Reading]) -> pd.DataFrame:
    spec = sample.spec
    assert isinstance(spec, NcaSpec)
    band, rows = spec.band or (None, None), []
    for predictor, reading in found.items():
        for quantity, values in reading._asdict().items():
            groups = sample.groups[: len(values)]
            for frame in np.flatnonzero(np.isfinite(values).all(0)):
                mean = cluster_interval(values[:, frame], groups)
                rows.append((kind, *band, predictor, int(frame), quantity, *mean, len(set(groups))))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"band_low": float, "band_high": float})


def _learned(sample: Sample, found: dict[str, Reading], temperature: float) -> dict[str, Any]:
    """The row of LEARNED ("learned") and the rows of COURSE ("course") from readings of new rules."""
    spec, loss = sample.spec, found[TEACHER].loss
    assert isinstance(spec, NcaSpec)
    chosen = last_third(generated_frames(loss.shape[1]))
    plain = {name: reading for name, reading in found.items() if name not in (SHUFFLE, SWAP)}
    accuracy = {name: reading.cell_accuracy[:, chosen].mean(1) for name, reading in plain.items()}
    seen = np.log(np.arange(1, loss.shape[1]))
    slopes = (loss[:, 1:] @ (seen - seen.mean())) / ((seen - seen.mean()) ** 2).sum() if len(seen) > 1 else None

    def within(values: Floats | None) -> Interval:
        known = values is not None and np.isfinite(values).all()
        return cluster_interval(values, sample.groups) if known and values is not None else Interval(*[np.nan] * 3)

    costs = [found[name].loss[:, -1] - loss[:, -1] if name in found else None for name in (SWAP, SHUFFLE)]
    slope, gain, swap, shuffle = map(within, (slopes, loss[:, -1] - loss[:, 1], *costs))
    context = Context(swap, gain)
    verdict = climb(
        accuracy[FREE], {k: v for k, v in accuracy.items() if k in (*RIVALS, ORACLE)}, sample.groups, context
    )
    if spec.control != "none":
        verdict = verdict._replace(verdict=NO_RULE, inferred=False)
    means = {name: float(values.mean()) for name, values in accuracy.items()}
    row = [
        verdict.verdict, verdict.inferred, context.used, means[FREE], verdict.rival, means[verdict.rival], *verdict.gap, verdict.n,
        means.get(ORACLE, np.nan), means[TEACHER], chosen[0], chosen[-1], *slope, *gain, *swap, *shuffle,
        sentence(verdict, context, means, means[FREE], chosen, temperature),
    ]  # fmt: skip
    course = [
        (
            name,
            quantity,
            *cluster_interval(values, sample.groups[: len(values)]),
            len(set(sample.groups[: len(values)])),
        )
        for name, reading in plain.items()
        for quantity, values in (("cell_accuracy", accuracy[name]), ("loss", reading.loss[:, chosen].mean(1)))
        if np.isfinite(values).all()
    ]
    weakest, gap = least_beaten(accuracy[FREE], {name: accuracy[name] for name in RIVALS}, sample.groups)
    course.append((weakest, GAP, *gap, verdict.n))
    return {
        "learned": {name: _plain(value) for name, value in zip(LEARNED, row, strict=True)},
        "course": [[_plain(value) for value in row] for row in course],
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


@lru_cache(maxsize=1)
def inference_hash() -> str:
    """Hash of the code that makes the numbers."""
    folder = Path(__file__).parent.parent
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in CODE)).hexdigest()
