"""Does a model need the heads that score high, and do the same heads carry two tasks? Judged over the seeds of a study.

A place is a domain at the end of pre-training, or the end of pre-pre-training (domain empty). Harm is an effect of the
causes table, signed so that more is worse.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.causes.shared_heads import Association, associate
from nca_interp.analysis.causes.top_sets import TOP_SETS, top_set_rows
from nca_interp.analysis.verdicts.plan import SCRATCH, primary
from nca_interp.analysis.verdicts.statistics import ALPHA, benjamini_hochberg, holm

PLACE = ["domain", "stage", "regime"]
LOADS = {
    "score_harm": [*PLACE, "probe", "metric", "rho", "low", "high", "p", "p_bh", "seeds", "heads", "verdict"],
    "top_sets": TOP_SETS,
    "shared_heads": [
        *PLACE, "one_stage", "one", "other", "rho", "low", "high", "p", "p_holm", "seeds", "heads", "verdict",
    ],
}  # fmt: skip
"""Columns of each table (docs/tables.md)."""
INCONCLUSIVE = "inconclusive"
ENOUGH = 3
"""Heads that a rank correlation takes."""


def load_tables(
    causes: pd.DataFrame,
    probes: pd.DataFrame,
    runs: pd.DataFrame,
    roles: dict[str, str],
    domains: list[str],
    margin: float,
) -> dict[str, pd.DataFrame]:
    """The tables of LOADS from those of a study: finished runs of compared regimes, in the order of `domains` and `roles`.

    `margin`: nats below which more harm than that of random sets is none; of a share it is ACCURACY_MARGIN.
    """
    ends = _ends(causes, runs, roles, domains)
    rows = {
        "score_harm": _score_harm(ends, probes),
        "top_sets": top_set_rows(ends, PLACE, margin),
        "shared_heads": _shared_heads(ends),
    }
    return {name: pd.DataFrame(rows[name], columns=columns) for name, columns in LOADS.items()}


def _ends(causes: pd.DataFrame, runs: pd.DataFrame, roles: dict[str, str], domains: list[str]) -> pd.DataFrame:
    """Rows to judge, with `harm` and `random`, the same of random sets; by place, scratch and the studied regime first."""
    first = primary(roles)
    compared = [name for name, role in roles.items() if role in ("regime", "control")]
    compared.sort(key=lambda name: (name != SCRATCH, name != first))
    done = set(runs[runs["state"] == "done"]["run"])
    rows = causes[
        causes["run"].isin(done)
        & causes["regime"].isin(compared)
        & causes["stage"].isin(["ppt", "pt"])
        & causes["value"].notna()
    ]
    worse, domain = rows["worse"].astype(float), rows["domain"].fillna("")
    rows = rows.assign(
        domain=domain, harm=rows["value"].astype(float) * worse, random=rows["chance"].astype(float) * worse
    )
    order = {"domain": list(dict.fromkeys([*domains, *(d for d in domain if d), ""])), "regime": compared}
    return rows.sort_values(
        list(order), key=lambda c: c.map({name: i for i, name in enumerate(order[str(c.name)])}), kind="stable"
    )


def _score_harm(ends: pd.DataFrame, probes: pd.DataFrame) -> list[dict[str, Any]]:
    """Every probe against harm to every metric: Spearman over the heads within the layers of a model, averaged over seeds; p by
    permutation of the heads within layers, adjusted over the probes and metrics of a place and regime: exploration."""
    ablated = ends[ends["probe"] == "ablation"]
    measured = probes[probes["head"].notna() & probes["value"].notna()]
    measured = measured.merge(ablated[["run", "step"]].drop_duplicates(), on=["run", "step"])
    scores, harms = _by_head(measured, "probe", "value"), _by_head(ablated, "metric", "harm")
    rows: list[dict[str, Any]] = []
    for place, part in ablated.groupby(PLACE, sort=False):
        pairs = [scores[run].align(harms[run], join="inner", axis=0) for run in part["run"].unique() if run in scores]
        pairs = [(x, y) for x, y in pairs if len(x) >= ENOUGH]
        columns, metrics = _complete([x for x, _ in pairs]), _complete([y for _, y in pairs])
        if not (columns and metrics):
            continue
        found = associate(
            [(x[columns].to_numpy(float), y[metrics].to_numpy(float)) for x, y in pairs], [_layers(x) for x, _ in pairs]
        )
        same = {**dict(zip(PLACE, place, strict=True)), "seeds": len(pairs), "heads": len(pairs[0][0])}
        told: list[dict[str, Any]] = [
            {**same, "probe": probe, "metric": metric, **_numbers(found, i, j)}
            for i, probe in enumerate(columns)
            for j, metric in enumerate(metrics)
            if np.isfinite(found.rho[i, j])
        ]
        for row, adjusted in zip(told, benjamini_hochberg([row["p"] for row in told]), strict=True):
            row |= {"p_bh": adjusted, "verdict": _told(adjusted, row["rho"], "rises with harm", "falls with harm")}
        rows += told
    return rows


def _shared_heads(ends: pd.DataFrame) -> list[dict[str, Any]]:
    """Harm to one loss against harm to another over heads, of the pairs that `cross_task` and `cross_stage` (the first loss at
    the end of the run that the weights come from) name; p adjusted over all of them by Holm's method."""
    harms = _by_head(ends[ends["probe"] == "ablation"], "metric", "harm")
    crossed = ends[ends["probe"].isin(["cross_stage", "cross_task"])]
    rows: list[dict[str, Any]] = []
    for place, part in crossed.groupby(PLACE, sort=False):
        named = part.sort_values("probe", kind="stable").groupby(["probe", "metric", "by"], sort=False)
        for (probe, one, other), seeds in named:
            swapped = probe == "cross_stage"
            runs = zip(seeds["at"] if swapped else seeds["run"], seeds["run"], strict=True)
            models = [
                m for before, after in runs if (m := _paired(harms, before, after, str(one), str(other))) is not None
            ]
            if not models:
                continue
            found = associate([(x, y) for x, y, _ in models], [layers for *_, layers in models])
            if not np.isfinite(found.rho[0, 0]):
                continue
            rows.append({
                **dict(zip(PLACE, place, strict=True)), "one_stage": "ppt" if swapped else place[1], "one": one, "other": other,
                **_numbers(found, 0, 0), "seeds": len(models), "heads": len(models[0][0]),
            })  # fmt: skip
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {"p_holm": adjusted, "verdict": _told(adjusted, row["rho"], "the same heads", "opposite heads")}
    return rows


