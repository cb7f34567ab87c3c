"""The null of a study: what randomly initialised models score on the stimuli of each token source, measured once for all
checkpoints that it fits, kept, and joined to their probes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from nca_interp.analysis.cache import code_hash
from nca_interp.analysis.collection.collection import Collection, Settings
from nca_interp.analysis.collection.run import CHECKPOINT, Run
from nca_interp.analysis.probing.cache import read_header, refresh
from nca_interp.analysis.probing.engine import COLUMNS, choose, engine_hash, keep_recent, shared
from nca_interp.analysis.probing.measure import Measured, Measurer
from nca_interp.analysis.probing.null import PERCENTILE, random_models
from nca_interp.analysis.probing.probe import TIMES_CHANCE, TOP_SHARE
from nca_interp.analysis.probing.table import read_table, read_tables
from nca_interp.analysis.stimuli.size import SHOWN_RANDOM, is_large
from nca_interp.analysis.verdicts.statistics import benjamini_hochberg
from nca_interp.base import digest
from nca_interp.machine import device_type, native_bf16
from nca_interp.readers import damaged
from nca_interp.store import MANIFEST, damage, read_json, sha256_file

HITS = [
    *CHECKPOINT, "probe", "heads", "models", "threshold", "null_95", "best", "top_mean", "hits", "hits_fdr", "fdr_least",
]  # fmt: skip
MODELS, FEWEST, ENOUGH_HEADS = 5, 3, 200
"""Random models of a null by default: at most so many; fewer, but FEWEST, whose maxima have a spread, where these heads come
together earlier."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
STIMULI = [*CHECKPOINT, "text", "text_sha256", "prefix", "drawn_from", "vocab_size"]
FDR = 0.05
"""False discovery rate of `hits_fdr`."""


class Null(NamedTuple):
    """What randomly initialised models score."""

    values: dict[str, np.ndarray]
    """Of each probe, the values of all heads of all models, ascending; of a probe of the whole model, one a model."""
    highest: dict[str, np.ndarray]
    """Of each probe, the highest value of each model."""
    levels: dict[str, float]
    """Of each probe, the PERCENTILE of the values."""
    header: dict[str, Any]
    """What it was measured by: engine, probes (hash of each file), thresholds, models."""

    def fits(self, measured: dict[str, Any], probe: str) -> bool:
        """Whether a probe was measured here by the same file and engine as where `measured` is the header."""
        same = (self.header["engine"], self.header["probes"].get(probe))
        return probe in self.values and same == (measured["engine"], measured["probes"].get(probe))


def null_of_run(
    collection: Collection, run: Run, models: int | None, probes_folder: Path | None = None,
    say: Callable[[str, float | None], None] = lambda what, share: None,
) -> list[str]:  # fmt: skip
    """Measure randomly initialised models of a run's architecture on its stimuli, unless as many have been.

    `models`: how many; None: as many as have ENOUGH_HEADS heads together, at most MODELS. Kept in nulls/KEY.csv, a table of
    probes whose `seed` numbers the models, for all runs of the same `null_key`. Returns what went wrong.
    """
    definitions, problems = choose(None, probes_folder)
    path = collection.dir.null(null_key(run, collection.settings))
    wanted = models if models is not None else enough(run.last)
    n = max(wanted, (read_header(path) or {}).get("models", 0))
    made_from = {"engine": engine_hash(), "drawn": code_hash(("probing/null.py",)), "models": n} | _less(run.last)
    done = refresh(
        path, shared(definitions), made_from, lambda missing: _measure(run.last, missing, n, collection.settings, say)
    )
    return [*problems, *done.header["problems"].values()]


def enough(checkpoint: Path) -> int:
    """Random models that give ENOUGH_HEADS heads; at least FEWEST, at most MODELS."""
    from nca_interp.model.checkpoint import load_config

    config = load_config(checkpoint).get_text_config()
    heads = getattr(config, "num_hidden_layers", 1) * getattr(config, "num_attention_heads", 1)
    return min(MODELS, max(FEWEST, math.ceil(ENOUGH_HEADS / heads)))


def null_key(run: Run, settings: Settings | None) -> str:
    """What decides a null beside probes and engine: the architecture of a run and the tokens that stimuli are made of."""
    if (run.last / MANIFEST).is_file() and (problem := damage(run.last, quick=True, only="config.json")):
        raise damaged(run.last, f"damaged checkpoint, {problem}", "delete this folder, and train the run again")
    config = {k: v for k, v in read_json(run.last / "config.json").items() if k != "transformers_version"}
    if run.trained is not None:
        meta = run.trained.meta
        return digest([config, meta.spec, meta.vocab_size, meta.sha256], 16)
    files = {name: sha256_file(file) for name in TOKENIZER_FILES if (file := run.last / name).is_file()}
    return digest([config, files, settings.decide() if settings is not None else {}], 16)


