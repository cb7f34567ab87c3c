"""What only an NCA has on its page: acceptance of random rules, lags that the grid explains, ideal predictors."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from nca_interp.analysis.verdicts.statistics import cluster_interval, wilson
from nca_interp.data.complexity.measures import Floats, Rows
from nca_interp.data.sample import Sample, Spec
from nca_interp.data.specs import NcaSpec

SPLIT = "inspect"
"""Name of the split whose rules and strings are shown: no set that is trained on shares them."""
BANDS = ((0.0, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 1.0), (1.0, 10.0))
"""Ranges of the gzip ratio whose acceptance is told: arXiv 2603.10055's, and what lies beside them."""
CANDIDATES = 4096
"""Random rules that are scored to tell acceptance."""
FUTURE_CELLS = 100_000_000
"""Cells that the oracle may simulate where frames are several steps apart: seconds."""


def unfiltered(spec: NcaSpec) -> NcaSpec:
    """The same source without any condition on its rules."""
    return spec.model_copy(update={"band": None, "where": {}})


def bands(spec: NcaSpec, seed: int, threads: int | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Gzip ratios of CANDIDATES random rules as the filter scores them, and the share in each of BANDS.

    Rows with `asked` count what the specification accepts, `where` included.
    """
    scores, _ = _judged(spec.model_copy(update={"band": BANDS[0][:1] + BANDS[-1][1:], "where": {}}), seed, threads)
    low, high = spec.band or (0.0, math.inf)
    accepted = _judged(spec, seed, threads)[1] if spec.where else np.flatnonzero((scores >= low) & (scores < high))
    ranges = [(low, high, False, int(((scores >= low) & (scores < high)).sum())) for low, high in BANDS]
    if spec != unfiltered(spec):
        ranges.append((low, high, True, len(accepted)))
    rows = []
    for low, high, asked, inside in ranges:
        share = wilson(inside, len(scores))
        rows.append({
            "band_low": low, "band_high": high, "asked": asked, "inside": inside, "n": len(scores),
            "share": share.value, "low": share.low, "high": share.high,
        })  # fmt: skip
    candidates = pd.DataFrame({"candidate": range(len(scores)), "gzip_ratio": scores})
    return candidates.assign(accepted=candidates.candidate.isin(accepted)), pd.DataFrame(rows)


def _judged(spec: NcaSpec, seed: int, threads: int | None) -> tuple[Floats, Rows]:
    """Scores of the first CANDIDATES rules (none without a band), and the numbers of those accepted."""
    from nca_interp.data.nca.rows import CHUNK, in_order, judge

    chunks = list(
        in_order(lambda first: judge(spec, seed, SPLIT, first, CHUNK), iter(range(0, CANDIDATES, CHUNK)), threads)
    )
    return np.concatenate([c.scores for c in chunks]), np.concatenate([c.candidates for c in chunks])


def named_lags(spec: Spec) -> dict[int, str]:
    """Lags at which an NCA's geometry ties tokens together: neighbours of a patch, and frames."""
    if not isinstance(spec, NcaSpec):
        return {}
    side, frame = spec.grid // spec.patch, spec.tokens_per_frame
    near = {
        frame - side: "patch below, frame before",
        frame - 1: "right, frame before",
        frame + 1: "left, frame before",
    }
    near |= {frame + side: "patch above, frame before", side: "row above", 1: "patch to the left"}
    return near | {frame: "same patch, 1 frame before"} | {k * frame: f"same patch, {k} frames before" for k in (2, 3)}


def predictors(sample: Sample) -> tuple[pd.DataFrame, str]:
    """What the ideal predictors reach at each frame, mean over rules with its interval; and a sentence on the oracle."""
    from nca_interp.data.nca.predictors import counting, oracle

    spec, frames = sample.spec, sample.frames
    assert isinstance(spec, NcaSpec)
    columns = ["predictor", "frame", "quantity", "value", "low", "high", "n"]
    if frames is None or frames.shape[1] < 2:
        return pd.DataFrame(columns=columns), "A row holds less than two whole frames, so no frame can be predicted."
    found = counting(spec, frames)
    rows, told = affordable(sample)
    if rows:
        assert sample.keys is not None
        found["oracle"] = oracle(spec, frames[:rows], sample.keys[:rows])
    out = []
    for name, score in found.items():
        for quantity, values in score._asdict().items():
            groups = sample.groups[: len(values)]
            for frame in range(1, values.shape[1]):
                if np.isfinite(values[:, frame]).all():
                    mean = cluster_interval(values[:, frame], groups)
                    out.append((name, frame, quantity, *mean, len(values)))
    return pd.DataFrame(out, columns=columns), told


def affordable(sample: Sample) -> tuple[int, str]:
    """Rows that the oracle is computed on, and a sentence where that is not simply all of them."""
    from nca_interp.data.nca.predictors import FUTURES

    spec = sample.spec
    assert isinstance(spec, NcaSpec)
    assert sample.frames is not None
    if spec.control == "none" and sample.keys is None:
        return 0, "The oracle is left out: the directory does not say which rules its rows show."
    if spec.control != "none":
        return 0, f"The oracle is left out: the control {spec.control} destroys what the rule says of a frame."
    if spec.dt == 1:
        return len(sample.tokens), ""
    cells = sample.frames[0].size * spec.dt * (FUTURES if spec.tau else 1)
    rows = min(len(sample.tokens), FUTURE_CELLS // cells)
    if rows < 8:
        return 0, f"The oracle is left out: with {spec.dt} steps between frames it would take too long to simulate."
    guess = f"guesses from {FUTURES} simulated futures" if spec.tau else "simulates"
    return (
        rows,
        f"With {spec.dt} steps between frames the oracle {guess}, here on {rows} rows; it errs a little more than the best guess.",
    )
