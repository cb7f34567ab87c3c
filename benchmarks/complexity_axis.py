"""Which measures of complexity say something different? Rank correlations over random, unfiltered NCA rules.

`python benchmarks/complexity_axis.py [--rules 3000] [--set variant='"release"' tau=1e-4] [--csv FILE]` prints, for the
measures as filters see them: quantiles, test-retest reliability (a second trajectory of the same rules), the Spearman
matrix over all rules and inside the band, the pairs that can be crossed, and how many rules lie in each cell of
gzip x damage.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import pandas as pd

from nca_interp.data.nca.dynamics import damage
from nca_interp.data.nca.filters import rule_scores
from nca_interp.data.nca.rules import gzip_scores, make_rules, rule_keys, simulate, trajectory_keys
from nca_interp.data.specs import RULE_MEASURES, NcaSpec

CENSORED = ("transient", "period", "recurs", "gzip_ratio", "lempel_ziv_rate")
"""Left out of the matrix: defined for few rules, or the same as another but for its scale."""
RELIABLE, DISTINCT = 0.7, 0.7
"""A pair can be crossed if both measures repeat at least this well and their |rho| is below this, over all rules and in the band."""


def measured(spec: NcaSpec, keys: np.ndarray, trajectory: int) -> pd.DataFrame:
    """One row a rule, one column a measure."""
    parts = []
    for first in range(0, len(keys), 256):
        mine = keys[first : first + 256]
        frames = simulate(spec, make_rules(spec, mine), trajectory_keys(mine, trajectory), spec.score_frames)
        values = rule_scores(spec, mine, frames, RULE_MEASURES)
        if trajectory:
            again = damage(spec, mine, trajectory=trajectory)
            values |= {"damage": again.spread, "damage_slope": again.slope, "light_cone_speed": again.speed}
        parts.append(pd.DataFrame(values).assign(band_score=gzip_scores(spec, frames)))
    return pd.concat(parts, ignore_index=True)


def show(title: str, table: pd.DataFrame) -> None:
    """Print a table under a title."""
    print(f"\n{title}\n{table.to_string(float_format=lambda v: f'{v:.2f}')}")


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """Share of all rules in each range of the gzip score (rows) and of damage (columns)."""
    rows = pd.cut(table.band_score, [0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0], right=False)
    columns = pd.cut(table.damage, [0, 0.25, 0.5, 0.75, 0.9, 9], right=False)
    return pd.crosstab(rows, columns, normalize="all", dropna=False) * 100


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", type=int, default=3000)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=JSON")
    parser.add_argument("--csv")
    args = parser.parse_args()
    spec = NcaSpec(**{k: json.loads(v) for k, v in (item.split("=", 1) for item in args.set)})
    begin = time.perf_counter()
    keys = rule_keys(0, "complexity axis", np.arange(args.rules))
    first = measured(spec, keys, 0)
    second = measured(spec, keys, 1)
    print(f"{args.rules} rules of {spec}\nmeasured twice in {time.perf_counter() - begin:.0f} s")
    facts = first.quantile([0.05, 0.25, 0.5, 0.75, 0.95]).T
    facts["retest rho"] = [first[c].corr(second[c], method="spearman") for c in first]
    facts["defined"] = first.notna().mean()
    show("Quantiles, Spearman of two trajectories of one rule, share of rules where it is defined", facts)
    kept = first.drop(columns=[c for c in CENSORED if c in first])
    low, high = spec.band or (0.0, 10.0)
    inside = (first.band_score >= low) & (first.band_score < high)
    everywhere, banded = kept.corr("spearman"), kept[inside].corr("spearman")
    show("Spearman, all rules", everywhere)
    show(f"Spearman, band [{low:g}, {high:g}), {inside.mean():.0%} of the rules", banded)
    good = [c for c in kept if facts["retest rho"][c] >= RELIABLE and c != "band_score"]
    print(f"\nPairs to cross (both retest >= {RELIABLE}, |rho| < {DISTINCT} over all rules and in the band):")
    for i, one in enumerate(good):
        for other in good[i + 1 :]:
            a, b = everywhere.loc[one, other], banded.loc[one, other]
            if max(abs(a), abs(b)) < DISTINCT:
                print(f"  {one} x {other}: {a:.2f} / {b:.2f}")
    show("Percent of all rules by gzip score and damage", cells(first))
    if args.csv:
        first.to_csv(args.csv, index=False)


if __name__ == "__main__":
    main()