def _less(directory: Path) -> dict[str, Any]:
    """How random models of a large shape are measured: precision, and tokens of a stimulus. Empty for others, and for our own runs."""
    from nca_interp.model.checkpoint import load_config, read_provenance

    if not is_large(load_config(directory)) or read_provenance(directory):
        return {}
    fast = device_type() != "cpu" or native_bf16()
    return {"dtype": "bfloat16" if fast else "float32", "shown": SHOWN_RANDOM}


def _measure(
    directory: Path, measurer: Measurer, models: int, settings: Settings, say: Callable[[str, float | None], None]
) -> Measured:
    from nca_interp.analysis.stimuli.subject import describe
    from nca_interp.model.checkpoint import load_config, read_provenance

    config = load_config(directory)
    tokens, tokenizer = (Path(p) if p else None for p in (settings.tokens, settings.tokenizer))
    subject = describe(directory, config, read_provenance(directory), tokens, tokenizer)
    less = _less(directory)
    subject = replace(subject, shown=less.get("shown"))
    dtype = getattr(torch, less["dtype"]) if less else config.dtype
    result = Measured([], {}, {})
    drawn = random_models(config, models, dtype, device_type())
    for seed in range(models):
        model = next(drawn)

        def tell(share: float, seed: int = seed) -> None:
            say(f"random model {seed + 1} of {models}", (seed + share) / models)

        found = measurer.measure(model, subject, tell)
        result.rows.extend({"run": f"random.{seed}", "seed": seed, **row} for row in found.rows)
        result.problems.update(found.problems)
        result.skipped.update(found.skipped)
        del model  # before the next is drawn
    keep_recent(measurer, subject)
    return result


def probe_tables(collection: Collection) -> dict[str, pd.DataFrame]:
    """Tables `probes` (all rows kept, with `null_95` and `hit` where the null was measured), `hits` (HITS) and `stimuli`
    (STIMULI), columns of one row a checkpoint."""
    measured = [
        (run, path) for run in collection.runs for step in run.steps if (path := run.kept("probes", step)).is_file()
    ]
    frame, of = read_tables([path for _, path in measured])
    headers, known = [read_header(path) for _, path in measured], _Nulls(collection)
    nulls = [known.of(run) for run, _ in measured]
    ends = np.append(0, np.bincount(of, minlength=len(measured)).cumsum())
    stimuli = [
        row for n, header in enumerate(headers) for row in _stimuli(frame.iloc[ends[n] : ends[n + 1]].head(1), header)
    ]
    joined = [null if header is not None else None for null, header in zip(nulls, headers, strict=True)]
    names = frame["probe"].factorize()
    _join(frame, of, names, headers, joined)
    return {
        "probes": frame if len(frame) else pd.DataFrame(columns=COLUMNS),
        "hits": _hits(frame, of, names[0], joined),
        "stimuli": pd.DataFrame(stimuli, columns=STIMULI),
    }


class _Nulls:
    """The nulls of a collection, each read once."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._keys: dict[str, str] = {}
        self._known: dict[str, Null | None] = {}

    def of(self, run: Run) -> Null | None:
        """That of a run; None where none was measured."""
        if run.id not in self._keys:
            self._keys[run.id] = null_key(run, self._collection.settings)
        key = self._keys[run.id]
        if key not in self._known:
            self._known[key] = read_null(self._collection.dir.null(key))
        return self._known[key]


def _stimuli(frame: pd.DataFrame, header: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Where the stimuli of a checkpoint come from, as its header has it."""
    told = (header or {}).get("tokens")
    if not told or frame.empty:
        return []
    known = {
        "text": told["rows_from"],
        "text_sha256": told["rows_sha256"],
        "prefix": " ".join(map(str, told["prefix"])),
    }
    return [{**frame.iloc[0][CHECKPOINT], **known, "drawn_from": told["drawn_from"], "vocab_size": told["vocab_size"]}]


