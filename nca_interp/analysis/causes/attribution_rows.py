"""Rows of the causes table on attribution: first-order effects of all heads, and how well they rank the exact ones."""

from __future__ import annotations

import numpy as np
import torch

from nca_interp.analysis.causes.ablation import Head
from nca_interp.analysis.causes.effects import Task
from nca_interp.analysis.causes.rows import unit_of
from nca_interp.analysis.causes.table import Row
from nca_interp.base import stream_seed


def attribution_rows(task: Task, effects: dict[str, torch.Tensor]) -> list[Row]:
    """First-order effect of mean-ablating each head, of `attribute`; rank 1 harms most."""
    rows = []
    for name, values in effects.items():
        metric, means, sds = task.metrics[name], values.mean(-1), values.std(-1)
        order = (-metric.harm * means).flatten().argsort(stable=True).argsort()
        for i, (layer, head) in enumerate(np.ndindex(means.shape)):
            rows.append({
                "probe": "attribution", "layer": layer, "head": head, "metric": name, "site": "head", "how": "mean",
                "value": float(means[layer, head]), "sd": float(sds[layer, head]), "n": values.shape[-1],
                "rank": int(order[i]) + 1, "worse": metric.harm, "unit": unit_of(metric.unit, task),
            })  # fmt: skip
    return rows


def checked_heads(rows: list[Row], metric: str, n: int) -> tuple[list[Head], list[Head]]:
    """The n heads with the largest attribution to a metric, whatever its sign, and n of the others at random."""
    sizes = {
        (r["layer"], r["head"]): -abs(r["value"]) for r in rows if r["probe"] == "attribution" and r["metric"] == metric
    }
    order = sorted(sizes, key=lambda head: (sizes[head], head))
    rest = sorted(order[n:])
    rng = np.random.default_rng(stream_seed("checked_heads", len(sizes)))
    return order[:n], [rest[i] for i in sorted(rng.choice(len(rest), min(n, len(rest)), replace=False))]


def check_rows(rows: list[Row], groups: dict[str, list[Head]]) -> list[Row]:
    """Spearman correlation of attribution and exact ablation over the heads of each group (`by`), by metric."""
    from scipy.stats import spearmanr

    effect = {(r["probe"], r["metric"], r["layer"], r["head"]): r["value"] for r in rows if r.get("site") == "head"}
    found = []
    for metric in dict.fromkeys(r["metric"] for r in rows if r["probe"] == "attribution"):
        for by, heads in groups.items():
            ours = [h for h in heads if ("ablation", metric, *h) in effect]
            pairs = np.array([[effect[probe, metric, *h] for probe in ("attribution", "ablation")] for h in ours])
            if len(ours) >= 3 and (np.ptp(pairs, axis=0) > 0).all():
                rho = float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)
                found.append({
                    "probe": "attribution_check", "metric": metric, "by": by, "value": rho, "n": len(ours), "chance": 0.0,
                    "unit": "Spearman correlation",
                })  # fmt: skip
    return found
