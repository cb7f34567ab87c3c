"""Regimes over seeds and problems: accuracies with both errors, and contrasts paired on both (analysis/verdicts)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.verdicts.contrasts import CONTRASTS, Key, Values, contrast_tables
from nca_interp.analysis.verdicts.crossed import Items, interval, paired, with_problems
from nca_interp.analysis.verdicts.plan import ACCURACY_MARGIN, Contrast, planned
from nca_interp.evaluate.cards import of_problems

REGIMES = ["task", "regime", "domain", "stage", "k", "value", "low", "high", "seeds", "problems"]
FAMILY, EXPLORATORY = "evaluation", "exploratory"
NO_PLAN = " No plan was fixed before these results: the verdict is exploration."


def problem_values(frame: pd.DataFrame, task: str, k: int) -> np.ndarray:
    """pass@k of each answered problem of a task, scaled so that their mean is the mean over its parts."""
    rows = frame[frame.task == task]
    values = [
        np.array([v for v in of_problems(part, k) if not math.isnan(v)]) for _, part in rows.groupby("part", sort=False)
    ]
    total = sum(map(len, values))
    return np.concatenate([v * total / (len(values) * len(v)) for v in values if len(v)]) if total else np.zeros(0)


def over_seeds(collection: Collection, table: pd.DataFrame, ends: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean over seeds of each regime at its last checkpoints, the interval with the error of seeds and of problems; with one seed
    that of the problems alone."""
    whole = table[(table.part == "") & table.run.isin(ends) & (table.sampling != "harness")]
    whole = whole[whole.final == 1]
    rows: list[dict[str, Any]] = []
    groups: Any = whole.groupby(["task", "regime", "domain", "stage", "k"], sort=False, dropna=False)
    for key, group in groups:
        task, k = str(key[0]), int(key[4])
        known = group.dropna(subset=["value"])
        right = [problem_values(ends[run], task, k) for run in known.run]
        head = dict(zip(REGIMES[:5], key, strict=True)) | {
            "seeds": len(known),
            "problems": len(right[0]) if right else 0,
        }
        if len(known) > 1:
            estimate = paired(known.value.to_numpy(dtype=float) - 0.5)
            if len({len(r) for r in right}) == 1:  # half of a problem is the middle of what it can give
                half = np.full(len(right[0]), 0.5)
                estimate = with_problems(estimate, [Items(r, half, np.ones(len(r))) for r in right])
            found = interval(estimate)
            rows.append(
                {
                    **head,
                    "value": found.value + 0.5,
                    "low": max(0.0, found.low + 0.5),
                    "high": min(1.0, found.high + 0.5),
                }
            )
        elif len(known):
            rows.append({**head, **{name: float(known[name].iloc[0]) for name in ("value", "low", "high")}})
    return pd.DataFrame(rows, columns=REGIMES)


def contrasts(collection: Collection, table: pd.DataFrame, ends: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Comparisons of regimes on every task, at the smallest k, Holm-corrected together; marked as exploration."""
    found, rows, items = [], [], {}
    labels: dict[str, str] = {}
    where: dict[str, tuple[str, int]] = {}
    runs = {run.id: run for run in collection.runs if run.id in ends and run.seed is not None}
    whole = table[(table.part == "") & table.run.isin(runs) & (table.sampling != "harness")].dropna(subset=["value"])
    whole = whole[(whole.final == 1) & (whole.k == whole.groupby(["run", "task"]).k.transform("min"))]
    for r in whole.to_dict("records"):
        run, task, k = runs[r["run"]], str(r["task"]), int(r["k"])
        place = f"{task}|{run.domain}|{run.stage}"
        told = ", ".join(
            w for w in (collection.domains.get(run.domain, run.domain), "fine-tuned" if run.stage == "ft" else "") if w
        )
        labels[place] = f"{task}{f' ({told})' if told else ''}"
        where[place] = task, k
        rows.append({"regime": run.regime, "domain": place, "seed": run.seed, "value": r["value"]})
        values = problem_values(ends[run.id], task, k)
        key: Key = (run.regime, place, int(run.seed or 0))
        items[key] = values, np.ones(len(values))
    frame = pd.DataFrame(rows, columns=["regime", "domain", "seed", "value"])
    for place in labels:
        own = frame[frame.domain == place]
        for item in planned(collection.roles):
            seeds = set.intersection(*(set(own[own.regime == name].seed) for name in item[1:]))
            if item.family == "regime" and seeds:
                common = tuple(sorted(int(s) for s in seeds))
                found.append(Contrast(FAMILY, place, "accuracy", item.treated, item.control, common, ACCURACY_MARGIN))
    if not found:
        return pd.DataFrame(columns=[*CONTRASTS, "task", "k"])
    values_ = Values(frame, "accuracy", ACCURACY_MARGIN, higher_is_better=True, items=items)
    nothing = Values(frame.iloc[:0], "val_loss", 0.01)
    made = contrast_tables(collection.roles, labels, nothing, values_, found)["contrasts"]
    return made.assign(
        verdict=[f"{v} ({EXPLORATORY})" for v in made.verdict], sentence=[f"{s}{NO_PLAN}" for s in made.sentence],
        task=[where[d][0] for d in made.domain], k=[where[d][1] for d in made.domain],
        domain=[d.split("|")[1] for d in made.domain],
    )  # fmt: skip
