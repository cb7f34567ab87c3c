"""Which models a report shows at work, and their exhibits: made by the worker that measured the probes,
kept in patterns/ of the run (docs/tables.md), and gathered into the tables."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.cache import code_hash, lost
from nca_interp.analysis.collection.collection import Collection, Settings
from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.probing.engine import engine_hash
from nca_interp.analysis.probing.null_study import TOKENIZER_FILES
from nca_interp.analysis.probing.patterns import Exhibit, default_sequences, export_patterns, whole_limit
from nca_interp.analysis.probing.table import read_table
from nca_interp.analysis.stimuli.base import Stimulus, natural
from nca_interp.analysis.stimuli.source import weights_sha256
from nca_interp.analysis.verdicts.plan import SCRATCH, primary
from nca_interp.base import UserError, digest
from nca_interp.files import write_bytes
from nca_interp.readers import read_arrays, read_object
from nca_interp.store import sha256_file, write_json, write_record

NAME = "patterns"
"""Folder of a run in which its exhibits are kept, and file of all of them beside the tables."""
CODE = ("probing/exhibited.py", "probing/patterns.py", "stimuli/own_text.py")
"""Files of this package that decide an exhibit, beside those of the probe engine."""
ARRAYS = ("thumbnails", "patterns")
"""Arrays of an exhibit."""
SHOWN = 2
"""Models whose heads are shown, where they come from elsewhere."""


def exhibited(collection: Collection) -> Iterator[tuple[Run, dict[str, Stimulus] | None]]:
    """Runs whose heads are shown, and on what (None: as a model of language). Of a study the finished ones of seed 0 of the
    regime that it is about and scratch after pre-training on the first domain, and the former after pre-pre-training on its own
    data; else the first SHOWN."""
    if collection.study is None:
        yield from ((run, None) for run in collection.runs[:SHOWN] if run.steps)
        return
    done: dict[tuple[str, str, str], Run] = {
        (r.stage, r.regime, r.domain): r for r in collection.runs if r.done and r.seed == 0
    }
    first = primary(collection.roles) or ""
    for regime in (first, SCRATCH):
        if (run := done.get(("pt", regime, collection.study.domains[0].name))) is not None:
            yield run, None
    if (before := done.get(("ppt", first, ""))) is not None:
        yield before, {"its own synthetic data": natural(sequences=2)}


def keep_exhibits(collection: Collection, run: Run) -> None:
    """Make the exhibits of a run, whose probes are measured, unless they are up to date or it is not shown."""
    sequences = {shown.id: of for shown, of in exhibited(collection)}
    if run.id in sequences and not lost(path := run.kept("probes", run.steps[-1])):
        _exhibits(collection, run, sequences[run.id], read_table(path))


def write_patterns(collection: Collection, probes: pd.DataFrame) -> None:
    """patterns.npz and patterns.json of a collection (docs/tables.md); both are removed where there is nothing to show.
    `probes`: the whole probes table."""
    arrays: dict[str, np.ndarray] = {}
    entries: list[dict[str, Any]] = []
    for run, sequences in exhibited(collection):
        scores = probes[(probes.run == run.id) & (probes.step == run.steps[-1])]
        for shown in _exhibits(collection, run, sequences, scores):
            key = shown.entry["key"]
            arrays |= {f"{key}-thumbnails": shown.thumbnails, f"{key}-whole": shown.patterns}
            entries.append(shown.entry)
    path = collection.dir.tables / f"{NAME}.npz"
    if not entries:
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
        return
    write_bytes(path, _packed(arrays))
    write_json(path.with_suffix(".json"), entries)


def _exhibits(
    collection: Collection, run: Run, sequences: dict[str, Stimulus] | None, scores: pd.DataFrame
) -> list[Exhibit]:
    """Exhibits of the last checkpoint of a run, as they are kept or made now; none where no head has a score."""
    scores = scores[scores["head"].notna()]
    if scores.empty:
        return []
    settings, limit = collection.settings, _limit(collection)
    who = run.at(run.steps[-1]) if run.config is None else None
    made_from = {
        "checkpoint": weights_sha256(run.last), "engine": engine_hash(), "code": code_hash(CODE), "who": who,
        "scores": _digest(scores), "limit": limit, "shown": list(sequences or default_sequences(settings)),
        "tokenizer": [sha256_file(file) for file in _tokenizers(run.last, settings) if file.is_file()],
        "texts": [sha256_file(Path(text)) for text in settings.text if Path(text).is_file()], **settings.decide(),
    }  # fmt: skip
    path = run.kept(NAME, run.steps[-1]).with_suffix(".npz")
    if (found := _kept(path, made_from)) is None:
        found = export_patterns(run.last, scores, sequences, settings, who, limit)
        _keep(path, found, made_from)
    return found


def _tokenizers(directory: Path, settings: Settings) -> list[Path]:
    """Files that say what tokens are."""
    given = (
        [] if settings.tokenizer is None else [Path(settings.tokenizer), *sorted(Path(settings.tokenizer).glob("*"))]
    )
    return [*(directory / name for name in TOKENIZER_FILES), *given]


def _limit(collection: Collection) -> int:
    """Heads whose pattern is whole: of a study as if all that will be shown were there already."""
    default = len(default_sequences(collection.settings))
    shown = 2 * default + 1 if collection.study is not None else default * len(list(exhibited(collection)))
    return whole_limit(shown)


def _digest(scores: pd.DataFrame) -> str:
    places = scores[["layer", "head", "value"]].to_numpy(float)
    return digest([scores.probe.astype(str).tolist(), hashlib.sha256(places.tobytes()).hexdigest()])


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _keep(path: Path, exhibits: list[Exhibit], made_from: dict[str, Any]) -> None:
    arrays = {f"{n}-{name}": getattr(one, name) for n, one in enumerate(exhibits) for name in ARRAYS}
    write_bytes(path, _packed(arrays))
    said = {"made_from": made_from, "entries": [one.entry for one in exhibits], "sha256": sha256_file(path)}
    write_record(path.with_suffix(".json"), said)


def _kept(path: Path, made_from: dict[str, Any]) -> list[Exhibit] | None:
    """What `_keep` wrote; None where there is nothing, it was made from something else, or is damaged."""
    if lost(path):
        return None
    try:
        said = read_object(path.with_suffix(".json"), made_from=dict, entries=list)
        arrays = read_arrays(path)
        return (
            [Exhibit(entry, *(arrays[f"{n}-{name}"] for name in ARRAYS)) for n, entry in enumerate(said["entries"])]
            if said["made_from"] == made_from
            else None
        )
    except (UserError, KeyError):
        return None
