"""Where the sources and corpora of the recipe `sweep` lie on its axes, and which rules there are to be crossed (docs/sweep.md).

`python benchmarks/sweep_places.py` prints the means of fresh rows of each level and alphabet and of each corpus, then, of random rules without
a band, the share in each part of the gzip reach and of activity.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from nca_interp.analysis.complexity.vector import profile
from nca_interp.data.complexity.gzip_score import gzip_floor_ceiling
from nca_interp.data.nca.filters import rule_scores
from nca_interp.data.nca.rules import gzip_scores, make_rules, rule_keys, score_dtype, simulate, trajectory_keys
from nca_interp.data.sample import draw
from nca_interp.data.specs import ArithmeticSpec, NcaSpec, TextSpec, TokenizerSpec
from nca_interp.sweep import band_of

BASE = NcaSpec(grid=8, tau=1e-4)
LEVELS = {"low": (0.2, 0.4), "mid": (0.4, 0.6), "high": (0.6, 0.8), "top": (0.9, 1.0)}
STATES, RULES, ROWS, LENGTH = (2, 3, 4), 1500, 128, 129
CORPORA = {"prose B": "site:prose-b", "Python code": "site:code", "arithmetic, one digit, one step": "arithmetic:"}
AXES = ("gzip_ratio_normalised", "activity", "damage")


def places() -> pd.DataFrame:
    """Mean of each axis, a row a source or corpus."""
    specs: dict[str, NcaSpec | TextSpec] = {}
    for n in STATES:
        plain = BASE.model_copy(update={"n_states": n})
        specs |= {f"{n} states, {k}": plain.model_copy(update={"band": band_of(plain, v)}) for k, v in LEVELS.items()}
    one = ArithmeticSpec(digits=1, max_steps=1)
    for name, source in CORPORA.items():
        bpe = TokenizerSpec(vocab_size=512)
        specs[name] = TextSpec(source=source, tokenizer=bpe, max_bytes=1_000_000, arithmetic=one)
    rows = {}
    for name, spec in specs.items():
        known = AXES if isinstance(spec, NcaSpec) else AXES[:1]
        rows[name] = profile(draw(spec, n=ROWS, length=LENGTH), known).groupby("measure").value.mean()
    return pd.DataFrame(rows).T.reindex(columns=list(AXES))


def crossed(n: int) -> pd.DataFrame:
    """Percent of random rules by share of the gzip reach (rows) and activity (columns)."""
    spec = BASE.model_copy(update={"n_states": n, "band": None})
    keys = rule_keys(0, "sweep places", np.arange(RULES))
    frames = simulate(spec, make_rules(spec, keys), trajectory_keys(keys, 0), spec.score_frames)
    reach = gzip_floor_ceiling(spec.score_frames * spec.patches_per_frame, spec.vocab_size - 2, score_dtype(spec))
    share = (gzip_scores(spec, frames) - reach.floor) / (reach.ceiling - reach.floor)
    activity = rule_scores(spec, keys, frames, ("activity",))["activity"]
    rows, columns = pd.cut(share, [-1, 0.2, 0.4, 0.6, 0.8, 0.9, 2]), pd.cut(activity, [-0.1, 0.1, 0.3, 0.4, 0.6, 1])
    return pd.crosstab(rows, columns, normalize="all", dropna=False) * 100


def main() -> None:
    """Print the tables."""
    print(places().to_string(float_format=lambda v: f"{v:.2f}"))
    for n in STATES:
        print(
            f"\n{n} states: percent of {RULES:,} random rules\n{crossed(n).to_string(float_format=lambda v: f'{v:.1f}')}"
        )


if __name__ == "__main__":
    main()
