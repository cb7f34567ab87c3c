"""What a read-out of rules is fitted on: new rules, their attributes, and three descriptions of the same frames.

The attributes are those of the rule: measured on a trajectory of its own that the model never reads. The descriptions are the
model's residual stream, and what needs no model: how often each token occurred, and statistics of these counts that do not
depend on which token is which (gzip is nearly one of them).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from nca_interp.analysis.similarity.cka import watched_streams
from nca_interp.data.complexity.measures import entropy
from nca_interp.data.complexity.scores import Material, scores
from nca_interp.data.sample import draw
from nca_interp.data.specs import NcaSpec

Floats = npt.NDArray[np.float64]
ATTRIBUTES = ("gzip_ratio", "activity", "damage", "own_cell_entropy")
"""Measures of a rule that are read out (data/complexity/scores.py)."""
RULES = 256
"""New rules, one row each."""
RULE_FRAMES = 32
"""Frames of the trajectory that the attributes are measured on."""
APART = 2**41
"""Number of that trajectory: no row shows it."""
SPLIT = "read-out"
"""Split of the rules: no set that is trained on or measured elsewhere shares them."""
SORTED = 64
"""Largest counts that are part of the count statistics."""
PASS_TOKENS = 2**14
"""Tokens of a forward pass."""


class Rules(NamedTuple):
    """Rows of one rule each and what is true of the rules."""

    spec: NcaSpec
    tokens: npt.NDArray[np.uint32]
    """[rule, frames * tokens_per_frame]."""
    attributes: dict[str, Floats]
    """[rule] each; those that vary."""
    constant: tuple[str, ...]
    """Attributes that are the same for every rule, left out."""


def draw_rules(spec: NcaSpec, seed: int, n_frames: int, n: int = RULES) -> Rules:
    """`n` rules of the specification's own band that no training row shows, `n_frames` whole frames of each."""
    from nca_interp.data.nca.rows import trajectory
    from nca_interp.data.nca.rules import frames_to_tokens

    sample = draw(spec, n=n, length=n_frames * spec.tokens_per_frame, seed=seed, split=SPLIT)
    assert sample.candidates is not None
    frames = trajectory(spec, seed, SPLIT, sample.candidates, APART, RULE_FRAMES)
    material = Material(frames_to_tokens(spec, frames), spec.vocab_size, spec, frames, sample.keys)
    values = scores(material, ATTRIBUTES)
    varied = {name: value for name, value in values.items() if np.isfinite(value).all() and np.ptp(value) > 0}
    return Rules(spec, sample.tokens, varied, tuple(name for name in ATTRIBUTES if name not in varied))


def contexts(n_frames: int) -> list[int]:
    """Numbers of frames after which is read out: two (one rule step), all, and one between."""
    return sorted({min(2, n_frames), round((2 * n_frames) ** 0.5), n_frames})


@torch.inference_mode()
def frame_means(model: Any, rules: Rules, frames: Sequence[int]) -> npt.NDArray[np.float32]:
    """[context, layer, rule, d_model]: mean of the stream over the last of the first g frames, for each g of `frames`.

    Layer 0 is the embedding, layer l resid_pre of block l, the last one the final resid_post. One pass serves all g, since
    attention is causal.
    """
    width, rows = (
        rules.spec.tokens_per_frame,
        np.asarray(rules.tokens[:, : max(frames) * rules.spec.tokens_per_frame], np.int64),
    )
    parts: list[list[torch.Tensor]] = []

    def keep(layer: int, hidden: torch.Tensor) -> None:
        parts.extend([] for _ in range(layer + 1 - len(parts)))
        means = [hidden[:, (g - 1) * width : g * width].float().mean(1) for g in frames]
        parts[layer].append(torch.stack(means).cpu())

    batch = max(1, PASS_TOKENS // rows.shape[1])
    with watched_streams(model, keep):
        for start in range(0, len(rows), batch):
            part = torch.from_numpy(rows[start : start + batch]).to(model.device)
            model.base_model(input_ids=part, use_cache=False)
    return torch.stack([torch.cat(part, 1) for part in parts], 1).numpy()


def token_counts(rules: Rules, frames: int) -> Floats:
    """[rule, token] how often each token occurs in the first `frames` frames, of those that occur anywhere."""
    rows = rules.tokens[:, : frames * rules.spec.tokens_per_frame].astype(np.int64)
    found = np.zeros((len(rows), rules.spec.vocab_size))
    np.add.at(found, (np.arange(len(rows))[:, None], rows), 1)
    return found[:, found.any(0)]


def count_statistics(rules: Rules, frames: int) -> Floats:
    """[rule, statistic] of the same frames, blind to which token is which: the largest counts in order, number of kinds, their
    entropy and its logarithm; and counts in order and entropy of the cells' states."""
    from nca_interp.data.nca.rules import tokens_to_frames

    rows = rules.tokens[:, : frames * rules.spec.tokens_per_frame]
    cells = np.stack([tokens_to_frames(rules.spec, row).ravel() for row in rows])
    found = []
    for row, states in zip(rows, cells, strict=True):
        kinds = np.sort(np.bincount(row, minlength=SORTED))[::-1]
        whole = np.sort(np.bincount(states, minlength=rules.spec.n_states))[::-1]
        spread = entropy(kinds)
        found.append([*kinds[:SORTED], (kinds > 0).sum(), spread, np.log1p(spread), *whole, entropy(whole)])
    return np.array(found, dtype=float)
