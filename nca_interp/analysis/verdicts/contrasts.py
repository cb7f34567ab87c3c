"""The planned comparisons of a study, judged together, and the tables that hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nca_interp.analysis.verdicts.crossed import Estimate, Items, interval, paired, with_documents, with_problems
from nca_interp.analysis.verdicts.judge import Case, Judgement, judge
from nca_interp.analysis.verdicts.plan import ACCURACY_MARGIN as ACCURACY_MARGIN
from nca_interp.analysis.verdicts.plan import SCRATCH as SCRATCH
from nca_interp.analysis.verdicts.plan import Contrast, planned
from nca_interp.analysis.verdicts.plan import primary as primary
from nca_interp.analysis.verdicts.sentences import ADDED, sentence

CONTRASTS = [
    "family", "domain", "metric", "treated", "control", "primary", "n", "planned", "effect", "low", "high", "low_all", "high_all",
    "p", "p_holm", "p_exact", "p_exact_floor", "p_equivalence", "comparisons", "margin", "seed_error", "item_error", "items",
    "detectable", "ppl_change_pct", "verdict", "lost", "pending", "hangs_on", "later_n", "later_effect", "sentence",
]  # fmt: skip
PAIRS = [
    "family", "domain", "metric", "treated", "control", "seed", "treated_value", "control_value", "difference", "counted",
]  # fmt: skip
POOLED = [
    "family", "metric", "treated", "control", "domains", "n", "effect", "low", "high", "smallest", "largest", "model", "sentence",
]  # fmt: skip
Key = tuple[str, str, int]
"""regime, domain, index of the seed."""


@dataclass(frozen=True)
class Values:
    """Final values to compare, and what is known of them."""

    rows: pd.DataFrame
    """Columns regime, domain, seed, value."""
    metric: str
    margin: float
    higher_is_better: bool = False
    items: dict[Key, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    """Of a run: what it got on each document or problem, and the weight of each (targets; 1)."""
    lost: dict[Key, str] = field(default_factory=dict)
    """Run that ended without a usable value."""


class _Pairing(NamedTuple):
    """The data of one contrast: seeds that both have, those of them that count, runs that are not there."""

    contrast: Contrast
    values: Values
    found: dict[int, tuple[float, float]]
    """Seed -> value of the treated, of the control."""
    lost: tuple[tuple[str, ...], tuple[str, ...]]
    pending: tuple[str, ...]

    @property
    def counted(self) -> list[int]:
        return [s for s in self.found if s in self.contrast.seeds]

    def items(self, seeds: Sequence[int]) -> tuple[Items, ...]:
        """Of these seeds, or nothing where a run kept none or not the same ones."""
        c, known = self.contrast, self.values.items
        both = [(known.get((c.treated, c.domain, s)), known.get((c.control, c.domain, s))) for s in seeds]
        pairs = [
            Items(a[0], b[0], a[1]) for a, b in both if a is not None and b is not None and np.array_equal(a[1], b[1])
        ]
        whole = len(pairs) == len(seeds) and all(np.array_equal(p.weights, pairs[0].weights) for p in pairs)
        return tuple(pairs) if whole else ()

    def case(self) -> Case:
        """What is judged."""
        differences = tuple(a - b for a, b in (self.found[s] for s in self.counted))
        return Case(
            differences, self.contrast.margin, self.values.higher_is_better, self.items(self.counted),
            len(self.contrast.seeds), bool(self.pending), self.lost, self.contrast.primary,
        )  # fmt: skip


def contrast_tables(
    roles: dict[str, str], domains: dict[str, str], losses: Values, accuracies: Values | None,
    plan: Sequence[Contrast] | None = None, added: Sequence[Contrast] = (),
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """The tables `contrasts`, `pairs` and `pooled`; `domains`: name -> label.

    `plan`: the comparisons to judge, together; None: those that follow from the roles, on the seeds that are there. `added`:
    comparisons that are shown without a verdict.
    """
    values = {v.metric: v for v in (losses, accuracies) if v is not None}
    contrasts = _derived(roles, domains, values) if plan is None else list(plan)
    pairings = [_pairing(c, values[c.metric]) for c in contrasts if c.metric in values]
    judged = judge([p.case() for p in pairings])
    later = [_pairing(c, values[c.metric]) for c in added if c.metric in values]
    rows = [
        _row(p, j, domains.get(p.contrast.domain, p.contrast.domain)) for p, j in zip(pairings, judged, strict=True)
    ]
    alone = [
        (p, judge([p.case()])[0]._replace(verdict=ADDED, p_holm=math.nan, p_equivalence=math.nan, hangs_on=()))
        for p in later
    ]
    rows += [_row(p, j, domains.get(p.contrast.domain, p.contrast.domain)) for p, j in alone]
    return {
        "contrasts": pd.DataFrame(rows, columns=CONTRASTS),
        "pairs": pd.DataFrame([row for p in pairings + later for row in _pairs(p)], columns=PAIRS),
        "pooled": pd.DataFrame(_pooled(pairings, domains), columns=POOLED),
    }


def _derived(roles: dict[str, str], domains: dict[str, str], values: dict[str, Values]) -> list[Contrast]:
    """The plan where none is given: what the values hold."""
    found = []
    for domain in domains:
        for item in planned(roles):
            for metric, own in values.items():
                if own.higher_is_better and item.family != "regime":
                    continue
                rows = own.rows[own.rows.domain == domain]
                seeds = [set(rows[rows.regime == name].seed) for name in item[1:]]
                if all(seeds):
                    family = "reasoning" if own.higher_is_better else item.family
                    common = tuple(sorted(int(s) for s in set.intersection(*seeds)))
                    found.append(Contrast(family, domain, metric, item.treated, item.control, common, own.margin))
    return found


def _pairing(contrast: Contrast, values: Values) -> _Pairing:
    table = values.rows[values.rows.domain == contrast.domain]
    table = table[np.isfinite(table.value.astype(float))]
    ours, theirs = (
        dict(zip(part.seed.astype(int), part.value.astype(float), strict=True))
        for part in (table[table.regime == contrast.treated], table[table.regime == contrast.control])
    )
    lost, pending = [], []
    for regime, own in ((contrast.treated, ours), (contrast.control, theirs)):
        absent = [s for s in contrast.seeds if s not in own]
        names = [values.lost.get((regime, contrast.domain, s)) for s in absent]
        lost.append(tuple(name for name in names if name is not None))
        pending += [f"{regime} seed {s}" for s, name in zip(absent, names, strict=True) if name is None]
    found = {s: (ours[s], theirs[s]) for s in sorted(set(ours) & set(theirs))}
    return _Pairing(contrast, values, found, (lost[0], lost[1]), tuple(pending))


def _pairs(pairing: _Pairing) -> list[dict[str, Any]]:
    c = pairing.contrast
    head = {"family": c.family, "domain": c.domain, "metric": c.metric, "treated": c.treated, "control": c.control}
    return [
        {**head, "seed": s, "treated_value": a, "control_value": b, "difference": a - b, "counted": s in c.seeds}
        for s, (a, b) in pairing.found.items()
    ]


def _row(pairing: _Pairing, judged: Judgement, label: str) -> dict[str, Any]:
    c, values = pairing.contrast, pairing.values
    later = [s for s in pairing.found if s not in c.seeds]
    own = judged._asdict()
    own["p_exact_floor"] = own.pop("floor")
    row = {
        "family": c.family, "domain": c.domain, "metric": c.metric, "treated": c.treated, "control": c.control,
        "primary": c.primary, "planned": len(c.seeds), **own,
        "hangs_on": " ".join(str(pairing.counted[i]) for i in judged.hangs_on),
        "lost": " ".join(dict.fromkeys([*pairing.lost[0], *pairing.lost[1]])), "pending": ", ".join(pairing.pending),
        "later_n": len(later),
        "later_effect": float(np.mean([a - b for a, b in pairing.found.values()])) if later else math.nan,
        "ppl_change_pct": math.nan if values.higher_is_better else 100 * float(np.expm1(judged.effect)),
    }  # fmt: skip
    limit = pairing.case().limit
    return {**row, "sentence": sentence(row, label, values.higher_is_better, limit)}


def _pooled(pairings: list[_Pairing], domains: dict[str, str]) -> list[dict[str, Any]]:
    """One summary a comparison that several domains have, without a verdict: fixed over these domains, random over seeds."""
    groups: dict[tuple[str, ...], list[_Pairing]] = {}
    for p in pairings:
        groups.setdefault((p.contrast.family, p.contrast.metric, p.contrast.treated, p.contrast.control), []).append(p)
    rows = []
    for key, members in groups.items():
        seeds = sorted(set.intersection(*(set(p.counted) for p in members)))
        if len(members) < 2 or not seeds:
            continue
        single = [_estimate(p, seeds) for p in members]
        by_seed = np.mean([[a - b for a, b in (p.found[s] for s in seeds)] for p in members], axis=0)
        error = math.sqrt(sum(e.item_error**2 for e in single)) / len(single)
        # items of different domains are different ones; the fewest degrees of freedom of any domain
        whole = paired(by_seed)._replace(item_error=error, items=min(e.items for e in single))
        found = interval(whole)
        effects = [e.effect for e in single]
        names = ", ".join(domains.get(p.contrast.domain, p.contrast.domain) for p in members)
        unit, scale = ("percentage points", 100) if members[0].values.higher_is_better else ("nats a token", 1)
        span = (
            "no interval with one seed"
            if len(seeds) < 2
            else f"95 % interval {scale * found.low:+.4f} to {scale * found.high:+.4f}"
        )
        text = (
            f"Over {names}, weighted equally: {key[2]} minus {key[3]} {scale * found.value:+.4f} {unit}, {span}, {len(seeds)} paired "
            f"seed(s); single domains {scale * min(effects):+.4f} to {scale * max(effects):+.4f}. Fixed over domains: it speaks "
            "of these domains only, and gives no verdict of its own."
        )
        rows.append({
            **dict(zip(("family", "metric", "treated", "control"), key, strict=True)), "domains": len(members), "n": len(seeds),
            "effect": found.value, "low": found.low, "high": found.high, "smallest": min(effects), "largest": max(effects),
            "model": "fixed", "sentence": text,
        })  # fmt: skip
    return rows


def _estimate(pairing: _Pairing, seeds: list[int]) -> Estimate:
    found = paired(np.array([a - b for a, b in (pairing.found[s] for s in seeds)]))
    items = list(pairing.items(seeds))
    if not items:
        return found
    return (with_problems if pairing.values.higher_is_better else with_documents)(found, items)
