"""The null of a study: what randomly initialised models score on the stimuli of each token source, measured once for all
checkpoints that it fits, kept, and joined to their probes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nca_interp.analysis.cache import code_hash
from nca_interp.analysis.collection.collection import Collection, Settings
from nca_interp.analysis.collection.run import CHECKPOINT, Run
from nca_interp.analysis.probing.cache import read_header, refresh
from nca_interp.analysis.probing.engine import COLUMNS, choose, engine_hash
from nca_interp.analysis.probing.measure import Measured, Measurer
from nca_interp.analysis.probing.null import PERCENTILE, random_models
from nca_interp.analysis.probing.probe import TOP_SHARE
from nca_interp.analysis.probing.table import read_table
from nca_interp.analysis.verdicts.statistics import benjamini_hochberg
from nca_interp.base import digest
from nca_interp.machine import device_type
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
    """Of each probe, the values of all heads of all models; of a probe of the whole model, one a model."""
    header: dict[str, Any]
    """What it was measured by: engine, probes (hash of each file), thresholds, models."""

    def fits(self, measured: dict[str, Any], probe: str) -> bool:
        """Whether a probe was measured here by the same file and engine as where `measured` is the header."""
        same = (self.header["engine"], self.header["probes"].get(probe))
        return probe in self.values and same == (measured["engine"], measured["probes"].get(probe))


def null_of_run(collection: Collection, run: Run, models: int | None, probes_folder: Path | None = None) -> list[str]:
    """Measure randomly initialised models of a run's architecture on its stimuli, unless as many have been.

    `models`: how many; None: as many as have ENOUGH_HEADS heads together, at most MODELS. Kept in nulls/KEY.csv, a table of
    probes whose `seed` numbers the models, for all runs of the same `null_key`. Returns what went wrong.
    """
    definitions, problems = choose(None, probes_folder)
    path = collection.dir.null(null_key(run, collection.settings))
    wanted = models if models is not None else enough(run.last)
    n = max(wanted, (read_header(path) or {}).get("models", 0))
    made_from = {"engine": engine_hash(), "drawn": code_hash(("probing/null.py",)), "models": n}
    done = refresh(
        path, Measurer(definitions), made_from, lambda missing: _measure(run.last, missing, n, collection.settings)
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


def _measure(directory: Path, measurer: Measurer, models: int, settings: Settings) -> Measured:
    from nca_interp.analysis.stimuli.subject import describe
    from nca_interp.model.checkpoint import load_config, read_provenance

    config = load_config(directory)
    tokens, tokenizer = (Path(p) if p else None for p in (settings.tokens, settings.tokenizer))
    subject = describe(directory, config, read_provenance(directory), tokens, tokenizer)
    result = Measured([], {}, {})
    for seed, model in enumerate(random_models(config, models, config.dtype, device_type())):
        found = measurer.measure(model, subject)
        result.rows.extend({"run": f"random.{seed}", "seed": seed, **row} for row in found.rows)
        result.problems.update(found.problems)
        result.skipped.update(found.skipped)
    return result


def probe_tables(collection: Collection) -> dict[str, pd.DataFrame]:
    """Tables `probes` (all rows kept, with `null_95` and `hit` where the null was measured), `hits` (HITS) and `stimuli`
    (STIMULI), columns of one row a checkpoint."""
    frames, hits, stimuli, nulls = [], [], [], {}
    for run in collection.runs:
        measured = [path for step in run.steps if (path := run.kept("probes", step)).is_file()]
        if not measured:
            continue
        key = null_key(run, collection.settings)
        if key not in nulls:
            nulls[key] = read_null(collection.dir.null(key))
        for path in measured:
            frame, header = read_table(path), read_header(path)
            stimuli += _stimuli(frame, header)
            if (null := nulls[key]) is not None and header is not None:
                frame = _joined(frame, header, null)
                hits += _hits(frame, null)
            if len(frame):
                frames.append(frame)
    return {
        "probes": pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS),
        "hits": pd.DataFrame(hits, columns=HITS),
        "stimuli": pd.DataFrame(stimuli, columns=STIMULI),
    }


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
    header = read_header(path)
    if header is None:
        return None
    values = {str(name): np.sort(part["value"].to_numpy(float)) for name, part in read_table(path).groupby("probe")}
    return Null(values, header)


def null_maxima(collection: Collection) -> dict[str, dict[str, np.ndarray]]:
    """By run and probe, the highest score of each random model [model] of the null that the run's last probes fit."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for run in collection.runs:
        header = read_header(run.kept("probes", run.steps[-1])) if run.steps else None
        path = collection.dir.null(null_key(run, collection.settings)) if header is not None else None
        null = read_null(path) if path is not None else None
        if path is None or header is None or null is None:
            continue
        highest = read_table(path).groupby(["probe", "seed"])["value"].max()
        found[run.id] = {
            str(name): part.to_numpy(float) for name, part in highest.groupby("probe") if null.fits(header, str(name))
        }
    return found


def _joined(frame: pd.DataFrame, header: dict[str, Any], null: Null) -> pd.DataFrame:
    """The probes of a checkpoint with `null_95` and `hit` (as null.add_null) where probe and engine are those of the null."""
    levels = {name: float(np.percentile(v, PERCENTILE)) for name, v in null.values.items() if null.fits(header, name)}
    least = {
        name: max(t, levels[name]) for name, t in null.header["thresholds"].items() if t is not None and name in levels
    }
    frame["null_95"] = frame["probe"].map(levels).astype(float)
    bar = frame["probe"].map(least).astype(float)
    frame["hit"] = (frame["value"] > bar).astype("Int64").where(bar.notna())
    return frame


def _hits(frame: pd.DataFrame, null: Null) -> list[dict[str, Any]]:
    """One row for each probe of a checkpoint that names a kind of head: how many there are."""
    rows = []
    for name, part in frame[frame["hit"].notna() & frame["head"].notna()].groupby("probe", sort=False):
        values, drawn = part["value"].to_numpy(float), null.values[str(name)]
        threshold, first = null.header["thresholds"][name], part.iloc[0]
        found = significant(values, drawn) & (values > threshold)
        top = np.sort(values)[-max(1, math.ceil(TOP_SHARE * len(values))) :]
        rows.append({
            **{key: first[key] for key in CHECKPOINT}, "probe": name, "heads": len(values), "models": null.header["models"],
            "threshold": threshold, "null_95": first["null_95"], "best": values.max(), "top_mean": top.mean(),
            "hits": int(part["hit"].sum()), "hits_fdr": int(found.sum()), "fdr_least": fdr_least(len(values), len(drawn)),
        })  # fmt: skip
    return rows


def significant(values: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Which heads' `values` lie above the null at a false discovery rate of FDR (Benjamini and Hochberg), where a head's
    p = (1 + #{null >= value}) / (1 + #null) with the heads of all layers and models as one null, ascending."""
    p = (1 + len(null) - np.searchsorted(null, values, side="left")) / (1 + len(null))
    return np.array(benjamini_hochberg(p)) <= FDR


def fdr_least(heads: int, drawn: int) -> int:
    """The smallest number of heads that `significant` can find: fewer, even above the whole null of `drawn` values, have
    too large a p; above `heads` where it can find none."""
    return math.ceil(heads / (FDR * (1 + drawn)))
