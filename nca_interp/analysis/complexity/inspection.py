"""Everything the page on one source shows, as tables: examples, measures, bands, mutual information, ranks, predictors.

`inspect` measures a sample; `Tables.write` puts one CSV a table into a folder, which the page is then made from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nca_interp.analysis.complexity.inspection_controls import ideals, symbols
from nca_interp.analysis.complexity.inspection_nca import SPLIT, bands, named_lags, predictors, unfiltered
from nca_interp.analysis.complexity.vector import MEASURES, choose, profile
from nca_interp.analysis.verdicts.statistics import Interval, cluster_interval, t_interval, wilson
from nca_interp.base import UserError, digest
from nca_interp.data.complexity.measures import (
    Floats,
    Rows,
    block_entropy,
    blocks,
    conditional_entropy,
    default_lags,
    mutual_information,
    rank_slope,
)
from nca_interp.data.complexity.scores import Measure
from nca_interp.data.controls.base import Control
from nca_interp.data.dyck.statistics import dyck_stats
from nca_interp.data.sample import Sample, Spec, draw
from nca_interp.data.specs import DyckSpec, NcaSpec, TextSpec
from nca_interp.outputs import check_output, holds
from nca_interp.store import seal, write_record, write_text

RECORD = "inspect.json"
AXIS = "gzip_ratio_normalised"
"""Measure by which examples are chosen."""
EXAMPLES = (("low", 0.05), ("middle", 0.5), ("high", 0.95))
MAX_NAME = 120
"""Characters of the longest name of a group."""
SHOWN_TOKENS = 400
"""Tokens of an example of text or brackets."""
MAX_RANK = 1000
"""Ranks that the line of the rank plot is fitted to (as `zipf_exponent`)."""
BLOCKS = 10
"""Parts of the groups that are left out in turn for the interval of a pooled measure."""
CONDITIONED = {"conditional_entropy": 1, "conditional_entropy_2": 2}
"""Pooled conditional entropies by the tokens before that they know."""
Say = Callable[[str], None]


class Tables(NamedTuple):
    """What `inspect` found."""

    frames: dict[str, pd.DataFrame]
    """Tables by name (docs/inspect.md)."""
    record: dict[str, Any]
    """Specification, sizes, examples: what is not a table."""

    def write(self, folder: Path) -> None:
        """Each table as tables/NAME.csv, then the record. UserError if `folder` holds anything else than an inspection."""
        check_folder(folder)
        for name, frame in self.frames.items():
            write_text(folder / "tables" / f"{name}.csv", frame.to_csv(index=False))
        seal(folder / "tables")
        write_record(folder / RECORD, self.record)


def check_folder(folder: Path, reads: Iterable[Path] = ()) -> None:
    """UserError if `folder` holds anything else than an inspection, which would be replaced, or lies in what is read."""
    check_output("--out", folder, "inspection", holds(RECORD, "spec", "sample_size"), reads=reads)


def stored(directory: Path, n: int) -> Sample:
    """The first `n` training rows of a token directory, as they are stored, with the tokenizer that made them."""
    from nca_interp.data.sample import of_tokens
    from nca_interp.data.tokens import TokenFile

    sample = of_tokens(TokenFile.open(directory), "train", n)
    if not isinstance(sample.spec, TextSpec):
        return sample
    from tokenizers import Tokenizer

    return sample._replace(tokenizer=Tokenizer.from_file(str(directory / "tokenizer.json")))


def inspect(
    sample: Sample,
    *,
    asked: int | None = None,
    dear: bool = False,
    threads: int | None = None,
    say: Say = lambda _: None,
) -> Tables:
    """Measure a sample (`asked` rows were wanted); NCA: beside as many rows of unfiltered rules.

    `dear`: also what takes minutes, the goodness of fit of the power law and the learnability.
    """
    sample, spec = named_groups(sample), sample.spec
    n, length = sample.tokens.shape
    check_sizes(spec, n, length)
    say("measuring")
    names = choose(sample, None) + [name for name, measure in MEASURES.items() if dear and measure.dear]
    measured = profile(sample, names).assign(sample="drawn")
    frames = {"measures": measured, "information": information(sample)}
    frames["ranks"] = ranks(sample.tokens)
    record: dict[str, Any] = {
        "spec": spec.model_dump(mode="json"), "kind": spec.kind, "description": sample.description,
        "seed": sample.seed, "split": sample.split, "asked_rows": asked or n, "rows": n, "length": length, "vocab_size": sample.vocab_size,
        "groups": len(set(sample.groups)), "unit": unit(sample), "found": sample.found, "sample_size": sample_size(sample.tokens),
    }  # fmt: skip
    if isinstance(spec, NcaSpec):
        say("scoring unfiltered rules")
        free = unfiltered(spec)
        if free != spec:
            names = [name for name in names if not MEASURES[name].pooled and "mutual" not in name]
            others = draw(free, n=n, length=length, seed=sample.seed, split=SPLIT, threads=threads)
            frames["measures"] = pd.concat([measured, profile(others, names).assign(sample="unfiltered")])
        frames["candidates"], frames["bands"] = bands(spec, sample.seed, threads)
        say("predicting frames")
        frames["predictors"], record["oracle"] = predictors(sample)
    if isinstance(spec, DyckSpec):
        frames["depth"], frames["distance"], record["brackets"] = brackets(sample.tokens, spec)
    if isinstance(spec, Control | DyckSpec):
        say("asking the ideal predictors")
        frames["ideals"], record["ideal_nats"] = ideals(sample)
    say("computing intervals")
    frames["summary"] = summary(sample, measured)
    record["examples"] = examples(sample, measured)
    return Tables(frames, record)


def named_groups(sample: Sample) -> Sample:
    """The sample with groups that fit into a table: a document that is known by its text only gets a hash."""
    names = [g if len(g) <= MAX_NAME and g.isprintable() else f"#{digest(g, 12)}" for g in sample.groups]
    return sample._replace(groups=names)


def unit(sample: Sample) -> str:
    """What a group of rows is."""
    if isinstance(sample.spec, DyckSpec):
        return "string"
    if isinstance(sample.spec, Control):
        return "row"
    known = sample.texts if isinstance(sample.spec, TextSpec) else sample.candidates
    return "row" if known is None else "rule" if isinstance(sample.spec, NcaSpec) else "document"


def check_sizes(spec: Spec, n: int, length: int) -> None:
    """UserError for sizes that leave nothing to measure."""
    if n < 1:
        raise UserError(f"--n: {n}; legal: 1 or more")
    least, why = 2, ""
    if isinstance(spec, Control) and (lack := spec.lacks(length)):
        raise UserError(f"{spec.kind}.{lack}")
    if isinstance(spec, NcaSpec):
        least, why = 2 * spec.tokens_per_frame, f" (two frames of {spec.tokens_per_frame:,} tokens)"
    if length < least:
        raise UserError(f"--length: {length:,}; legal: {least:,} or more{why}")


def summary(sample: Sample, measured: pd.DataFrame) -> pd.DataFrame:
    """A row a measure: definition, unit, n, groups, mean with its 95 % interval, spread, and why there is no value.

    Single rows: t-interval clustered by group. Pooled: jackknife over BLOCKS parts of the groups; fits have none.
    """
    intervals = _jackknifed(sample, measured)
    rows = []
    for name, part in measured.groupby("measure", sort=False):
        measure, known = MEASURES[str(name)], part[part.value.notna()]
        row: dict[str, Any] = {
            "measure": name, "unit": measure.unit, "definition": measure.doc, "reads": measure.on, "pooled": measure.pooled,
            "n": len(known), "groups": known.group.nunique(), "note": part.note.iloc[0],
        }  # fmt: skip
        if measure.pooled and len(known):
            row |= {"n": len(sample.tokens), "groups": len(set(sample.groups)), "value": known.value.iloc[0]}
            row |= intervals[measure.name]._asdict() if measure.name in intervals else {}
        elif len(known):
            row |= _interval(measure, known.value.to_numpy(), list(known.group))._asdict()
            row["sd"] = known.value.std()
            row |= dict(zip(("q05", "q50", "q95"), known.value.quantile([0.05, 0.5, 0.95]), strict=True))
        rows.append(row)
    columns = "measure unit definition reads pooled n groups value low high sd q05 q50 q95 note"
    return pd.DataFrame(rows).reindex(columns=columns.split())


def _interval(measure: Measure, values: Floats, groups: list[str]) -> Interval:
    """Clustered t-interval of a mean; Wilson's of yes-or-no in independent rows, which is no point where all are alike."""
    if measure.unit == "0 or 1" and len(set(groups)) == len(groups):
        return wilson(int(values.sum()), len(values))
    return cluster_interval(values, groups)


