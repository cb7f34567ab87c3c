"""The best of several scratch arms, as an arm of its own: chosen by a rule that is fixed before the runs (`plan.BEST`)."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from nca_interp.analysis.verdicts.contrasts import Values
from nca_interp.analysis.verdicts.plan import BEST, scratch_arms_of
from nca_interp.config import Study

SCRATCHES = ["domain", "regime", "n", "loss", "chosen"]


def scratches(losses: Values, study: Study) -> pd.DataFrame:
    """SCRATCHES: mean final loss of each scratch arm over the `n` seeds that all of a domain have, and whether it is the best.

    Only of domains with several scratch arms. None is the best while one of them has no run that ended (n = 0); one whose runs
    of a seed diverged takes that seed from all.
    """
    rows = []
    for domain in (d.name for d in study.domains):
        arms = [r.name for r in scratch_arms_of(study, domain)]
        if len(arms) < 2:
            continue
        own = losses.rows[losses.rows.domain == domain]
        values = {arm: own[own.regime == arm].set_index("seed").value.astype(float) for arm in arms}
        seeds = sorted(set.intersection(*(set(v.index) for v in values.values())))
        means = {arm: float(v.loc[seeds].mean()) for arm, v in values.items()}
        best = min(arms, key=lambda arm: means[arm]) if seeds else None
        rows += [{"domain": domain, "regime": a, "n": len(seeds), "loss": means[a], "chosen": a == best} for a in arms]
    return pd.DataFrame(rows, columns=SCRATCHES)


def with_best(losses: Values, chosen: pd.DataFrame) -> Values:
    """`losses` with the best scratch of every domain (`scratches`) once more, under the name BEST."""
    rows, items, lost = [losses.rows], dict(losses.items), dict(losses.lost)
    for domain, regime in chosen[chosen.chosen.astype(bool)][["domain", "regime"]].itertuples(index=False):
        own = losses.rows[(losses.rows.domain == domain) & (losses.rows.regime == regime)]
        rows.append(own.assign(regime=BEST))
        seeds = {int(seed) for seed in own.seed} | {s for r, d, s in lost if (r, d) == (regime, domain)}
        for seed in seeds:
            key, best = (regime, domain, seed), (BEST, domain, seed)
            if key in items:
                items[best] = items[key]
            if key in lost:
                lost[best] = lost[key]
    return replace(losses, rows=pd.concat(rows, ignore_index=True), items=items, lost=lost)
