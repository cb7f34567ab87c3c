"""A causes table with planted answers: what a report must say about them is known. For tests of the report only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.causes.load_bearing import load_tables

COLUMNS = [
    "run",
    "regime",
    "domain",
    "seed",
    "stage",
    "step",
    "tokens",
    "probe",
    "layer",
    "head",
    "value",
    "chance",
    "null_95",
    "hit",
    "sd",
    "unit",
    "n",
    "metric",
    "by",
    "site",
    "how",
    "full",
    "rank",
    "worse",
    "p",
    "from_layer",
    "from_head",
    "at",
]
METRICS = {
    "repeated_token_loss": ("nats per token", 1),
    "own_loss": ("nats per token", 1),
    "nca_patch_accuracy": ("share", -1),
}
SLOPE = 2.0
"""Planted in regime nca: losing a head costs this many nats of repeated_token_loss for each unit of its induction score."""


def cause_rows(probes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Causes of every last checkpoint in `probes`. In nca harm to repeated_token_loss is SLOPE x induction score (so Spearman is 1)
    and its induction heads are load-bearing; in scratch they cost what random heads cost; previous-token heads are undecided.
    Harm to own_loss is that to repeated_token_loss upside down. nca_patch_accuracy falls where heads are lost: less is worse."""
    frame = pd.DataFrame(probes)
    frame = frame[(frame.step == frame.groupby("run").step.transform("max")) & frame["head"].notna()]
    rng, rows = np.random.default_rng(11), []
    for _, part in frame[frame.probe == "induction"].groupby("run", sort=False):
        first = part.iloc[0]
        who = {k: first[k] for k in ("run", "regime", "domain", "seed", "stage", "step", "tokens")}
        heads = list(zip(part.layer.astype(int), part["head"].astype(int), strict=True))
        planted = SLOPE * part.value.to_numpy() if first.regime == "nca" else 0.01 * rng.normal(size=len(part))
        harms = {"repeated_token_loss": planted, "own_loss": 0.5 - planted, "nca_patch_accuracy": planted / 10}
        for metric, (unit, sign) in METRICS.items():
            order = np.argsort(np.argsort(-harms[metric], kind="stable")) + 1
            common = {**who, "metric": metric, "unit": unit, "sd": 0.02, "n": 16, "full": 3.5, "worse": sign}
            for (layer, head), harm, rank in zip(heads, harms[metric], order, strict=True):
                place = {"layer": layer, "head": head, "rank": rank}
                rows.append(
                    {**common, "probe": "ablation", "value": sign * harm, "site": "head", "how": "mean", **place}
                )
            rows += _top_sets(common, sign, rng)
            for site in ("attn", "mlp", "layer"):
                for layer in range(4):
                    rows.append({**common, "probe": "knock_out", "site": site, "how": "zero", "layer": layer, "value": sign * 0.1 * layer, "rank": 4 - layer})  # fmt: skip
        rows += _others(who)
    return pd.DataFrame(rows, columns=COLUMNS).to_dict("records")


def judged(causes: list[dict[str, Any]], probes: list[dict[str, Any]], runs: list[dict[str, Any]]) -> Any:
    """The tables that an analysis makes of causes: verdicts over seeds."""
    known = pd.DataFrame(runs)
    roles, domains = dict(zip(known.regime, known.role, strict=True)), [d for d in known.domain.unique() if d]
    return load_tables(pd.DataFrame(causes), pd.DataFrame(probes), known, roles, domains, 0.01)


def _top_sets(common: dict[str, Any], sign: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    bearing, others = common["regime"] == "nca", np.array([0.07, 0.1, 0.13])
    effects = {
        "induction": (0.5 if bearing else 0.1) + 0.001 * rng.normal(),
        "previous-token": 0.1 + 0.2 * rng.normal(),
    }
    rows = []
    for probe, effect in effects.items():
        same = {**common, "by": probe, "how": "mean"}
        rows.append({
            **same, "probe": "top_heads", "value": sign * effect, "chance": sign * 0.1, "sd": 0.03, "p": 0.25, "n": 3,
            "at": "2.1 against 3 sets, all there are",
        })  # fmt: skip
        rows += [
            {**same, "probe": "random_heads", "value": sign * v, "sd": None, "at": f"2.{i}"}
            for i, v in enumerate(others)
        ]
    return rows


def _others(who: dict[str, Any]) -> list[dict[str, Any]]:
    edge = {"probe": "edge", "metric": "repeated_token_loss", "how": "mean", "full": 0.4, "unit": "nats per token"}
    rows: list[dict[str, Any]] = [
        {**who, **edge, "from_layer": 1, "from_head": 0, "layer": 2, "head": 1, "value": 0.3, "sd": 0.1, "n": 16},
        {**who, "probe": "ov_copying", "layer": 2, "head": 1, "value": 0.8, "chance": 0.02, "sd": 0.1, "n": 64, "unit": "score", "at": "offset 0"},
        {**who, "probe": "cross_task", "metric": "repeated_token_loss", "by": "own_loss", "value": -1.0, "chance": 0.0, "p": 0.0001, "n": 16, "unit": "Spearman correlation"},
    ]  # fmt: skip
    if who["stage"] == "pt" and who["regime"] != "scratch":
        crossed = {"probe": "cross_stage", "metric": "own_loss", "by": "own_loss", "unit": "Spearman correlation"}
        rows.append(
            {
                **who,
                **crossed,
                "value": 0.9,
                "chance": 0.0,
                "p": 0.01,
                "n": 16,
                "at": f"ppt.{who['regime']}.s{who['seed']}",
            }
        )
    for layer in range(5):
        for metric, value in (("nll", 5.0 - layer), ("kl", 4.0 - layer)):
            lens = {"probe": "logit_lens", "metric": metric, "site": "resid_pre", "at": "natural", "unit": "nats"}
            rows.append({**who, **lens, "layer": layer, "value": value, "sd": 0.1, "n": 16})
    return rows