def _jackknifed(sample: Sample, measured: pd.DataFrame) -> dict[str, Interval]:
    """Intervals of the pooled measures that are no fits, by leaving out each of BLOCKS parts of the groups in turn."""
    owner = np.unique(np.asarray(sample.groups), return_inverse=True)[1]
    n = min(BLOCKS, int(owner.max()) + 1)
    block = np.random.default_rng(0).permutation(owner.max() + 1)[owner] % n
    known = measured[measured.sequence.isna() & measured.value.notna()].set_index("measure").value
    names = [name for name in known.index if not (MEASURES[name].dear or name.startswith(("mi_", "tail_")))]
    if n < 3 or not names:
        return {}
    without = [profile(sample.take(np.flatnonzero(block != k)), names).set_index("measure").value for k in range(n)]
    out = {}
    for name in names:
        found = t_interval(n * known[name] - (n - 1) * np.array([w[name] for w in without]))
        half = (found.high - found.low) / 2  # centred on the whole sample: an entropy's bias must not shift it
        out[name] = Interval(known[name], known[name] - half, known[name] + half)
    return out


def information(sample: Sample) -> pd.DataFrame:
    """Mutual information against lag: mean over rows with its interval, the shuffle bias that was taken off, name of the lag."""
    rows, names = sample.tokens, named_lags(sample.spec)
    length = rows.shape[1]
    lags = np.union1d(default_lags(length, 40), [lag for lag in names if lag <= length // 2])
    if length < 4:
        return pd.DataFrame(columns=["lag", "value", "low", "high", "bias", "name", "n"])
    found = mutual_information(rows, lags)
    out = []
    for k, lag in enumerate(found.lags):
        mean = cluster_interval(found.value[:, k], sample.groups)
        out.append({
            "lag": int(lag), **mean._asdict(), "bias": found.bias[:, k].mean(), "name": names.get(int(lag), ""), "n": len(rows),
        })  # fmt: skip
    return pd.DataFrame(out)


def ranks(rows: Rows, points: int = 60) -> pd.DataFrame:
    """Share of all tokens that the r-th most frequent one has, at about `points` ranks evenly spaced in their logarithm,
    with the line fitted to the first MAX_RANK."""
    counts = np.sort(np.unique(rows, return_counts=True)[1])[::-1]
    at = np.unique(np.geomspace(1, len(counts), points).round().astype(int))
    table = pd.DataFrame(
        {"rank": at, "count": counts[at - 1], "share": counts[at - 1] / rows.size, "kinds": len(counts)}
    )
    head = counts[:MAX_RANK]
    slope, logs = rank_slope(rows), np.log(np.arange(1, len(head) + 1))
    level = float((np.log(head / rows.size) + slope * logs).mean())
    table["fitted"] = np.where(at <= MAX_RANK, np.exp(level - slope * np.log(at)), np.nan)
    return table


def brackets(rows: Rows, spec: DyckSpec) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, dict[str, float]]]:
    """How deep tokens lie, how far closers are from their openers (bins that double), and what is forced or cut off:
    shares of each row with the t-interval of their mean."""
    stats = dyck_stats(rows, spec)
    total = stats.pooled()
    depth = pd.DataFrame({"depth": range(total.depth.shape[1]), "count": total.depth[0]})
    lows = 2 ** np.arange(int(rows.shape[1] - 1).bit_length())
    counts = np.add.reduceat(total.distance[0], lows)
    distance = pd.DataFrame({"low": lows, "high": 2 * lows - 1, "count": counts})
    tables = [table.assign(share=table["count"] / max(table["count"].sum(), 1)) for table in (depth, distance)]
    return tables[0], tables[1], {name: t_interval(share)._asdict() for name, share in stats.shares().items()}


