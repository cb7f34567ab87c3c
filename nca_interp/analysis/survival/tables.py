"""Tables `survival`, `fates` and `fate_seeds`: the heads that pre-pre-training grew, by a rule that looks at nothing after it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import CHECKPOINT, IDENTITY, Run, ppt_of
from nca_interp.analysis.dynamics.emergence import Maxima, level_of
from nca_interp.analysis.dynamics.threshold_crossing import Crossing
from nca_interp.analysis.probing.engine import choose
from nca_interp.analysis.probing.null_study import null_maxima
from nca_interp.analysis.survival import fates as rules
from nca_interp.analysis.survival.components import COMPONENTS
from nca_interp.analysis.survival.measure import QUANTITIES
from nca_interp.analysis.survival.study import applies, kept_heads
from nca_interp.measurement import Asked

TOP = 2
"""Heads of a probe that are followed, at most."""
SURVIVAL = [*CHECKPOINT, "ppt_run", "probe", "layer", "head", "quantity", "value", "low", "high", "start", "bound"]
FATES = [
    *IDENTITY, "ppt_run", "probe", "layer", "head", "start", "level", "end", "lost_state", "lost_after", "lost_by", "used_state",
    "used_after", "used_by", "effect", "bound", "others", "fate", "first_part", "sentence",
]  # fmt: skip
SEEDS = ["domain", "regime", "ppt_regime", "probe", "seeds", "heads", "lost", "kept", "used", "agree", "verdict"]
INDUCTION = "induction"


class Grown(NamedTuple):
    """A head that pre-pre-training grew."""

    probe: str
    layer: int
    head: int
    score: float


def tables(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> dict[str, pd.DataFrame]:
    """Tables of the heads that pre-pre-training grew."""
    hits = {name: d.value.hit for name, d in choose(None, asked.probes)[0].items() if d.value.hit is not None}
    return survival_tables(list(collection.runs), tables["probes"], hits, null_maxima(collection))


def survival_tables(
    runs: list[Run], probes: pd.DataFrame, hits: dict[str, float], maxima: Maxima
) -> dict[str, pd.DataFrame]:
    """A row (SURVIVAL) a checkpoint, head and quantity; a row (FATES) a head and run; a row (SEEDS) a regime and probe."""
    by_id, courses, ends = {run.id: run for run in runs}, [], []
    scored = dict(list(probes[probes["head"].notna() & probes.value.notna()].groupby("run")))
    for run in runs:
        parent = ppt_of(run, by_id) if run.stage == "pt" and applies(run) and run.done else None
        if parent is None or not parent.done or parent.id not in scored:
            continue
        heads = grown(scored[parent.id], hits, maxima.get(parent.id, {}))
        for row in _followed(run, parent, heads, scored.get(run.id), hits, maxima):
            courses.append(row.course)
            ends.append(row.end)
    found = pd.concat(courses, ignore_index=True) if courses else pd.DataFrame(columns=SURVIVAL)
    fates = pd.DataFrame(ends, columns=FATES)
    return {"survival": found[SURVIVAL], "fates": fates, "fate_seeds": _seeds(fates, by_id)}


def grown(scores: pd.DataFrame, hits: dict[str, float], maxima: dict[str, Any]) -> list[Grown]:
    """The TOP heads of each probe at the last checkpoint of a pre-pre-training, of those above the level that decides about
    emergence (docs/emergence.md)."""
    last, found = scores[scores.step == scores.step.max()], []
    for probe, threshold in sorted(hits.items()):
        rows = last[last.probe == probe]
        if rows.empty:
            continue
        above = rows[rows.value >= level_of(rows.null_95.to_numpy(float), threshold, maxima.get(probe))]
        for row in above.sort_values("value", ascending=False, kind="stable").head(TOP).to_dict("records"):
            found.append(Grown(probe, int(row["layer"]), int(row["head"]), float(row["value"])))
    return found


class _Row(NamedTuple):
    course: pd.DataFrame
    end: dict[str, Any]


def _followed(
    run: Run, parent: Run, heads: list[Grown], scores: pd.DataFrame | None, hits: dict[str, float], maxima: Maxima
) -> Iterator[_Row]:
    kept = {step: kept_heads(run, step, parent) for step in run.steps}
    measured = {step: frame for step, frame in kept.items() if frame is not None and len(frame)}
    before = kept_heads(parent, parent.steps[-1], parent)
    chosen = {(g.layer, g.head) for g in heads}
    bounds = {step: _bound(frame, chosen) for step, frame in measured.items()}
    for one in heads:
        course = _course(run, parent, one, measured, before)
        own = None if scores is None else scores[scores.probe == one.probe]
        level = math.nan
        if own is not None and len(own):
            level = level_of(own.null_95.to_numpy(float), hits[one.probe], maxima.get(run.id, {}).get(one.probe))
            course = pd.concat([_scores(run, parent, one, own, level), course], ignore_index=True)
        numbers = ["value", "low", "high", "start", "bound"]
        course[numbers] = course[numbers].astype(float)  # a missing one is NaN to arithmetic
        of_effects = [bounds.get(int(step), math.nan) for step in course.step]
        course["bound"] = course.bound.where(course.quantity != "effect", of_effects)
        if len(course):
            yield _Row(course, _end(run, parent, one, course, level, run.steps, measured, chosen))


def _bound(frame: pd.DataFrame, chosen: set[tuple[int, int]]) -> float:
    effects = frame[frame.quantity == "effect"]
    others = [v for n, h, v in zip(effects.layer, effects["head"], effects.value, strict=True) if (n, h) not in chosen]
    return rules.effect_bound(others)


def _named(run: Run, parent: Run, one: Grown) -> dict[str, Any]:
    return {**run.identity, "ppt_run": parent.id, "probe": one.probe, "layer": one.layer, "head": one.head}


def _course(
    run: Run, parent: Run, one: Grown, measured: dict[int, pd.DataFrame], before: pd.DataFrame | None
) -> pd.DataFrame:
    starts = {} if before is None else dict(zip(*_of(before, one)[["quantity", "value"]].to_numpy().T, strict=True))
    parts = []
    for step, frame in measured.items():
        own = _of(frame, one)[["quantity", "value", "low", "high"]]
        own = own[own.quantity.isin(QUANTITIES) & own.value.notna()]
        parts.append(own.assign(step=step, tokens=run.tokens_at.get(step), start=own.quantity.map(starts)))
    if not parts:
        return pd.DataFrame(columns=SURVIVAL)
    return pd.concat(parts, ignore_index=True).assign(**_named(run, parent, one), bound=math.nan)[SURVIVAL]


def _of(frame: pd.DataFrame, one: Grown) -> pd.DataFrame:
    return frame[(frame.layer == one.layer) & (frame["head"] == one.head)]


def _scores(run: Run, parent: Run, one: Grown, scores: pd.DataFrame, level: float) -> pd.DataFrame:
    own = _of(scores, one).sort_values("step")[["step", "tokens", "value"]]
    more: dict[str, Any] = {"quantity": "score", "low": math.nan, "high": math.nan, "start": one.score, "bound": level}
    return own.assign(**_named(run, parent, one), **more)[SURVIVAL]


def _end(
    run: Run, parent: Run, one: Grown, course: pd.DataFrame, level: float, steps: list[int],
    measured: dict[int, pd.DataFrame], chosen: set[tuple[int, int]],
) -> dict[str, Any]:  # fmt: skip
    def of(quantity: str) -> pd.DataFrame:
        return course[course.quantity == quantity].sort_values("step")

    score, effect = of("score"), of("effect")
    at = [int(s) for s in (score if len(score) else effect).step]
    lost = rules.losing(score.value.tolist(), level)
    told = (effect.value.tolist(), effect.low.tolist(), effect.bound.tolist())
    used = rules.using(*told)
    uses = None if used is None else rules.used_at_end(*told)
    spans = {}
    for part in COMPONENTS if one.probe == INDUCTION else ():
        rows = of(part)
        if len(rows):
            spans[part] = rules.half_lost(float(rows.start.iloc[0]), rows.value.tolist(), rules.LEAST[part])
    first, word = rules.first_lost(spans), rules.fate(lost, uses)
    row = {
        **_named(run, parent, one), "start": one.score, "level": level, "end": _last(score.value), **_when("lost", lost, at),
        **_when("used", used, [int(s) for s in effect.step]), "effect": _last(effect.value), "bound": _last(effect.bound),
        "others": _others(measured, chosen), "fate": word, "first_part": first,
    }  # fmt: skip
    return row | {"sentence": sentence(row)}


def _last(values: pd.Series) -> float:
    return float(values.iloc[-1]) if len(values) else math.nan


def _others(measured: dict[int, pd.DataFrame], chosen: set[tuple[int, int]]) -> int:
    if not measured:
        return 0
    rows = next(iter(measured.values()))
    rows = rows[rows.quantity == "effect"]
    return sum((n, h) not in chosen for n, h in zip(rows.layer, rows["head"], strict=True))


def _when(what: str, found: Crossing | None, steps: list[int]) -> dict[str, Any]:
    if found is None:
        return {f"{what}_state": "", f"{what}_after": None, f"{what}_by": None}
    after, by = (None if i is None else steps[i] for i in (found.after, found.by))
    return {f"{what}_state": found.state, f"{what}_after": after, f"{what}_by": by}


def sentence(row: dict[str, Any]) -> str:
    """What became of a head, in words."""
    name = f"{row['probe']} head {row['layer']}.{row['head']} of {row['ppt_run']} in {row['run']}"
    word = {rules.UNKNOWN: "is not measured in language", rules.KEPT: "is kept, not shown to be used"}.get(row["fate"])
    if row["fate"] in (rules.LOST, rules.BOTH):
        swap = row["lost_state"] == "from start"
        when = f"step {row['lost_by']} (between {row['lost_after']} and {row['lost_by']})"
        word = "is lost at the swap" if swap else f"is lost at {when}"
        word += ", yet losing what is left of it costs" if row["fate"] == rules.BOTH else ""
    elif row["fate"] == rules.USED:
        word = (
            "is used at the end" if row["lost_state"] else "is used at the end (its score is not measured in language)"
        )
    part = row["first_part"]
    ends = {"": "", "none": "; no part of it has lost half"}
    return f"{name} {word}{ends.get(part, f'; first to lose half: {part}')}."


def _seeds(fates: pd.DataFrame, by_id: dict[str, Run]) -> pd.DataFrame:
    """What seeds say together: a seed whose heads of a probe do not share one fate is mixed."""
    rows = []
    named = fates.assign(ppt_regime=[by_id[i].regime for i in fates.ppt_run])
    for keys, part in named.groupby(["domain", "regime", "ppt_regime", "probe"], sort=False):
        each = [f.iloc[0] if f.nunique() == 1 else "mixed" for _, f in part.groupby("seed").fate]
        verdict = rules.over_seeds(each)
        counts = {
            "lost": int(part.fate.isin([rules.LOST, rules.BOTH]).sum()), "kept": int((part.fate == rules.KEPT).sum()),
            "used": int(part.fate.isin([rules.USED, rules.BOTH]).sum()),
        }  # fmt: skip
        rows.append([*keys, len(each), len(part), *counts.values(), verdict.agree, verdict.word])
    return pd.DataFrame(rows, columns=SEEDS)
