"""What the dear measures say and cost: learnability of several sources, and rules a second of each filter, on one thread.

`OMP_NUM_THREADS=1 python benchmarks/measures.py [--rules 1000]`; the rate of plain gzip is in the same run.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from nca_interp.analysis.complexity.learnability import learnability
from nca_interp.data.nca.filters import rule_scores
from nca_interp.data.nca.rules import gzip_scores, make_rules, rule_keys, simulate, trajectory_keys
from nca_interp.data.sample import Spec, draw
from nca_interp.data.specs import RULE_MEASURES, DyckSpec, NcaSpec, TextSpec

TWO = NcaSpec(n_states=2, band=(0.3, 1.0))
SOURCES: dict[str, Spec] = {
    "Dyck, nested": DyckSpec(),
    "Dyck, shuffle": DyckSpec(variant="shuffle"),
    "NCA, 2 states": TWO,
    "NCA, 2 states, tokens shuffled": TWO.model_copy(update={"control": "shuffle_tokens"}),
    "NCA, 10 states": NcaSpec(),
    "NCA, 10 states, tokens shuffled": NcaSpec(control="shuffle_tokens"),
    "NCA, 10 states, unigram": NcaSpec(control="unigram"),
    "arithmetic": TextSpec(source="arithmetic:"),
    "Python code": TextSpec(source="site:code"),
}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", type=int, default=1000)
    args = parser.parse_args()
    spec = NcaSpec()
    keys = rule_keys(0, "measures", np.arange(args.rules))
    frames = simulate(spec, make_rules(spec, keys), trajectory_keys(keys, 0), spec.score_frames)
    begin = time.perf_counter()
    gzip_scores(spec, frames)
    print(f"{'gzip band':24} {args.rules / (time.perf_counter() - begin):10,.0f} rules/s")
    for name in RULE_MEASURES:
        rule_scores(spec, keys[:4], frames[:4], [name])  # compiles
        begin = time.perf_counter()
        rule_scores(spec, keys, frames, [name])
        print(f"{name:24} {args.rules / (time.perf_counter() - begin):10,.0f} rules/s")
    print(f"\n{'source':34} {'bits/token':>10} {'final loss':>10} {'gain':>6} seconds")
    for title, source in SOURCES.items():
        sample = draw(source, n=128)
        begin = time.perf_counter()
        found = learnability(sample)
        seconds = time.perf_counter() - begin
        print(f"{title:34} {found.bits:10.3f} {found.final_loss:10.3f} {found.gain:6.3f} {seconds:7.1f}", flush=True)


if __name__ == "__main__":
    main()
