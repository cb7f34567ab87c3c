"""When heads and abilities appear in a run, and how that lies to the bend of its loss curve (docs/emergence.md)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.dynamics.bend import NO_BEND, Bend, bend
from nca_interp.analysis.dynamics.threshold_crossing import crossing
from nca_interp.analysis.inference.inference import GAP
from nca_interp.analysis.probing.probe import TIMES_CHANCE

EMERGENCE = [
    "run", "regime", "domain", "seed", "stage", "probe", "level", "state", "after_step", "by_step", "after_tokens", "by_tokens",
    "first", "last", "highest", "checkpoints", "spacing", "resolution", "bend", "bend_low", "bend_high", "distance_low", "distance_high", "order",
]  # fmt: skip
BEHAVIOUR = {"repeated_token_gain": (0.5, 1), "in_context_learning": (-0.2, -1)}
"""Level in nats a token of the probes of behaviour, and 1 where more, -1 where less is better. Half of the 0.4 nats that
Olsson et al. 2022 (arXiv 2209.11895) find after the heads have formed; a gain that no random model comes near."""
INFERENCE = "rule_inference"
"""Named like a probe: the lower end of the interval by which the accuracy on new NCA rules is above every rival (level 0)."""
Floats = np.ndarray
Maxima = dict[str, dict[str, Floats]]
"""By run and probe, the highest score of each random model of its architecture."""
NEAR = 1.0
"""Doublings of tokens within which emergence and bend are called together."""


class Series(NamedTuple):
    """A curve of one run and probe with the level that counts as there."""

    probe: str
    steps: list[int]
    tokens: list[float]
    """NaN where nothing says how many a step is."""
    values: list[float]
    level: float
    sign: int
    """1 where more is better, -1 where less is."""


class Span(NamedTuple):
    """Tokens after which and by which something happened; by is infinite where it was never seen."""

    after: float
    by: float

    def at_least(self, tokens: float) -> Span:
        """The same where everything that happened before the first checkpoint after the start counts as happening there."""
        return Span(max(self.after, tokens), max(self.by, tokens))

    def doublings(self, base: Span) -> Span:
        """Bounds of log2(this / base) in tokens, both above zero; infinite where either was never seen."""
        low = -math.inf if base.by == math.inf else math.log2(self.after / base.by)
        return Span(low, math.inf if self.by == math.inf else math.log2(self.by / base.after))

    @property
    def width(self) -> float:
        """Doublings of tokens between the two checkpoints; 0 where it was never seen."""
        return 0.0 if self.by == math.inf else math.log2(self.by / self.after)


def emergence_table(
    runs: list[Run], probes: pd.DataFrame, learning: pd.DataFrame, hits: dict[str, float], maxima: Maxima | None = None
) -> pd.DataFrame:
    """A row (EMERGENCE) for each finished run and each of its probes that names a kind of head or a behaviour.

    `hits`: probe -> threshold of a head of its kind; `learning`: the table of that name (rule inference over training);
    `maxima`: what random models reach.
    """
    rows = []
    scored, courses = scored_probes(probes), dict(list(learning.groupby("run")))
    measured = set(probes.run)
    for run in runs:
        name = run.id
        if not run.done or (name not in measured and name not in courses):
            continue
        turn = loss_bend(run)
        for series in _series(scored.get(name, {}), courses.get(name), hits, (maxima or {}).get(name, {})):
            rows.append({**run.identity, "probe": series.probe, **_emergence(series, turn)})
    return pd.DataFrame(rows, columns=EMERGENCE)


def loss_bend(run: Run) -> Bend:
    """The bend of a run's training loss; NO_BEND where there is none."""
    known = [(row["tokens"], row["loss"]) for row in run.rows if row.get("loss") is not None and row["tokens"] > 0]
    return bend(*zip(*known, strict=True)) if known else NO_BEND


def level_of(null_95: Floats, threshold: float, maxima: Floats | None = None, chance: Floats | None = None) -> float:
    """The level of a probe: its threshold, TIMES_CHANCE times `chance`, or what the highest head of a random model reaches, whatever is
    highest.

    `null_95` of its rows (NaN where none is known), `maxima` [model]: highest score of each random model. The bound is above the
    maximum of one more such model with a probability of 95 % (`beyond`); a single head passes `null_95`, the 95th percentile of
    heads, in nearly every random model, so it alone is no level.
    """
    drawn = null_95[~np.isnan(null_95)]
    known = [threshold, float(drawn.max()) if len(drawn) else math.nan]
    if chance is not None and not np.isnan(chance).all():
        known.append(TIMES_CHANCE * float(np.nanmax(chance)))
    if maxima is not None and len(maxima):
        spread = beyond(len(maxima)) * maxima.std(ddof=1) if len(maxima) > 1 else 0.0
        known.append(float(maxima.mean() + spread))
    return float(np.nanmax(known))


@lru_cache(maxsize=64)
def beyond(n: int) -> float:
    """Standard deviations above the mean of `n` maxima that one more maximum stays below with 95 %, by simulation of the Gumbel
    distribution: what the maximum of many scores tends to, with a longer upper tail than the normal one."""
    drawn = np.random.default_rng(0).gumbel(size=(100_000, n + 1))
    seen = drawn[:, :n]
    return float(np.quantile((drawn[:, n] - seen.mean(1)) / seen.std(1, ddof=1), 0.95))