def _paired(
    harms: dict[str, pd.DataFrame], before: str, after: str, one: str, other: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Harm to `one` in a run and to `other` in another, each [head, 1], and the layer of each head; None unless all heads of
    both have them."""
    if not (before in harms and one in harms[before] and after in harms and other in harms[after]):
        return None
    joined = pd.concat([harms[before][one], harms[after][other]], axis=1, join="inner")
    both = joined.to_numpy(float)
    return (both[:, :1], both[:, 1:], _layers(joined)) if len(both) >= ENOUGH and np.isfinite(both).all() else None


def _layers(heads: pd.DataFrame) -> np.ndarray:
    return heads.index.get_level_values("layer").to_numpy(int)


def _by_head(rows: pd.DataFrame, column: str, value: str) -> dict[str, pd.DataFrame]:
    """By run, a row a head and a column for each probe or metric."""
    return {
        str(run): part.pivot(index=["layer", "head"], columns=column, values=value).sort_index()
        for run, part in rows.groupby("run", sort=False)
    }


def _complete(frames: list[pd.DataFrame]) -> list[str]:
    """Columns that every frame has, without a gap."""
    names = [str(c) for c in frames[0]] if frames else []
    return [c for c in names if all(c in f and f[c].notna().all() for f in frames)]


def _numbers(found: Association, i: int, j: int) -> dict[str, float]:
    return {name: float(getattr(found, name)[i, j]) for name in ("rho", "low", "high", "p")}


def _told(p: float, rho: float, up: str, down: str) -> str:
    if not p < ALPHA:
        return INCONCLUSIVE
    return up if rho > 0 else down
