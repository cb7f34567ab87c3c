"""What a rule-inference curve is measured on: rows of trained, new and other-band rules, and what ideal predictors reach on them.

All of it follows from the data of a run alone, so every checkpoint of the run is asked the same and is paired with the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nca_interp.analysis.complexity.inspection_nca import affordable
from nca_interp.analysis.inference.read import Reading
from nca_interp.base import UserError
from nca_interp.data.nca.predictors import counting, oracle
from nca_interp.data.sample import Sample, draw
from nca_interp.data.specs import NcaSpec

EARLY, LATE = 4, 4
"""Frames generated of many: 1, 2, 4, 8, ... (EARLY of them) and LATE spread over the last third."""
FRESH = 2**40
"""Number of the trajectory that a trained rule is read on: no training row has it."""
TRAINED, NEW, OTHER = "trained", "new", "other band"
BAND_STEP, LOWEST = 0.2, 0.3
"""Width in gzip ratio of the other band, next to the model's own; it lies above a band that begins below LOWEST (far
below that rules die out)."""


class Trial(NamedTuple):
    """The rows of each kind of rules, and what each ideal predictor reached on them."""

    spec: NcaSpec
    sets: dict[str, Sample]
    ideal: dict[str, dict[str, Reading]]
    """Kind of rules -> predictor -> reading (the oracle's of fewer rows where following the rule is expensive)."""
    notes: tuple[str, ...]
    """What was left out."""


@lru_cache(maxsize=1)
def make_trial(spec: str, seed: int, n_train: int, n_frames: int, rules: int) -> Trial:
    """`rules` rows of each kind for a model trained on `n_train` rows of the specification (as JSON) and seed."""
    parsed, notes = NcaSpec.model_validate_json(spec), list[str]()
    sets = dict(rule_sets(parsed, seed, n_train, n_frames, rules, notes))
    ideal = {kind: _ideal(sample, notes) for kind, sample in sets.items()}
    return Trial(parsed, sets, ideal, tuple(dict.fromkeys(notes)))


def rule_sets(
    spec: NcaSpec, seed: int, n_train: int, n_frames: int, n: int, notes: list[str]
) -> Iterator[tuple[str, Sample]]:
    """Rows of `n_frames` whole frames of trained rules (a trajectory that training did not show), new and other-band rules.

    Splits have names of their own, so that they share no rule with the training or with each other.
    """
    from nca_interp.data.nca.rows import trajectory
    from nca_interp.data.nca.rules import frames_to_tokens

    length = n_frames * spec.tokens_per_frame
    trained = draw(spec, n=min(n, n_train), length=length, seed=seed, split="train")
    if spec.control == "none":
        assert trained.candidates is not None
        frames = trajectory(spec, seed, "train", trained.candidates, FRESH, n_frames)
        trained = trained._replace(frames=frames, tokens=frames_to_tokens(spec, frames))
    yield TRAINED, trained
    yield NEW, draw(spec, n=n, length=length, seed=seed, split="inference")
    if (band := other_band(spec)) is None:
        notes.append("No other band: the model's own data take rules of every gzip ratio.")
        return
    other = spec.model_copy(update={"band": band, "where": {}})
    try:
        yield OTHER, draw(other, n=n, length=length, seed=seed, split="inference, other band")
    except UserError as error:
        notes.append(f"No other band: {error}")


def other_band(spec: NcaSpec) -> tuple[float, float] | None:
    """The band of BAND_STEP below the model's own, or above it where that begins below LOWEST."""
    if spec.band is None:
        return None
    low, high = spec.band
    return (round(low - BAND_STEP, 6), low) if low >= LOWEST else (high, round(high + BAND_STEP, 6))


def generated_frames(n_frames: int) -> list[int]:
    """Frames that are generated: all where they are few, else some early ones and some of the last third with the last."""
    last = n_frames - 1
    if last <= EARLY + LATE:
        return list(range(1, n_frames))
    early = {2**k for k in range(EARLY) if 2**k <= last}
    return sorted(early | {round(x) for x in np.linspace(max(1, last * 2 // 3 + 1), last, LATE)})


def last_third(frames: list[int]) -> list[int]:
    """Those of the frames whose number is above two thirds of the last."""
    return [frame for frame in frames if frame > frames[-1] * 2 / 3]


def _ideal(sample: Sample, notes: list[str]) -> dict[str, Reading]:
    """The ideal predictors on the same rows (the oracle on fewer where following the rule is expensive)."""
    spec, frames = sample.spec, sample.frames
    assert isinstance(spec, NcaSpec)
    assert frames is not None
    scores = counting(spec, frames)
    rows, told = affordable(sample)
    if rows:
        assert sample.keys is not None
        scores["oracle"] = oracle(spec, frames[:rows], sample.keys[:rows])
    if told:
        notes.append(told)
    return {
        name: Reading(score.cell_nats * spec.patch**2, score.cell_accuracy, score.patch_accuracy)
        for name, score in scores.items()
    }
