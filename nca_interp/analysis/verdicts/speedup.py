"""Tokens to the same loss: how much sooner, or later, a regime is where scratch is, in three budgets."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nca_interp.analysis.verdicts.statistics import t_interval

COLUMNS = ["domain", "regime", "seed", "budget", "target_loss", "target_of", "speedup"]
SUMMARY = ["domain", "regime", "budget", "n", "speedup", "low", "high", "log_mean", "log_sd", "sentence"]
BUDGETS = {
    "pt": "pre-training tokens", "pt+ppt": "tokens of pre-training and pre-pre-training", "flops": "FLOPs of both stages",
}  # fmt: skip


class Curve(NamedTuple):
    """Validation losses of one pre-training run and what its tokens cost."""

    tokens: np.ndarray
    losses: np.ndarray
    flops_per_token: float
    ppt_tokens: float = 0.0
    ppt_flops: float = 0.0


class Speedup(NamedTuple):
    """Scratch's cost to the target divided by this regime's: above 1 is faster, below 1 slower."""

    budget: str
    target_loss: float
    target_of: str
    """Whose best loss it is: that of scratch, or of the regime where it never gets as low as scratch."""
    speedup: float


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
    """Speed-up of `treated` over `base` (scratch, same domain and seed) at the lowest loss that both reach.

    That is scratch's best loss, or the regime's where it never gets there: then what scratch needs for it says how much
    slower the regime is. Exchanging the two inverts the ratio (pt), so its logarithm has mean zero when nothing differs.
    pt: pre-training tokens only; pt+ppt: with the tokens of pre-pre-training; flops: training FLOPs of both stages.
    """
    lowest = float(base.losses.min()), float(treated.losses.min())
    target, owner = max(lowest), "scratch" if lowest[0] >= lowest[1] else "regime"
    spent, needed = (_positive(tokens_to(curve, target), curve) for curve in (base, treated))
    costs = {
        "pt": (spent, needed),
        "pt+ppt": (spent + base.ppt_tokens, needed + treated.ppt_tokens),
        "flops": (spent * base.flops_per_token + base.ppt_flops, needed * treated.flops_per_token + treated.ppt_flops),
    }
    return [Speedup(budget, target, owner, own / other) for budget, (own, other) in costs.items()]


def _positive(tokens: float, curve: Curve) -> float:
    """At least the first validation after the start: a target met by the initial weights has no finite speed-up."""
    later = curve.tokens[curve.tokens > 0]
    return max(tokens, float(later[0])) if len(later) else max(tokens, 1.0)


def speedup_tables(
    curves: dict[tuple[str, str, int], Curve], domains: dict[str, str] | None = None
) -> dict[str, pd.DataFrame]:
    """The tables `speedup` (a seed a row) and `speedups` (mean over seeds), from curves by (domain, regime, seed).

    Those without a scratch run of their seed are left out. `domains`: name -> label.
    """
    rows: list[dict[str, Any]] = []
    for (domain, regime, seed), curve in curves.items():
        base = curves.get((domain, "scratch", seed))
        if base is None or regime == "scratch":
            continue
        rows += [{"domain": domain, "regime": regime, "seed": seed, **r._asdict()} for r in speedups(base, curve)]
    single = pd.DataFrame(rows, columns=COLUMNS)
    return {"speedup": single, "speedups": speedup_summary(single, domains or {})}


def speedup_summary(single: pd.DataFrame, domains: dict[str, str]) -> pd.DataFrame:
    """The table `speedups`: geometric means over seeds with the t-interval of the logarithms. `domains`: name -> label."""
    grouped = single.groupby(["domain", "regime", "budget"], sort=False)
    means = [_mean(dict(zip(SUMMARY, map(str, key), strict=False)), part, domains) for key, part in grouped]
    return pd.DataFrame(means, columns=SUMMARY)


def _mean(head: dict[str, Any], part: pd.DataFrame, domains: dict[str, str]) -> dict[str, Any]:
    logs = np.log(part.speedup.to_numpy(dtype=float))
    found, n = t_interval(logs), len(logs)
    value, low, high = (math.exp(x) for x in found)
    place = domains.get(head["domain"], head["domain"])
    what = f"{place}: {head['regime']} needs {1 / value:.2f} times the {BUDGETS[head['budget']]} of scratch for the same loss"
    span = (
        "one seed, so no interval"
        if n < 2
        else f"95 % interval of this number alone {low:.2f} to {high:.2f}, {n} paired seeds"
    )
    sd = float(logs.std(ddof=1)) if n > 1 else math.nan
    return {
        **head, "n": n, "speedup": value, "low": low, "high": high, "log_mean": found.value, "log_sd": sd,
        "sentence": f"{what} (speed-up {value:.2f}, {span}).",
    }  # fmt: skip
