"""Rows of the causes table: what each stage says, one number a row (docs/causes.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from nca_interp.analysis.causes.ablation import Effects, Head, How
from nca_interp.analysis.causes.effects import Task
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.causes.shared_heads import cross_load
from nca_interp.analysis.causes.table import Row

EDGE_HEADS = 2
"""Previous-token and induction heads, the best of each, between which edges are tested."""

Scores = dict[str, dict[Head, float]]
"""Scores of all heads, by probe."""


def effect_rows(task: Task, effects: Effects, how: How) -> list[Row]:
    """One row for each site and metric: mean and sd over sequences of metric(ablated) - metric(full); rank 1 harms most,
    among sites of the same kind."""
    rows = []
    for name, metric in task.metrics.items():
        for kind in ("head", "attn", "mlp", "layer"):
            sites = [site for site in effects.after if site.kind == kind]
            changes = {site: effects.change(site, name) for site in sites}
            order = sorted(sites, key=lambda s: -metric.harm * float(changes[s].mean()))
            for site in sites:
                rows.append({
                    "probe": "ablation" if kind == "head" else "knock_out", "layer": site.layer, "head": site.head,
                    "value": float(changes[site].mean()), "sd": float(changes[site].std()), "n": len(changes[site]),
                    "unit": unit_of(metric.unit, task), "metric": name, "site": kind,
                    "how": how if kind == "head" else "zero", "full": float(effects.full[name].mean()),
                    "rank": order.index(site) + 1, "worse": metric.harm,
                })  # fmt: skip
    return rows


def unit_of(unit: str, task: Task) -> str:
    return f"{unit}, {task.batch.note}" if task.batch.note else unit


def top_heads(scores: dict[Head, float], k: int) -> list[Head]:
    """The k heads with the highest scores, best first; without those that share the score of one that would be left out, for
    nothing says which of them are above. So fewer than k, or none, where many heads score alike."""
    ordered = sorted(scores, key=lambda head: (-scores[head], head))
    left_out = {scores[head] for head in ordered[k:]}
    return [head for head in ordered[:k] if scores[head] not in left_out]


def load_rows(rows: list[Row], tasks: list[Task], probe: str = "ablation") -> list[Row]:
    """cross_load of the first metrics of every two tasks (loss on repeated tokens, on own data, on NCA frames), of the effects
    of single heads among `rows`: exact ones, or those by `probe` attribution."""
    harms: dict[str, dict[Head, float]] = {}
    for task in tasks:
        name, metric = next(iter(task.metrics.items()))
        ours = (r for r in rows if r["probe"] == probe and r["metric"] == name)
        if found := {(r["layer"], r["head"]): metric.harm * r["value"] for r in ours}:
            harms[name] = found
    crossed = []
    names = list(harms)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            heads = [head for head in harms[one] if head in harms[other]]
            if len(heads) >= 3:
                load = cross_load(
                    [harms[one][h] for h in heads], [harms[other][h] for h in heads], [layer for layer, _ in heads]
                )
                crossed.append({
                    "probe": "cross_task", "metric": one, "by": other, "value": load.rho, "p": load.p, "n": load.n,
                    "chance": 0.0, "unit": "Spearman correlation", "how": "attribution" if probe == "attribution" else "",
                })  # fmt: skip
    return crossed


def lens_rows(trunk: Trunk, task: Task) -> list[Row]:
    """The logit lens at every layer; layer n_layers is the model itself."""
    from nca_interp.analysis.causes.lens import logit_lens

    lens, units = logit_lens(trunk, task), {"nll": "nats", "kl": "nats", "agreement": "share", "entropy": "nats"}
    return [
        {
            "probe": "logit_lens", "metric": name, "at": task.name, "layer": layer, "site": "resid_pre",
            "value": float(values.mean()), "sd": float(values.std()), "n": len(values), "unit": unit_of(units[name], task),
        }
        for name, layers in lens._asdict().items() for layer, values in enumerate(layers)
    ]  # fmt: skip


def patching_rows(
    trunk: Trunk, task: Task, heads: Iterable[Head] | None = None, on_step: Callable[[], None] | None = None
) -> list[Row]:
    """Share of the repeated-token loss that one clean activation recovers; the unit tells of how much."""
    from nca_interp.analysis.causes.patching import METRIC, patch

    found = patch(trunk, task, heads, on_step)
    return [
        {
            "probe": "patching", "metric": METRIC, "site": site.kind, "layer": site.layer, "head": site.head,
            "value": found.recovery(site), "chance": 0.0, "full": float(found.clean.mean()), "n": len(found.clean),
            "unit": unit_of(f"share of {found.denominator:.4f} nats", task),
        }
        for site in found.patched
    ]  # fmt: skip


def edge_rows(trunk: Trunk, task: Task, scores: Scores, means: Any = None) -> list[Row]:
    """Path ablation between the best previous-token and induction heads; `full` is what losing the later head costs."""
    from nca_interp.analysis.causes.patching import METRIC, edge

    if not {"previous_token", "induction"} <= scores.keys():
        return []
    first, second = (top_heads(scores[name], EDGE_HEADS) for name in ("previous_token", "induction"))
    rows = []
    for earlier in first:
        for later in second:
            if earlier[0] < later[0]:
                found = edge(trunk, task, earlier, later, means)
                rows.append({
                    "probe": "edge", "metric": METRIC, "from_layer": earlier[0], "from_head": earlier[1],
                    "layer": later[0], "head": later[1], "value": float(found.change.mean()), "how": "mean",
                    "sd": float(found.change.std()), "full": float(found.later.mean()), "n": len(found.change),
                    "unit": unit_of("nats per token", task),
                })  # fmt: skip
    return rows
