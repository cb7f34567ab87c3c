"""The planned comparisons of a study: which regime against which, on what, and how each is told in one sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nca_interp.analysis.verdicts.statistics import compare, holm

CONTRASTS = [
    "family",
    "domain",
    "metric",
    "treated",
    "control",
    "n",
    "effect",
    "low",
    "high",
    "p",
    "p_holm",
    "margin",
    "detectable",
    "ppl_change_pct",
    "verdict",
    "sentence",
]
PAIRS = ["family", "domain", "metric", "treated", "control", "seed", "treated_value", "control_value", "difference"]
SCRATCH = "scratch"
ACCURACY_MARGIN = 0.01
"""Share of problems within which two accuracies count as equivalent."""


class Planned(NamedTuple):
    """One comparison: treated minus control."""

    family: str
    treated: str
    control: str


@dataclass(frozen=True)
class Values:
    """Final values to compare: columns regime, domain, seed, value."""

    rows: pd.DataFrame
    metric: str
    margin: float
    higher_is_better: bool = False


def primary(roles: dict[str, str]) -> str | None:
    """The regime that the study is about: `nca`, else the first compared regime that is not scratch."""
    names = [name for name, role in roles.items() if role == "regime" and name != SCRATCH]
    return "nca" if "nca" in names else (names[0] if names else None)


def planned(roles: dict[str, str]) -> list[Planned]:
    """Comparisons that follow from the regimes' roles, declared before any result is read.

    regime: the primary regime against scratch and every other regime or control. transfer: each re-initialisation arm
    against full transfer (necessity of what it re-initialised) and scratch (sufficiency of what it kept), and the gap
    they share out. complexity: every arm and the primary regime against scratch.
    """
    first = primary(roles)
    if first is None:
        return []
    others = [name for name, role in roles.items() if role in ("regime", "control") and name != first]
    plan = [Planned("regime", first, name) for name in sorted(others, key=lambda n: n != SCRATCH)]
    arms = [name for name, role in roles.items() if role == "transfer"]
    bands = [name for name, role in roles.items() if role == "complexity"]
    plan += [Planned("transfer", arm, first) for arm in arms]
    if SCRATCH in roles:
        plan += [Planned("transfer", arm, SCRATCH) for arm in arms]
        plan += [Planned("transfer", first, SCRATCH)] if arms else []
        plan += [Planned("complexity", name, SCRATCH) for name in (first, *bands)] if bands else []
    return plan


def contrast_tables(
    roles: dict[str, str], domains: dict[str, str], losses: Values, accuracies: Values | None
) -> dict[str, pd.DataFrame]:
    """The tables `contrasts` and `pairs`; `domains`: name -> label. Comparisons without a common seed are left out."""
    plan = planned(roles)
    rows: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for domain, label in domains.items():
        work = [(item, losses) for item in plan]
        if accuracies is not None:
            work += [(item._replace(family="reasoning"), accuracies) for item in plan if item.family == "regime"]
        found = [one for item, values in work if (one := _contrast(item, domain, label, values, pairs)) is not None]
        for family in ("regime", "reasoning"):  # one family of planned comparisons a domain
            members = [row for row in found if row["family"] == family]
            for row, adjusted in zip(members, holm([row["p"] for row in members]), strict=True):
                row["p_holm"] = adjusted
        rows += found
    return {"contrasts": pd.DataFrame(rows, columns=CONTRASTS), "pairs": pd.DataFrame(pairs, columns=PAIRS)}


def _contrast(
    item: Planned, domain: str, label: str, values: Values, pairs: list[dict[str, Any]]
) -> dict[str, Any] | None:
    table = values.rows[values.rows.domain == domain]
    treated = table[table.regime == item.treated].set_index("seed").value
    control = table[table.regime == item.control].set_index("seed").value
    seeds = sorted(set(treated.index) & set(control.index))
    if not seeds:
        return None
    shared = {
        "family": item.family,
        "domain": domain,
        "metric": values.metric,
        "treated": item.treated,
        "control": item.control,
    }
    differences = [float(treated[s] - control[s]) for s in seeds]
    for seed, difference in zip(seeds, differences, strict=True):
        pairs.append({
            **shared, "seed": seed, "treated_value": float(treated[seed]), "control_value": float(control[seed]),
            "difference": difference,
        })  # fmt: skip
    result = compare(differences, values.margin, values.higher_is_better)
    row = {**shared, **result._asdict(), "p_holm": math.nan}
    row["ppl_change_pct"] = math.nan if values.higher_is_better else 100 * float(np.expm1(result.effect))
    row["sentence"] = _sentence(row, label, values)
    return row


def _sentence(row: dict[str, Any], label: str, values: Values) -> str:
    """One sentence with the numbers behind a verdict."""
    n, treated, control = row["n"], row["treated"], row["control"]
    if values.higher_is_better:
        size = f"{100 * row['effect']:+.1f} percentage points of accuracy"
        span = f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
    else:
        size = f"{row['effect']:+.4f} nats a token ({row['ppl_change_pct']:+.2f} % perplexity)"
        span = f"{row['low']:+.4f} to {row['high']:+.4f}"
    if n == 1:
        return f"{label}: {treated} minus {control} is {size} with one seed; no verdict is possible."
    says = {
        "better": f"{treated} is better than {control}",
        "worse": f"{treated} is worse than {control}",
        "equivalent": f"{treated} and {control} are equivalent within {row['margin']:g}",
        "inconclusive": f"{treated} against {control} is inconclusive",
    }[row["verdict"]]
    return f"{label}: {says}, {size}, 95 % interval {span}, {n} paired seeds."
