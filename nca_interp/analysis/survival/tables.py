"""Tables `survival`, `fates` and `fate_seeds`: the heads that pre-pre-training grew, by a rule that looks at nothing after it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import CHECKPOINT, IDENTITY, Run, ppt_of
from nca_interp.analysis.dynamics.emergence import Maxima, Scored, level_of, scored_probes
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
    by_id, points, ends = {run.id: run for run in runs}, [], []
    scored = scored_probes(probes[probes["head"].notna()])
    for run in runs:
        parent = ppt_of(run, by_id) if run.stage == "pt" and applies(run) and run.done else None
        if parent is None or not parent.done or parent.id not in scored:
            continue
        heads = grown(scored[parent.id], hits, maxima.get(parent.id, {}))
        for one, course, end in _followed(run, parent, heads, scored.get(run.id, {}), hits, maxima):
            named = _named(run, parent, one)
            points += [{**named, **point._asdict()} for point in course]
            ends.append(end)
    fates = pd.DataFrame(ends, columns=FATES)
    return {"survival": pd.DataFrame(points, columns=SURVIVAL), "fates": fates, "fate_seeds": _seeds(fates, by_id)}


def grown(scores: dict[str, Scored], hits: dict[str, float], maxima: dict[str, Any]) -> list[Grown]:
    """The TOP heads of each probe at the last checkpoint of a pre-pre-training, of those above the level that decides about
    emergence (docs/emergence.md)."""
    end, found = max((int(rows.step.max()) for rows in scores.values()), default=0), []
    for probe, threshold in sorted(hits.items()):
        if probe not in scores or not (last := scores[probe].where(scores[probe].step == end)).step.size:
            continue
        above = last.where(last.value >= level_of(last.null_95, threshold, maxima.get(probe), last.chance))
        for n in np.argsort(-above.value, kind="stable")[:TOP]:
            found.append(Grown(probe, int(above.layer[n]), int(above.head[n]), float(above.value[n])))
    return found


class Point(NamedTuple):
    """One quantity of a head at one checkpoint; NaN where it is not known."""

    step: int
    tokens: int | None
    quantity: str
    value: float
    low: float
    high: float
    start: float
    """At the end of pre-pre-training."""
    bound: float


class _Kept:
    """What is kept of the heads of a checkpoint."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.rows: dict[tuple[int, int], list[tuple[str, float, float, float]]] = {}
        """By head: quantity, value, low, high."""
        columns = [frame[name].tolist() for name in ("layer", "head", "quantity", "value", "low", "high")]
        for layer, head, *row in zip(*columns, strict=True):
            self.rows.setdefault((layer, head), []).append(tuple(row))

    def others(self, chosen: set[tuple[int, int]]) -> list[float]:
        """Effects of the heads that were not chosen, in the order of the table."""
        return [row[1] for head, rows in self.rows.items() if head not in chosen for row in rows if row[0] == "effect"]


def _followed(
    run: Run, parent: Run, heads: list[Grown], scores: dict[str, Scored], hits: dict[str, float], maxima: Maxima
) -> Iterator[tuple[Grown, list[Point], dict[str, Any]]]:
    """Each of the heads that was measured in language, its course and its row of FATES."""
    kept = {step: kept_heads(run, step, parent) for step in run.steps}
    measured = {step: _Kept(frame) for step, frame in kept.items() if frame is not None and len(frame)}
    before = kept_heads(parent, parent.steps[-1], parent)
    starts = {} if before is None else _Kept(before).rows
    chosen = {(g.layer, g.head) for g in heads}
    others = {step: one.others(chosen) for step, one in measured.items()}
    bounds = {step: rules.effect_bound(effects) for step, effects in others.items()}
    for one in heads:
        course, level = _course(run, one, measured, starts, bounds), math.nan
        if (own := scores.get(one.probe)) is not None:
            level = level_of(own.null_95, hits[one.probe], maxima.get(run.id, {}).get(one.probe), own.chance)
            course = [*_scores(one, own, level), *course]
        if course:
            end = _end(run, parent, one, course, level, len(next(iter(others.values()), ())))
            yield one, course, end


def _named(run: Run, parent: Run, one: Grown) -> dict[str, Any]:
    return {**run.identity, "ppt_run": parent.id, "probe": one.probe, "layer": one.layer, "head": one.head}


def _course(
    run: Run, one: Grown, measured: dict[int, _Kept], starts: dict[tuple[int, int], Any], bounds: dict[int, float]
) -> list[Point]:
    place = one.layer, one.head
    start = {quantity: value for quantity, value, *_ in starts.get(place, ())}
    return [
        Point(
            step, run.tokens_at.get(step), quantity, value, low, high, start.get(quantity, math.nan),
            bounds[step] if quantity == "effect" else math.nan,
        )
        for step, kept in measured.items()
        for quantity, value, low, high in kept.rows.get(place, ())
        if quantity in QUANTITIES and not math.isnan(value)
    ]  # fmt: skip


def _scores(one: Grown, scores: Scored, level: float) -> list[Point]:
    own = scores.where((scores.layer == one.layer) & (scores.head == one.head))
    points = [
        Point(step, None if math.isnan(tokens) else int(tokens), "score", value, math.nan, math.nan, one.score, level)
        for step, tokens, value in zip(own.step.tolist(), own.tokens.tolist(), own.value.tolist(), strict=True)
    ]
    return sorted(points, key=lambda point: point.step)


def _end(run: Run, parent: Run, one: Grown, course: list[Point], level: float, others: int) -> dict[str, Any]:
    def of(quantity: str) -> list[Point]:
        return sorted((point for point in course if point.quantity == quantity), key=lambda point: point.step)

    score, effect = of("score"), of("effect")
    lost = rules.losing([p.value for p in score], level)
    told = [p.value for p in effect], [p.low for p in effect], [p.bound for p in effect]
    used = rules.using(*told)
    uses = None if used is None else rules.used_at_end(*told)
    spans = {}
    for part in COMPONENTS if one.probe == INDUCTION else ():
        if points := of(part):
            spans[part] = rules.half_lost(points[0].start, [p.value for p in points], rules.LEAST[part])
    first, word = rules.first_lost(spans), rules.fate(lost, uses)
    last = effect[-1] if effect else None
    row = {
        **_named(run, parent, one), "start": one.score, "level": level, "end": score[-1].value if score else math.nan,
        **_when("lost", lost, [p.step for p in score or effect]), **_when("used", used, [p.step for p in effect]),
        "effect": last.value if last else math.nan, "bound": last.bound if last else math.nan, "others": others, "fate": word,
        "first_part": first,
    }  # fmt: skip
    return row | {"sentence": sentence(row)}


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
