"""Comparisons over seeds of what happens over training: emergence between regimes, emergence and loss, persistence of heads.

Emergence is known between two checkpoints only, so a ratio of two is known within bounds; the intervals here hold wherever
inside the bounds the truth lies (docs/emergence.md). Exploration: verdicts hold at a false discovery rate of 5 % within a family.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from nca_interp.analysis.dynamics.emergence import NEAR, Span, span_of
from nca_interp.analysis.dynamics.threshold_crossing import Floats
from nca_interp.analysis.verdicts.plan import SCRATCH, planned
from nca_interp.analysis.verdicts.statistics import ALPHA, benjamini_hochberg, t_interval

TIMING = [
    "family", "domain", "stage", "probe", "treated", "control", "budget", "n", "effect", "low", "high", "earlier", "later",
    "p_sign", "p", "p_bh", "p_together", "p_together_bh", "finest", "verdict", "sentence",
]  # fmt: skip
BEND, SAME_SEED = "bend of the loss", "scratch of the same seed"
BUDGETS = ("pt", "pt+ppt")
ENOUGH = 3
"""Seeds that a verdict takes: two can lie between the same checkpoints by chance."""
TOO_FEW = f"no verdict (fewer than {ENOUGH} seeds)"
UNINFORMATIVE = "no verdict (random weights pass the level)"
NEVER = "never reached"
WORDS = {"regime": ("earlier", "later"), "loss": ("earlier", "later"), "persistence": ("lost", "persists")}
"""Verdicts of a family for effects below and above zero."""
VERDICT = "{verdict}"


class Bounded(NamedTuple):
    """A mean over seeds of values known within bounds."""

    n: int
    effect: float
    """Mean of the middles; NaN where a bound of any seed is infinite."""
    low: float
    high: float


def timing_table(
    roles: dict[str, str], runs: pd.DataFrame, emergence: pd.DataFrame, persistence: pd.DataFrame
) -> pd.DataFrame:
    """All comparisons (TIMING). `runs`: the table, whose `ppt_tokens` are spent before the swap."""
    families = [_regimes(roles, runs, emergence), _loss(emergence), _persistence(persistence)]
    rows = [row for family in families for row in decide_family(list(family))]
    return pd.DataFrame(rows, columns=TIMING)


def decide_family(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one family with p corrected over those that can have a verdict, verdict and sentence."""
    open_ = [row for row in rows if row["verdict"] == "inconclusive"]
    for name in ("p", "p_together"):
        for row, corrected in zip(open_, benjamini_hochberg([row.get(name, math.nan) for row in open_]), strict=True):
            row[f"{name}_bh"] = corrected
    for row in rows:
        below, above = WORDS[row["family"]]
        if row.get("p_together_bh", 1.0) < ALPHA:
            row["verdict"] = "together"
        elif row.get("p_bh", 1.0) < ALPHA:
            row["verdict"] = above if row["low"] > 0 else below
        row["sentence"] = row["sentence"].replace(VERDICT, row["verdict"])
    return rows


def bounded(spans: list[Span], grain: float = 0.0) -> Bounded:
    """95 % bounds of the mean of values known within spans: from the lower t-bound of the low ends to the upper one of the
    high ends; infinite where one seed's end is, and for one seed.

    `grain`: the standard deviation over seeds is taken to be at least this, for values rounded to checkpoints.
    """
    ends = np.array(spans, dtype=float)
    low, high = (_bound(ends[:, side], grain, side) for side in (0, 1))
    effect = float(ends.mean()) if np.isfinite(ends).all() else math.nan
    return Bounded(len(ends), effect, low, high)


def _bound(values: Floats, grain: float, side: int) -> float:
    sign, n = 2 * side - 1, len(values)
    if n < 2 or not np.isfinite(values).all():
        return sign * math.inf
    least = float(stats.t.ppf(1 - ALPHA / 2, n - 1)) * grain / math.sqrt(n)
    half = max(t_interval(values).high - float(values.mean()), least)
    return float(values.mean()) + sign * half


def p_outside(spans: list[Span], grain: float = 0.0, edge: float = 0.0) -> float:
    """Two-sided p that the mean is not above `edge` nor below -`edge`, wherever inside the spans the truth lies: `bounded` lies
    outside where it is below 0.05. NaN for one seed."""
    return (
        min(1.0, 2 * min(_p_beyond(spans, grain, 0, edge), _p_beyond(spans, grain, 1, -edge)))
        if len(spans) > 1
        else math.nan
    )