def read_null(path: Path) -> Null | None:
    """A kept null; None where none was measured."""
    if not path.is_file():
        return None
    state = path.stat()
    return _null_at(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _null_at(path: Path, changed: int, size: int) -> Null | None:
    header = read_header(path)
    if header is None:
        return None
    rows, values, highest = read_table(path), {}, {}
    names, scores, models = rows["probe"].to_numpy(), rows["value"].to_numpy(float), rows["seed"].to_numpy(np.int64)
    for name in np.unique(names.astype(str)):
        own = np.flatnonzero(names == name)
        own = own[np.argsort(models[own], kind="stable")]
        starts = np.flatnonzero(np.diff(models[own], prepend=-1))
        values[str(name)], highest[str(name)] = np.sort(scores[own]), np.fmax.reduceat(scores[own], starts)
    levels = {name: float(np.percentile(drawn, PERCENTILE)) for name, drawn in values.items()}
    return Null(values, highest, levels, header)


def null_maxima(collection: Collection) -> dict[str, dict[str, np.ndarray]]:
    """By run and probe, the highest score of each random model [model] of the null that the run's last probes fit."""
    found: dict[str, dict[str, np.ndarray]] = {}
    known = _Nulls(collection)
    for run in collection.runs:
        header = read_header(run.kept("probes", run.steps[-1])) if run.steps else None
        null = known.of(run) if header is not None else None
        if header is not None and null is not None:
            found[run.id] = {name: most for name, most in null.highest.items() if null.fits(header, name)}
    return found


def _join(
    frame: pd.DataFrame,
    of: np.ndarray,
    names: tuple[Any, Any],
    headers: list[Any],
    nulls: list[Null | None],
) -> None:
    """Give the rows of all checkpoints `null_95` and `hit` (as of a checkpoint alone) where probe and engine are those of the null; those
    of a checkpoint without a null stay as they are. `of`: checkpoint of each row; `names`: number of its probe, and the probes."""
    levels = np.full((len(nulls), len(names[1])), np.nan)
    least = levels.copy()
    for n, (null, header) in enumerate(zip(nulls, headers, strict=True)):
        if null is None:
            continue
        for place, name in enumerate(names[1]):
            if null.fits(header, name):
                levels[n, place] = null.levels[name]
                if (threshold := null.header["thresholds"].get(name)) is not None:
                    least[n, place] = max(threshold, null.levels[name])
    has = np.array([null is not None for null in nulls], dtype=bool)[of]
    chance = np.nan_to_num(frame["chance"].to_numpy(float), nan=-np.inf)
    bar = pd.Series(np.maximum(least[of, names[0]], TIMES_CHANCE * chance), frame.index)
    hit = (frame["value"] > bar).astype("Int64").where(bar.notna())
    frame["null_95"] = np.where(has, levels[of, names[0]], frame["null_95"])
    frame["hit"] = hit.where(has, frame["hit"])


def _hits(frame: pd.DataFrame, of: np.ndarray, probes: np.ndarray, nulls: list[Null | None]) -> pd.DataFrame:
    """One row (HITS) for each checkpoint and each of its probes that names a kind of head: how many there are."""
    has = np.array([null is not None for null in nulls], dtype=bool)[of]
    chosen = np.flatnonzero(has & (frame["hit"].notna() & frame["head"].notna()).to_numpy(bool))
    groups = pd.factorize(of[chosen] * (probes.max(initial=0) + 1) + probes[chosen])[0]  # in order of appearance
    parts = (
        np.split(chosen[np.argsort(groups, kind="stable")], np.bincount(groups).cumsum()[:-1]) if len(chosen) else []
    )
    scores, hit, names = frame["value"].to_numpy(float), frame["hit"].to_numpy(float, na_value=np.nan), frame["probe"]
    chance = np.nan_to_num(frame["chance"].to_numpy(float), nan=-np.inf)
    rows = []
    for part in parts:
        null, name, values = nulls[of[part[0]]], str(names.iat[part[0]]), scores[part]
        assert null is not None
        drawn, bar = null.values[name], np.maximum(null.header["thresholds"][name], TIMES_CHANCE * chance[part])
        found = significant(values, drawn) & (values > bar)
        top = np.sort(values)[-max(1, math.ceil(TOP_SHARE * len(values))) :]
        rows.append({
            "probe": name, "heads": len(values), "models": null.header["models"], "threshold": bar.max(),
            "null_95": null.levels[name], "best": values.max(), "top_mean": top.mean(), "hits": int(hit[part].sum()),
            "hits_fdr": int(found.sum()), "fdr_least": fdr_least(len(values), len(drawn)),
        })  # fmt: skip
    if not rows:
        return pd.DataFrame(columns=HITS)
    where = frame.loc[[part[0] for part in parts], CHECKPOINT].reset_index(drop=True)
    return pd.concat([where, pd.DataFrame(rows)], axis=1)[HITS]


def significant(values: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Which heads' `values` lie above the null at a false discovery rate of FDR (Benjamini and Hochberg), where a head's
    p = (1 + #{null >= value}) / (1 + #null) with the heads of all layers and models as one null, ascending."""
    p = (1 + len(null) - np.searchsorted(null, values, side="left")) / (1 + len(null))
    return np.array(benjamini_hochberg(p)) <= FDR


def fdr_least(heads: int, drawn: int) -> int:
    """The smallest number of heads that `significant` can find: fewer, even above the whole null of `drawn` values, have
    too large a p; above `heads` where it can find none."""
    return math.ceil(heads / (FDR * (1 + drawn)))
