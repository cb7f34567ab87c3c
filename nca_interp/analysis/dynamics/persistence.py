"""What becomes of the heads of pre-pre-training across the embedding swap and in language (docs/emergence.md).

Head h of layer l before the swap is head h of layer l after it, for its weights are inherited. The scratch run of the same
seed starts from the same initial weights but never saw the synthetic data: its correlation with the pre-pre-trained heads is
what initialisation and layer give alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from nca_interp.analysis.collection.run import Run, ppt_of
from nca_interp.analysis.dynamics.emergence import Maxima, level_of
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
    scored = dict(
        list(probes[probes["head"].notna() & probes.value.notna() & probes.probe.isin(list(hits))].groupby("run"))
    )
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
        other = scored.get(scratch.get((run.domain, run.seed), ""))
        for probe in sorted(set(own.probe) & set(before.probe)):
            null = None if other is None else other[other.probe == probe]
            parts = before[before.probe == probe], own[own.probe == probe]
            known = [drawn.get(name, {}).get(probe) for name in (parent.id, run.id)]
            level = max(level_of(part, hits[probe], most) for part, most in zip(parts, known, strict=True))
            found = _persistence(*parts, null, level)
            rows.append({**run.identity, "probe": probe, "ppt_run": parent.id, **found})
    return pd.DataFrame(rows, columns=PERSISTENCE)


def _persistence(before: pd.DataFrame, own: pd.DataFrame, scratch: pd.DataFrame | None, level: float) -> dict[str, Any]:
    ppt, course = _heads(before).iloc[-1], _heads(own)
    course = course[ppt.index]
    swap, end = course.iloc[0], course.iloc[-1]
    is_best = (ppt >= level).to_numpy()
    best = int(is_best.sum())
    # where no head is of the kind, the highest one is followed
    followed = is_best if best else (ppt == ppt.max()).to_numpy()
    persisted = int((end[is_best] >= level).sum())
    layers = np.array([layer for layer, _ in ppt.index])
    rho, p = rank_correlation(ppt.to_numpy(), end.to_numpy(), layers)
    last = None if scratch is None or scratch.empty else _heads(scratch).iloc[-1].reindex(ppt.index).to_numpy()
    chance = float(own.chance.mean())
    return {
        "heads": len(ppt), "level": level, "chance": chance,
        "ppt_highest": ppt.max(), "swap_highest": swap.max(), "end_highest": end.max(),
        "best": best, "persisted": persisted, "share": persisted / best if best else None,
        "best_ppt": ppt[followed].mean(), "best_swap": swap[followed].mean(), "best_end": end[followed].mean(),
        "rho": rho, "p": p, "scratch_rho": math.nan if last is None else rank_correlation(ppt.to_numpy(), last, layers)[0],
        **(_half_life(course.loc[:, followed].mean(axis=1), float(ppt[followed].mean()), chance, own) if best else {}),
    }  # fmt: skip


def _heads(rows: pd.DataFrame) -> pd.DataFrame:
    """Scores [step, (layer, head)], both ascending."""
    return (
        rows.pivot(index="step", columns=["layer", "head"], values="value")
        .sort_index()
        .sort_index(axis=1)
        .astype(float)
    )


def _half_life(course: pd.Series, start: float, chance: float, own: pd.DataFrame) -> dict[str, Any]:
    """Between which checkpoints the mean score of the followed heads has lost half of what it was above chance."""
    if not start > chance:
        return {}
    found = crossing(-course.to_numpy(dtype=float), -(start + chance) / 2)
    tokens = own.groupby("step").tokens.first().sort_index().astype(float).to_numpy()
    after, by = (None if index is None else tokens[index] for index in (found.after, found.by))
    return {"half_state": found.state, "half_after": after, "half_by": by}


def rank_correlation(before: Floats, after: Floats, layers: np.ndarray) -> tuple[float, float]:
    """Spearman's rho over heads, and the share of PERMUTATIONS of the heads *within their layers* that reach it (one-sided).

    Within layers, because heads of one layer resemble each other in every run: that alone is not persistence of heads.
    NaN where all scores are equal or one is missing.
    """
    if not (np.isfinite(before).all() and np.isfinite(after).all()) or np.ptp(before) == 0 or np.ptp(after) == 0:
        return math.nan, math.nan
    a, b = (stats.zscore(stats.rankdata(v)) for v in (before, after))
    rho, rng = float((a * b).mean()), np.random.default_rng(0)
    drawn = np.tile(a, (PERMUTATIONS, 1))
    for layer in np.unique(layers):
        inside = layers == layer
        drawn[:, inside] = rng.permuted(drawn[:, inside], axis=1)
    reached = int(((drawn * b).mean(1) >= rho - 1e-12).sum())
    return rho, (1 + reached) / (1 + PERMUTATIONS)
