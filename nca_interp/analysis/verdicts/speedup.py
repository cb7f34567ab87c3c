"""Tokens to target: how much sooner a regime reaches the loss that scratch ends with, in three budgets."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

COLUMNS = ["domain", "regime", "seed", "budget", "target_loss", "speedup", "censored"]


class Curve(NamedTuple):
    """Validation losses of one pre-training run and what its tokens cost."""

    tokens: np.ndarray
    losses: np.ndarray
    flops_per_token: float
    ppt_tokens: float = 0.0
    ppt_flops: float = 0.0


class Speedup(NamedTuple):
    """Scratch's cost to the target divided by this regime's; censored: never reached, so `speedup` is an upper bound."""

    budget: str
    target_loss: float
    speedup: float
    censored: bool


def tokens_to(curve: Curve, target: float) -> float:
    """First number of tokens at which the running minimum of the loss is at most `target`; NaN if never.

    Between two validations ln(loss) is interpolated linearly in tokens.
    """
    envelope = np.minimum.accumulate(curve.losses)
    reached = np.flatnonzero(envelope <= target)
    if not len(reached):
        return math.nan
    index = int(reached[0])
    if index == 0:
        return float(curve.tokens[0])
    before, after = math.log(envelope[index - 1]), math.log(envelope[index])
    share = (before - math.log(target)) / (before - after)
    return float(curve.tokens[index - 1] + share * (curve.tokens[index] - curve.tokens[index - 1]))


def speedups(base: Curve, treated: Curve) -> list[Speedup]:
    """Speed-up of `treated` over `base` (scratch, same domain and seed) at the base's final loss.

    pt: pre-training tokens only; pt+ppt: with the tokens of pre-pre-training; flops: training FLOPs of both stages. The
    base's cost is its tokens when it first reaches that loss: its whole budget, unless its loss rose at the end.
    A target that is never reached counts with the regime's whole budget, and the bound is marked as censored.
    """
    target = float(base.losses[-1])
    spent = _positive(tokens_to(base, target), base)
    needed = tokens_to(treated, target)
    censored = math.isnan(needed)
    needed = float(treated.tokens[-1]) if censored else _positive(needed, treated)
    costs = {
        "pt": (spent, needed),
        "pt+ppt": (spent + base.ppt_tokens, needed + treated.ppt_tokens),
        "flops": (spent * base.flops_per_token + base.ppt_flops, needed * treated.flops_per_token + treated.ppt_flops),
    }
    return [Speedup(budget, target, own / other, censored) for budget, (own, other) in costs.items()]


def _positive(tokens: float, curve: Curve) -> float:
    """At least the first validation after the start: a target met by the initial weights has no finite speed-up."""
    later = curve.tokens[curve.tokens > 0]
    return max(tokens, float(later[0])) if len(later) else max(tokens, 1.0)


def speedup_table(curves: dict[tuple[str, str, int], Curve]) -> pd.DataFrame:
    """The table `speedup` from curves by (domain, regime, seed); those without a scratch run of their seed are left out."""
    rows: list[dict[str, Any]] = []
    for (domain, regime, seed), curve in curves.items():
        base = curves.get((domain, "scratch", seed))
        if base is None or regime == "scratch":
            continue
        for result in speedups(base, curve):
            rows.append({"domain": domain, "regime": regime, "seed": seed, **result._asdict()})
    return pd.DataFrame(rows, columns=COLUMNS)
