"""What the planned seeds of a study can show, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from nca_interp.analysis.verdicts.plan import contrasts_of
from nca_interp.analysis.verdicts.statistics import (
    ALPHA,
    POWER,
    seeds_for_exact,
    sign_flip_floor,
    standard_effect,
    standard_margin,
)
from nca_interp.base import UserError
from nca_interp.config import Study
from nca_interp.store import StudyDir

MORE_SEEDS = (3, 5, 8, 12, 20)


class Spread(NamedTuple):
    """Standard deviation over seeds of a paired difference of losses, in nats, with its 95 % interval."""

    value: float
    low: float
    high: float
    source: str


def spread_of(text: str | None) -> Spread | None:
    """A spread from what `--spread` got: a number of nats that is assumed, or the folder of a study that is the pilot.

    Of a pilot: pooled over its comparisons of losses, with the fewest degrees of freedom that one of them has, since they share
    runs. Raises UserError.
    """
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return _pilot(Path(text))
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"--spread: {text}; legal: a positive number of nats, or the folder of an analysed study")
    return Spread(value, math.nan, math.nan, "assumed")


def _pilot(folder: Path) -> Spread:
    path = StudyDir(folder).table("pairs")
    if not path.is_file():
        raise UserError(f"--spread: {folder}; legal: a positive number of nats, or the folder of an analysed study")
    pairs = pd.read_csv(path)
    pairs = pairs[pairs.metric == "val_loss"]
    groups = pairs.groupby(["domain", "treated", "control"]).difference
    known = groups.agg(["var", "size"]).query("size > 1")
    if known.empty or not known["var"].gt(0).any():
        raise UserError(f"--spread: {folder} holds no comparison of losses with two seeds or more, so no spread")
    df = int(known["size"].max()) - 1
    value = math.sqrt(float(np.average(known["var"], weights=known["size"] - 1)))
    low, high = (value * math.sqrt(df / float(stats.chi2.ppf(q, df))) for q in (0.975, 0.025))
    return Spread(value, low, high, f"pilot {folder}, {len(known)} comparison(s), {df} degree(s) of freedom")


def power_plan(study: Study, spread: Spread | None) -> Iterator[str]:
    """Lines that say what difference the planned comparisons can detect, for the planned seeds and more of them."""
    contrasts = [c for c in contrasts_of(study) if len(c.seeds) > 1]
    rest = sum(not c.primary for c in contrasts)
    first = [c for c in contrasts if c.primary]
    if not contrasts:
        yield "power       no comparison has two seeds, so the study can give no verdict"
        return
    yield (
        f"power       {len(contrasts)} planned comparisons of 2 seeds or more are corrected for together (Holm, {ALPHA:.0%})"
        + (f"; {first[0].name} is tested alone and first" if first else "")
    )
    if spread is None:
        yield "            in standard deviations of a paired difference over seeds (--spread NATS or --spread STUDY gives nats)"
    else:
        known = "" if math.isnan(spread.low) else f", 95 % interval {spread.low:.4g} to {spread.high:.4g}"
        yield f"            spread of a paired difference over seeds {spread.value:.4g} nats ({spread.source}{known})"
    planned = sorted({len(c.seeds) for c in contrasts})
    yield f"            {'seeds':>7} {f'detects in {POWER:.0%} of cases a difference of':>42} {'finds equivalence within':>28}  exact p"
    for n in sorted({*planned, *(k for k in MORE_SEEDS if k > planned[-1])}):
        mark = "planned" if n in planned else ""
        if first:
            yield _line(n, 1, spread, "primary")
        if rest:
            yield _line(n, rest, spread, mark)
    needed = seeds_for_exact(max(rest, 1))
    yield f"            the exact sign-flip test, corrected for {max(rest, 1)}, can reach 5 % from {needed} seeds on; margin {study.margin:g} nats"


def _line(n: int, comparisons: int, spread: Spread | None, mark: str) -> str:
    level = ALPHA / comparisons
    floor = sign_flip_floor(n, comparisons)
    exact = f">= {floor:.3g}{'' if floor <= ALPHA else ' (never 5 %)'}"
    cells = [_scaled(of(n, level), spread) for of in (standard_effect, standard_margin)]
    return f"            {n:7} {cells[0]:>42} {cells[1]:>28}  {exact} {mark}".rstrip()


def _scaled(size: float, spread: Spread | None) -> str:
    if spread is None:
        return f"{size:.3g} sd"
    span = "" if math.isnan(spread.low) else f" ({size * spread.low:.2g} to {size * spread.high:.2g})"
    return f"{size * spread.value:.3g}{span}"