def sample_size(rows: Rows) -> dict[str, dict[str, float]]:
    """How far a pooled conditional entropy can be told from that of no order at all.

    Of each: `once`, the share of positions whose block (the token and those it is conditioned on) occurs nowhere else; and
    `shuffled`, nats per token, the same estimate of the tokens shuffled over all rows, which tells nothing but the bias
    where it lies below the entropy of single tokens, `unigram`.
    """
    mixed = np.random.default_rng(0).permutation(rows.ravel()).reshape(rows.shape)
    unigram = block_entropy(rows, 1)
    out = {}
    for name, before in CONDITIONED.items():
        if rows.shape[1] > before:
            counts = np.bincount(blocks(rows, before + 1).ravel())
            out[name] = {
                "once": float((counts == 1).sum() / counts.sum()),
                "shuffled": conditional_entropy(mixed, before),
                "unigram": unigram,
            }
    return out


def examples(sample: Sample, measured: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows at low, middle and high complexity (quantiles of AXIS; without it the first rows), ready to be drawn."""
    wide = measured[measured.sequence.notna()].pivot_table(
        index="sequence", columns="measure", values="value", sort=False
    )
    order = wide[AXIS].sort_values(kind="stable").index if AXIS in wide else pd.Index(range(len(sample.tokens)))
    places: dict[int, str] = {}
    for level, q in sorted(
        EXAMPLES, key=lambda e: abs(e[1] - 0.5)
    ):  # of few rows one is several: then it is the middle
        places.setdefault(int(order[round(q * (len(order) - 1))]), level)
    names = [level for level, _ in EXAMPLES]
    return [
        {
            "level": level, "row": row, "group": sample.groups[row],
            "measures": {} if row not in wide.index else wide.loc[row].dropna().astype(float).to_dict(),
            **_drawn(sample, row),
        }
        for row, level in sorted(places.items(), key=lambda place: names.index(place[1]))
    ]  # fmt: skip


def _drawn(sample: Sample, row: int) -> dict[str, Any]:
    spec, tokens = sample.spec, sample.tokens[row]
    if isinstance(spec, NcaSpec):
        assert sample.frames is not None
        per = spec.tokens_per_frame
        return {
            "frames": sample.frames[row].tolist(),
            "tokens": tokens[: len(sample.frames[row]) * per].reshape(-1, per).tolist(),
        }
    shown = tokens[:SHOWN_TOKENS]
    if isinstance(spec, DyckSpec):
        steps = np.where(tokens < spec.k, 1, -1).cumsum()
        # both brackets of a pair stand at the depth that the pair is at
        return {"tokens": shown.tolist(), "depth": np.where(tokens < spec.k, steps, steps + 1)[: len(shown)].tolist()}
    if isinstance(spec, Control):
        return symbols(sample, row, SHOWN_TOKENS)
    assert sample.tokenizer is not None
    frequency = np.bincount(sample.tokens.ravel(), minlength=sample.vocab_size) / sample.tokens.size
    return {
        "tokens": shown.tolist(),
        "pieces": [sample.tokenizer.decode([int(t)], skip_special_tokens=False) for t in shown],
        "bits": (-np.log2(frequency[shown])).round(2).tolist(),
    }
