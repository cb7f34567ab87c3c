"""Tables of retrieval: of every checkpoint with intervals over lists, of every regime with intervals over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import CHECKPOINT, Run
from nca_interp.analysis.retrieval.options import RetrievalOptions
from nca_interp.analysis.retrieval.study import kept_lists, kept_profile
from nca_interp.analysis.verdicts.plan import SCRATCH
from nca_interp.measurement import Asked, Shown

CELL = ["material", "length", "distance"]
RETRIEVAL = [*CHECKPOINT, *CELL, "item", "quantity", "value", "low", "high", "n"]
PLACE = ["domain", "regime", "stage", "step", "tokens"]
SEEDS = [*PLACE, *CELL, "quantity", "value", "low", "high", "n"]
PROFILES = [*CHECKPOINT, "by", "bin", "low_edge", "high_edge", "value", "low", "high", "n"]
PROFILE_SEEDS = [*PLACE, "by", "bin", "low_edge", "high_edge", "value", "low", "high", "n"]
GAIN, OVER = "gain", "gain over scratch"
QUANTITIES = (GAIN, "first", "second", "control", "relative", "relative_control")
SHOWN_RUNS = 8
Measured = tuple[Run, int, pd.DataFrame]
"""A checkpoint, by run and step, and what is kept of it."""


def tables(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> dict[str, pd.DataFrame]:
    """Tables `retrieval`, `retrieval_seeds`, `profiles` and `profile_seeds`."""
    lists: list[Measured] = []
    profiles: list[Measured] = []
    for run in collection.runs:
        if run.stage == "ft" or not run.done:
            continue
        for step in run.steps:
            rows, beside = kept_lists(run, step, asked), kept_profile(run, step, asked)
            if rows is not None and len(rows):
                lists.append((run, step, rows))
            if beside is not None and len(beside):
                profiles.append((run, step, beside))
    keys = [*CELL, "item"]
    long = quantities(_together(lists)).melt(["checkpoint", *keys], list(QUANTITIES), "quantity") if lists else None
    retrieval = _by_checkpoint(lists, long, [*keys, "quantity"], RETRIEVAL)
    beside = _together(profiles) if profiles else None
    profile = _by_checkpoint(profiles, beside, ["by", "bin", "low_edge", "high_edge"], PROFILES)
    return {
        "retrieval": retrieval,
        "retrieval_seeds": over_seeds(retrieval),
        "profiles": profile,
        "profile_seeds": _by_seed(profile, ["by", "bin", "low_edge", "high_edge"])[PROFILE_SEEDS],
    }


def quantities(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `list_losses` with a column for each of QUANTITIES: `gain` = control - second, in nats a token; `relative` = 100
    second / first, `relative_control` the same of the control, percent."""
    return rows.assign(
        gain=rows.control - rows.second,
        relative=100 * rows.second / rows["first"],
        relative_control=100 * rows.control / rows["first"],
    )


def _together(measured: Sequence[Measured]) -> pd.DataFrame:
    """The rows of all checkpoints, whose places are the column `checkpoint`: a study has hundreds of them, of some dozen rows each."""
    rows = pd.concat([frame for *_, frame in measured], ignore_index=True)
    return rows.assign(checkpoint=np.repeat(np.arange(len(measured)), [len(frame) for *_, frame in measured]))


def _by_checkpoint(
    measured: Sequence[Measured], rows: pd.DataFrame | None, keys: list[str], columns: list[str]
) -> pd.DataFrame:
    """`_summarised` rows of every checkpoint, one after the other."""
    if rows is None:
        return pd.DataFrame(columns=columns)
    found = _summarised(rows.sort_values("checkpoint", kind="stable"), ["checkpoint", *keys])
    who = pd.DataFrame([run.at(step) for run, step, _ in measured])
    return found.join(who, on="checkpoint")[columns]


def _summarised(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Mean of `value`, its 95 % t-interval `low` to `high` (NaN for one value) and `n`, by `keys`."""
    found = rows.groupby(keys, as_index=False, sort=False, dropna=False).value.agg(["mean", "std", "count"])
    found = found.rename(columns={"mean": "value", "count": "n"})
    n = found.n.to_numpy(dtype=float)
    half = np.where(n > 1, stats.t.ppf(0.975, np.maximum(n - 1, 1)) * found["std"].to_numpy(float) / np.sqrt(n), np.nan)
    return found.drop(columns="std").assign(low=found.value - half, high=found.value + half)


def over_seeds(retrieval: pd.DataFrame) -> pd.DataFrame:
    """Table `retrieval_seeds`: each quantity over the seeds of a regime at one step, and of pre-training the gain less that of
    scratch, seed by seed (`gain over scratch`; the lists are the same)."""
    known = retrieval[retrieval.seed.notna()]
    gains = known[(known.quantity == GAIN) & (known.stage == "pt")]
    keys = ["domain", "seed", "step", *CELL]
    scratch = gains[gains.regime == SCRATCH][[*keys, "value"]].rename(columns={"value": "of_scratch"})
    paired = gains[gains.regime != SCRATCH].merge(scratch, on=keys)
    paired = paired.assign(value=paired.value - paired.of_scratch, quantity=OVER)[known.columns]
    return _by_seed(pd.concat([known, paired]) if len(paired) else known, [*CELL, "quantity"])[SEEDS]


def _by_seed(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    known = frame[frame.seed.notna()]
    if known.empty:
        return pd.DataFrame(columns=[*PLACE, *keys, "value", "low", "high", "n"])
    return _summarised(known, [*PLACE, *keys])


def summary(collection: Collection, tables: dict[str, pd.DataFrame]) -> Iterator[Shown | str]:
    """Of single checkpoints the last of each run: the gain of every list that was measured."""
    if collection.study is not None:
        return
    rows, options = tables["retrieval"], RetrievalOptions()
    for run in collection.runs[:SHOWN_RUNS]:
        own = rows[(rows.run == run.id) & (rows.step == rows[rows.run == run.id].step.max())]
        if own.empty and not any(run.kept("retrieval", step).is_file() for step in run.steps):
            continue  # not asked for
        if own.empty:
            yield f"{run.label}: retrieval not measured (no list of {options.lengths[0]} items or more fits)"
            continue
        wide = own.pivot_table(index=CELL, columns="quantity", values=["value", "low", "high"], sort=False)
        body = []
        for cell, row in wide.iterrows():
            material, length, distance = cell
            low, high = row["low", GAIN], row["high", GAIN]
            body.append([
                str(material), str(length), str(distance), f"{row['value', GAIN]:+.3f}", f"{low:+.3f} to {high:+.3f}",
                f"{row['value', 'relative']:.0f} %", f"{row['value', 'relative_control']:.0f} %",
            ])  # fmt: skip
        columns = ["lists of", "items", "apart", "gain, nats", "95 % interval", "relative", "control"]
        yield Shown(f"{run.label}: a list read a second time", columns, body, ("lists of",))
    if len(collection.runs) > SHOWN_RUNS:
        yield f"and {len(collection.runs) - SHOWN_RUNS} more: {collection.dir.table('retrieval')}"
