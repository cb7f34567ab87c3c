"""Which rules a specification accepts by measures other than its gzip band (`NcaSpec.where`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nca_interp.base import UserError
from nca_interp.data.complexity.scores import SCORES, Material, Values, scores
from nca_interp.data.nca.rules import Cells, patch_tokens
from nca_interp.data.rng import U64
from nca_interp.data.specs import NcaSpec


class Passed(NamedTuple):
    """What the filters said of some candidates."""

    inside: npt.NDArray[np.bool_]
    """[candidates] those that every filter accepts."""
    values: Values
    """Measure -> its values of the candidates that reached it: rules are simulated once more for the "rule" measures
    only if all others accept them."""


def rule_scores(spec: NcaSpec, keys: U64, frames: Cells, names: Iterable[str]) -> Values:
    """Values [rules] of measures as filters see them: on the patch tokens (no delimiters) or cells of the scored frames."""
    tokens = patch_tokens(spec, frames).reshape(len(frames), -1)
    return scores(Material(tokens, spec.vocab_size - 2, spec, frames, keys), names)


def passed(spec: NcaSpec, keys: U64, frames: Cells, inside: npt.NDArray[np.bool_]) -> Passed:
    """Apply `spec.where` to the candidates that are `inside` already; a censored value (NaN) lies in no range."""
    inside, values = inside.copy(), Values()
    dear = [name for name in spec.where if SCORES[name].on == "rule"]
    for names in ([name for name in spec.where if name not in dear], dear):
        at = np.flatnonzero(inside)
        if not names or not len(at):
            continue
        found = rule_scores(spec, keys[at], frames[at], names)
        values |= found
        for name, (low, high) in spec.where.items():
            if name in found:
                inside[at] &= (found[name] >= low) & (found[name] < high)
    return Passed(inside, values)


def check_length(spec: NcaSpec) -> None:
    """UserError if the scored frames are too few for a measure of `where`."""
    for name in spec.where:
        measure = SCORES[name]
        frames = max(measure.min_frames, -(-measure.min_tokens // spec.patches_per_frame))
        if measure.on != "rule" and spec.score_frames < frames:
            needs = f"{measure.min_frames} frames" if measure.min_frames else f"{measure.min_tokens:,} tokens"
            raise UserError(
                f"score_frames: {spec.score_frames} frames of {spec.patches_per_frame} patches; where.{name} needs at least "
                f"{needs}, score_frames {frames} or more"
            )
