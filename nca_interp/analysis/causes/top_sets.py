"""Does a regime need the heads that score high? The top heads of each probe, lost together, against random sets, over seeds.

Within a place and regime two questions are declared beforehand (DECLARED); all other pairs of probe and metric are
exploration. With few heads a layer and few seeds the smallest possible p is large, and a verdict among dozens of pairs is out
of reach whatever a head carries: the declared ones are few so that it is not.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from nca_interp.analysis.causes.random_sets import ranked
from nca_interp.analysis.verdicts.plan import ACCURACY_MARGIN
from nca_interp.analysis.verdicts.statistics import ALPHA, benjamini_hochberg, holm, t_interval

TOP_SETS = [
    "domain", "stage", "regime", "probe", "metric", "family", "effect", "random", "random_low", "random_high", "excess", "low",
    "high", "p", "p_floor", "p_holm", "p_bh", "p_none", "p_none_holm", "p_none_bh", "seeds", "heads", "sets", "at", "margin",
    "unit", "verdict",
]  # fmt: skip
DECLARED = (("induction", "repeated_token_loss"), ("previous_token", "repeated_token_loss"))
"""Probe and metric: the two heads of the induction circuit (Olsson et al. 2022, arXiv 2209.11895), on what it is for."""
CORRECTED = {"declared": ("holm", holm), "exploration": ("bh", benjamini_hochberg)}
BEARING, LIGHT, NEGLIGIBLE = "load-bearing", "not load-bearing", "load-bearing, negligibly"


def top_set_rows(ends: pd.DataFrame, place: list[str], margin: float) -> list[dict[str, Any]]:
    """Rows of TOP_SETS from those of the causes table with `harm` and `random` (signed so that more is worse), by `place`.

    `margin`: nats below which more harm than that of random sets is none; of a share it is ACCURACY_MARGIN.
    """
    rows: list[dict[str, Any]] = []
    rounds = {
        key: part.harm.tolist() for key, part in ends[ends.probe == "random_heads"].groupby(["run", "by", "metric"])
    }
    width = ends[ends.probe == "ablation"].groupby("run")["head"].nunique()
    for keys, part in ends[ends.probe == "top_heads"].groupby(place, sort=False):
        told = [
            {**dict(zip(place, keys, strict=True)), "probe": probe, "metric": metric}
            | _compared(seeds, rounds, width, margin)
            for (probe, metric), seeds in part.groupby(["by", "metric"], sort=False)
        ]
        for row in told:
            row["family"] = "declared" if (row["probe"], row["metric"]) in DECLARED else "exploration"
        for family, (name, correct) in CORRECTED.items():
            _judge([row for row in told if row["family"] == family], name, correct)
        rows += told
    return rows


def _compared(seeds: pd.DataFrame, rounds: dict[Any, list[float]], width: pd.Series, margin: float) -> dict[str, Any]:
    """The numbers of one probe and metric from its rows, one a seed."""
    harm, random, sd = (seeds[name].to_numpy(float) for name in ("harm", "random", "sd"))
    excess = harm - random
    others = [rounds.get(key, []) for key in zip(*(seeds[name] for name in ("run", "by", "metric")), strict=True)]
    found, unit = ranked(harm.tolist(), others), str(seeds["unit"].iloc[0]).split(",")[0]
    least = ACCURACY_MARGIN if unit == "share" else margin
    value, low, high = t_interval(excess)
    heads = width.reindex(seeds["run"])
    return {
        "effect": harm.mean(), "random": random.mean(), "random_low": (random - 2 * sd).mean(),
        "random_high": (random + 2 * sd).mean(), "excess": value, "low": low, "high": high, "p": found.p,
        "p_floor": found.floor, "p_none": p_below(excess, least), "seeds": len(seeds),
        "heads": int(heads.min()) if heads.notna().all() else None, "sets": min(len(o) for o in others),
        "at": "; ".join(seeds["at"]), "margin": least, "unit": unit,
    }  # fmt: skip


def p_below(values: np.ndarray, margin: float) -> float:
    """One-sided p of a mean of at least `margin`, by the t-test; NaN for fewer than two values or values that do not differ:
    no spread over seeds is not certainty."""
    if len(values) < 2 or not np.isfinite(values).all() or np.ptp(values) <= 1e-12 * np.abs(values).max():
        return math.nan
    return float(stats.ttest_1samp(values, margin, alternative="less").pvalue)


def _judge(rows: list[dict[str, Any]], name: str, correct: Any) -> None:
    """Enter adjusted p and verdicts of one family."""
    more, none = (correct([row[p] for row in rows]) for p in ("p", "p_none"))
    for row, p, p_none in zip(rows, more, none, strict=True):
        row |= {f"p_{name}": p, f"p_none_{name}": p_none, "verdict": _verdict(row, p, p_none)}


def _verdict(row: dict[str, Any], p: float, p_none: float) -> str:
    bearing, light = p < ALPHA and row["excess"] > 0, p_none < ALPHA
    if bearing:
        return NEGLIGIBLE if light else BEARING
    if light:
        return LIGHT
    if row["p_floor"] >= ALPHA or row["p"] <= row["p_floor"]:
        heads = "so few" if row["heads"] is None else row["heads"]
        return f"cannot tell with {heads} heads a layer and {row['seeds']} seed{'s' * (row['seeds'] != 1)}"
    return "inconclusive"