class Scored(NamedTuple):
    """Rows of one probe of a run in the order of the table, as arrays."""

    step: npt.NDArray[np.int64]
    tokens: Floats
    """NaN where nothing says how many."""
    layer: Floats
    head: Floats
    """NaN in a row of the whole model."""
    value: Floats
    chance: Floats
    null_95: Floats

    def where(self, chosen: npt.NDArray[np.bool_]) -> Scored:
        """Some of the rows."""
        return Scored(*(column[chosen] for column in self))

    def by_step(self, most: bool) -> tuple[list[int], list[float], list[float]]:
        """Steps, ascending, their tokens, and the highest (`most`) or lowest value of each."""
        order = np.argsort(self.step, kind="stable")
        steps, starts = np.unique(self.step[order], return_index=True)
        best = (np.maximum if most else np.minimum).reduceat(self.value[order], starts)
        return steps.tolist(), self.tokens_at(steps), best.tolist()

    def tokens_at(self, steps: npt.NDArray[np.int64]) -> list[float]:
        """Tokens of each step."""
        known = ~np.isnan(self.tokens)
        found = dict(zip(self.step[known][::-1].tolist(), self.tokens[known][::-1].tolist(), strict=True))
        return [found.get(step, math.nan) for step in steps.tolist()]


def scored_probes(probes: pd.DataFrame) -> dict[str, dict[str, Scored]]:
    """By run and probe (both in the order of the table), the rows of a probes table that have a value."""
    if probes.empty:  # it may lack columns
        return {}
    probes = probes[probes.value.notna()]
    numbers = [probes[name].to_numpy(float, na_value=np.nan) for name in Scored._fields[1:]]
    columns = [probes["step"].to_numpy(np.int64), *numbers]
    (runs, run_names), (names, probe_names) = (probes[name].factorize() for name in ("run", "probe"))
    codes = runs * len(probe_names) + names
    order = np.argsort(codes, kind="stable")
    ends = np.flatnonzero(np.diff(codes[order], append=-1)) + 1
    found: dict[str, dict[str, Scored]] = {str(name): {} for name in run_names}
    for start, stop in zip([0, *ends[:-1]], ends, strict=False):
        part = order[start:stop]
        of_run = found[str(run_names[runs[part[0]]])]
        of_run[str(probe_names[names[part[0]]])] = Scored(*(column[part] for column in columns))
    return found


def _series(
    scored: dict[str, Scored], course: pd.DataFrame | None, hits: dict[str, float], maxima: dict[str, Floats]
) -> Iterator[Series]:
    for name in sorted(scored):
        rows = scored[name]
        heads = not np.isnan(rows.head).all()
        if heads and name in hits:
            level, sign = level_of(rows.null_95, hits[name], maxima.get(name), rows.chance), 1
        elif not heads and name in BEHAVIOUR:
            threshold, sign = BEHAVIOUR[name]
            level = level_of(rows.null_95, threshold, maxima.get(name)) if sign > 0 else threshold
        else:
            continue
        yield Series(name, *rows.by_step(sign > 0), level, sign)
    if course is not None:
        gaps = course[(course.quantity == GAP) & course.low.notna()].sort_values("step")
        if len(gaps):
            tokens = [math.nan if pd.isna(t) else float(t) for t in gaps.tokens]
            yield Series(INFERENCE, gaps.step.tolist(), tokens, [float(v) for v in gaps.low], 0.0, 1)


def _emergence(series: Series, turn: Bend) -> dict[str, Any]:
    values = np.array(series.values)
    found = crossing(series.sign * values, series.sign * series.level)
    row: dict[str, Any] = {"level": series.level, "state": found.state}
    for end, index in (("after", found.after), ("by", found.by)):
        row[f"{end}_step"] = None if index is None else series.steps[index]
        row[f"{end}_tokens"] = None if index is None else series.tokens[index]
    row |= {"first": values[0], "last": values[-1], "highest": (series.sign * values).max() * series.sign}
    row |= {"checkpoints": len(values), "resolution": next((t for t in series.tokens if t > 0), None)}
    row |= {"bend": turn.at, "bend_low": turn.low, "bend_high": turn.high}
    span = span_of(row) if row["resolution"] is not None else Span(0.0, math.inf)
    row["spacing"] = None if math.isinf(span.by) else 2**span.width
    if not math.isnan(turn.at) and row["resolution"] is not None:
        distance = span.doublings(Span(turn.low, turn.high))
        row |= {"distance_low": distance.after, "distance_high": distance.by, "order": order_of(*distance)}
    return row


def span_of(row: Mapping[str, Any]) -> Span:
    """When the probe of a row of the table emerged, at least its `resolution`."""
    after, by = (row[name] for name in ("after_tokens", "by_tokens"))
    return Span(0.0 if pd.isna(after) else after, math.inf if pd.isna(by) else by).at_least(row["resolution"])


def order_of(low: float, high: float) -> str:
    """together (bounds of the distance within a factor of two), earlier or later (they exclude zero), or inconclusive."""
    if low >= -NEAR and high <= NEAR:
        return "together"
    return "earlier" if high < 0 else "later" if low > 0 else "inconclusive"
