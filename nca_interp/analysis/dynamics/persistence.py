"""What becomes of the heads of pre-pre-training across the embedding swap and in language (docs/emergence.md).

Head h of layer l before the swap is head h of layer l after it, for its weights are inherited. The scratch run of the same
seed starts from the same initial weights but never saw the synthetic data: its correlation with the pre-pre-trained heads is
what initialisation and layer give alone.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from nca_interp.analysis.collection.run import Run, ppt_of
from nca_interp.analysis.dynamics.emergence import Maxima, Scored, level_of, scored_probes
from nca_interp.analysis.dynamics.threshold_crossing import Floats, crossing
from nca_interp.analysis.verdicts.plan import SCRATCH

PERSISTENCE = [
    "run", "regime", "domain", "seed", "stage", "probe", "ppt_run", "heads", "level", "chance", "ppt_highest",
    "swap_highest", "end_highest", "best", "persisted", "share", "best_ppt", "best_swap", "best_end", "rho", "p",
    "scratch_rho", "half_state", "half_after", "half_by",
]  # fmt: skip
PERMUTATIONS = 4096


def persistence_table(
    runs: list[Run], probes: pd.DataFrame, hits: dict[str, float], maxima: Maxima | None = None
) -> pd.DataFrame:
    """A row (PERSISTENCE) for each probe with heads and finished run of language on a finished pre-pre-training. `maxima`: what
    random models reach."""
    drawn = maxima or {}
    by_id, rows = {run.id: run for run in runs}, []
    scored = scored_probes(probes[probes["head"].notna() & probes.probe.isin(list(hits))])
    scratch = {
        (run.domain, run.seed): run.id for run in runs if run.stage == "pt" and run.regime == SCRATCH and run.done
    }
    for run in runs:
        parent = ppt_of(run, by_id) if run.stage == "pt" and run.done else None
        if parent is None or not parent.done:
            continue
        own, before = scored.get(run.id), scored.get(parent.id)
        if own is None or before is None:
            continue
        other = scored.get(scratch.get((run.domain, run.seed), ""), {})
        for probe in sorted(own.keys() & before.keys()):
            parts = before[probe], own[probe]
            known = [drawn.get(name, {}).get(probe) for name in (parent.id, run.id)]
            level = max(
                level_of(part.null_95, hits[probe], most, part.chance) for part, most in zip(parts, known, strict=True)
            )
            found = _persistence(*parts, other.get(probe), level)
            rows.append({**run.identity, "probe": probe, "ppt_run": parent.id, **found})
    return pd.DataFrame(rows, columns=PERSISTENCE)


def _persistence(before: Scored, own: Scored, scratch: Scored | None, level: float) -> dict[str, Any]:
    first, all_of = _heads(before), _heads(own)
    ppt, layers = first.scores[-1], first.places[:, 0]
    course = all_of.at(first.places)
    swap, end = course[0], course[-1]
    is_best = ppt >= level
    best = int(is_best.sum())
    # where no head is of the kind, the highest one is followed
    followed = is_best if best else ppt == np.nanmax(ppt)
    persisted = int((end[is_best] >= level).sum())
    rho, p = rank_correlation(ppt, end, layers)
    last = None if scratch is None else _standard_ranks(ppt, _heads(scratch).at(first.places)[-1])
    chance = _mean(own.chance)
    return {
        "heads": len(ppt), "level": level, "chance": chance,
        "ppt_highest": np.nanmax(ppt), "swap_highest": np.nanmax(swap), "end_highest": np.nanmax(end),
        "best": best, "persisted": persisted, "share": persisted / best if best else None,
        "best_ppt": _mean(ppt[followed]), "best_swap": _mean(swap[followed]), "best_end": _mean(end[followed]),
        "rho": rho, "p": p, "scratch_rho": math.nan if last is None else float((last[0] * last[1]).mean()),
        **(_half_life(course[:, followed], _mean(ppt[followed]), chance, own) if best else {}),
    }  # fmt: skip


class _Heads(NamedTuple):
    """Scores of the heads of a run over training."""

    places: npt.NDArray[np.int64]
    """[head, 2] layer and head, ascending."""
    scores: Floats
    """[step, head], steps ascending; NaN where one has no score."""

    def at(self, places: npt.NDArray[np.int64]) -> Floats:
        """Scores [step, place]."""
        known = {tuple(place): index for index, place in enumerate(self.places.tolist())}
        columns = [known.get(tuple(place), -1) for place in places.tolist()]
        found = self.scores[:, columns]
        found[:, np.array(columns) < 0] = np.nan
        return found


def _heads(rows: Scored) -> _Heads:
    layer, head = rows.layer.astype(np.int64), rows.head.astype(np.int64)
    codes, column = np.unique(layer * (head.max() + 1) + head, return_inverse=True)
    places = np.stack(np.divmod(codes, head.max() + 1), 1)
    steps, row = np.unique(rows.step, return_inverse=True)
    scores = np.full((len(steps), len(places)), np.nan)
    scores[row, column] = rows.value
    return _Heads(places, scores)


def _mean(values: Floats) -> float:
    """Mean of those that are known; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(known.sum() / len(known)) if len(known) else math.nan


def _half_life(course: Floats, start: float, chance: float, own: Scored) -> dict[str, Any]:
    """Between which checkpoints the mean score of the followed heads [step, head] has lost half of what it was above chance."""
    if not start > chance:
        return {}
    found = crossing(-np.array([_mean(scores) for scores in course]), -(start + chance) / 2)
    tokens = own.tokens_at(np.unique(own.step))
    after, by = (None if index is None else tokens[index] for index in (found.after, found.by))
    return {"half_state": found.state, "half_after": after, "half_by": by}


def rank_correlation(before: Floats, after: Floats, layers: np.ndarray) -> tuple[float, float]:
    """Spearman's rho over heads, and the share of PERMUTATIONS of the heads *within their layers* that reach it (one-sided).

    Within layers, because heads of one layer resemble each other in every run: that alone is not persistence of heads.
    NaN where all scores are equal or one is missing.
    """
    if (ranks := _standard_ranks(before, after)) is None:
        return math.nan, math.nan
    a, b = ranks
    rho = float((a * b).mean())
    reached = int(((a[_permutations(tuple(layers.tolist()))] * b).mean(1) >= rho - 1e-12).sum())
    return rho, (1 + reached) / (1 + PERMUTATIONS)


def _standard_ranks(*scores: Floats) -> list[Floats] | None:
    """Ranks of each, standardised; None where all of one are equal or one is missing."""
    if not all(np.isfinite(values).all() and np.ptp(values) for values in scores):
        return None
    return [(ranks - ranks.mean()) / ranks.std() for ranks in map(stats.rankdata, scores)]


@lru_cache(maxsize=8)
def _permutations(layers: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Heads [permutation, place] dealt out anew to the places, those of a layer within it."""
    rng, of = np.random.default_rng(0), np.array(layers)
    drawn = np.tile(np.arange(len(layers)), (PERMUTATIONS, 1))
    for layer in np.unique(of):
        inside = of == layer
        drawn[:, inside] = rng.permuted(drawn[:, inside], axis=1)
    return drawn