def p_inside(spans: list[Span], grain: float, edge: float) -> float:
    """p of two one-sided tests that the mean lies between -`edge` and `edge`; NaN for one seed."""
    return max(_p_beyond(spans, grain, 0, -edge), _p_beyond(spans, grain, 1, edge)) if len(spans) > 1 else math.nan


def _p_beyond(spans: list[Span], grain: float, side: int, edge: float) -> float:
    """One-sided p that the mean of the low ends (side 0) is at most `edge`, or of the high ends (1) at least."""
    values = np.array(spans, dtype=float)[:, side]
    if not np.isfinite(values).all():
        return 1.0
    error = max(float(values.std(ddof=1)), grain) / math.sqrt(len(values))
    distance = (float(values.mean()) - edge) * (1 - 2 * side)
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stats.t.sf(distance / error, len(values) - 1))


def sign_p(earlier: int, later: int) -> float:
    """Two-sided sign test over the seeds that decide; NaN where none does."""
    decided = earlier + later
    return float(stats.binomtest(earlier, decided).pvalue) if decided else math.nan


def _regimes(roles: dict[str, str], runs: pd.DataFrame, emergence: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Tokens to the emergence in language: each planned comparison of regimes, domain, probe and budget."""
    known = emergence[emergence.resolution.notna()]
    by_chance = _passed_by_chance(emergence)
    language, before = (_records(known[known.stage == stage]) for stage in ("pt", "ppt"))
    rows = {(r["domain"], r["probe"], r["regime"], r["seed"]): r for r in language}
    parents = {(r["probe"], r["regime"], r["seed"]): r for r in before}
    paid = dict(zip(runs.run, runs.ppt_tokens.astype(float).fillna(0.0), strict=True))
    for item in planned(roles):
        if item.family != "regime":
            continue
        for domain, probe in dict.fromkeys((r["domain"], r["probe"]) for r in language):
            seeds = [s for (d, p, r, s) in rows if (d, p, r) == (domain, probe, item.treated)]
            pairs = [
                (rows[domain, probe, item.treated, s], other)
                for s in sorted(seeds)
                if (other := rows.get((domain, probe, item.control, s))) is not None
            ]
            for budget in BUDGETS if pairs else ():
                spans = [
                    (_spent(a, paid[a["run"]], parents, budget), _spent(b, paid[b["run"]], parents, budget))
                    for a, b in pairs
                ]
                head = {
                    "family": "regime", "domain": domain, "stage": "pt", "probe": probe, "treated": item.treated,
                    "control": item.control, "budget": budget,
                }  # fmt: skip
                yield compare_spans(head, spans, ("pt", domain, probe) in by_chance)


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _spent(row: dict[str, Any], paid: float, parents: dict[Any, dict[str, Any]], budget: str) -> Span:
    """Tokens of a budget at the emergence. With pre-pre-training, what is there at the swap emerged when it did before it."""
    own = span_of(row)
    if budget == "pt" or not paid:
        return own
    if row["state"] != "from start":
        return Span(own.after + paid, own.by + paid)
    parent = parents.get((row["probe"], row["regime"], row["seed"]))
    found = span_of(parent) if parent is not None else Span(row["resolution"], paid)
    return found if found.by < math.inf else Span(found.after, paid)


def _loss(emergence: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Emergence against the bend of the loss of the same run, for each regime, stage, domain and probe."""
    known, by_chance = emergence[emergence.bend.notna() & emergence.resolution.notna()], _passed_by_chance(emergence)
    for keys, rows in known.groupby(["domain", "stage", "regime", "probe"], sort=False):
        domain, stage, regime, probe = map(str, keys)
        records = _records(rows)
        spans = [(span_of(row), Span(row["bend_low"], row["bend_high"])) for row in records]
        head = {
            "family": "loss", "domain": domain, "stage": stage, "probe": probe, "treated": regime, "control": BEND,
            "budget": stage,
        }  # fmt: skip
        yield compare_spans(head, spans, (stage, domain, probe) in by_chance)


def _passed_by_chance(emergence: pd.DataFrame) -> set[tuple[str, str, str]]:
    """Stage, domain and probe where a run that began with random weights is at the level before its first step."""
    at_once = emergence[emergence.state == "from start"]
    random = at_once[(at_once.stage == "ppt") | (at_once.regime == SCRATCH)]
    return set(zip(random.stage, random.domain, random.probe, strict=True))


def compare_spans(head: dict[str, Any], pairs: list[tuple[Span, Span]], by_chance: bool) -> dict[str, Any]:
    """The row of one comparison of (treated, control) spans in tokens, in doublings."""
    grain = math.sqrt(
        float(np.mean([a.width**2 + b.width**2 for a, b in pairs])) / 12
    )  # sd of rounding to a checkpoint
    spans = [treated.doublings(control) for treated, control in pairs]
    found = bounded(spans, grain)
    earlier = sum(treated.by < control.after or treated.by == control.after < control.by for treated, control in pairs)
    later = sum(control.by < treated.after or control.by == treated.after < treated.by for treated, control in pairs)
    seen = [sum(span.by < math.inf for span in side) for side in zip(*pairs, strict=True)]
    finest = _finest(pairs, grain)
    verdict = "inconclusive"
    if by_chance:
        verdict = UNINFORMATIVE
    elif not seen[0] and (head["control"] == BEND or not seen[1]):
        verdict = NEVER
    elif found.n < ENOUGH:
        verdict = TOO_FEW
    place = f" on {head['domain']}" if head["domain"] else ""
    what = f"{head['probe']}{place}, {head['treated']} against {head['control']}, tokens of {head['budget']}: {VERDICT}"
    if verdict == NEVER:
        sentence = f"{what} in {found.n} seeds."
    else:
        ends = [f"{2**end:.3g}" if math.isfinite(end) else "unbounded" for end in (found.low, found.high)]
        middle = f"{2**found.effect:.3g}" if math.isfinite(found.effect) else "an unknown number of"
        sentence = (
            f"{what}; {middle} times the tokens [{ends[0]}, {ends[1]}], earlier in {earlier} and later in {later} of {found.n} seeds, "
            f"reached in {seen[0]}{'' if head['control'] == BEND else f' and {seen[1]}'}."
        )
        if finest > NEAR and verdict == "inconclusive":
            sentence += f" Checkpoints this far apart cannot show less than a factor of {2**finest:.3g}, so not that both come together."
    return {
        **head, **found._asdict(), "earlier": earlier, "later": later, "p_sign": sign_p(earlier, later),
        "p": p_outside(spans, grain), "p_together": p_inside(spans, grain, NEAR) if finest <= NEAR else math.nan,
        "finest": 2**finest, "verdict": verdict, "sentence": sentence,
    }  # fmt: skip


def _finest(pairs: list[tuple[Span, Span]], grain: float) -> float:
    """Doublings that bounds would be from zero if all seeds fell between the same checkpoints: below NEAR, together can be
    shown."""
    n = len(pairs)
    if n < 2:
        return math.inf
    reached = [a.width + b.width for a, b in pairs]
    return float(np.mean(reached)) / 2 + float(stats.t.ppf(1 - ALPHA / 2, n - 1)) * grain / math.sqrt(n)


def _persistence(persistence: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Do the same heads score high before the swap and at the end: correlation minus that of scratch of the same seed."""
    known = persistence[persistence.rho.notna() & persistence.scratch_rho.notna()]
    for keys, rows in known.groupby(["domain", "regime", "probe"], sort=False):
        domain, regime, probe = map(str, keys)
        values = (rows.rho - rows.scratch_rho).to_numpy(dtype=float)
        found = bounded([Span(v, v) for v in values])
        verdict = TOO_FEW if found.n < ENOUGH else "inconclusive"
        above, below = int((values > 0).sum()), int((values < 0).sum())
        sentence = (
            f"{probe} on {domain}, heads of {regime} at the end of pre-pre-training and of training: {VERDICT}; rank correlation "
            f"{rows.rho.mean():+.2f}, of {SAME_SEED} {rows.scratch_rho.mean():+.2f}, difference {found.effect:+.2f} "
            f"[{found.low:+.2f}, {found.high:+.2f}], n = {found.n}."
        )
        yield {
            "family": "persistence", "domain": domain, "stage": "pt", "probe": probe, "treated": regime, "control": SAME_SEED,
            **found._asdict(), "earlier": below, "later": above, "p_sign": sign_p(below, above),
            "p": p_outside([Span(v, v) for v in values]), "verdict": verdict, "sentence": sentence,
        }  # fmt: skip
