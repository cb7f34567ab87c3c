"""The player's data of a collection: which runs and checkpoints are shown, measured once and kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from nca_interp.analysis.cache import code_hash, keep, kept
from nca_interp.analysis.circuit_player.capture import EFFECTS, Seen, effects, see
from nca_interp.analysis.circuit_player.sequence import Sequence, choose, texts_of
from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import CHECKPOINT, Run
from nca_interp.analysis.collection.series import Series
from nca_interp.analysis.probing.engine import engine_hash
from nca_interp.analysis.probing.measure import open_scored
from nca_interp.analysis.probing.opened import open_last
from nca_interp.analysis.stimuli.base import NotApplicable, Subject
from nca_interp.analysis.stimuli.source import weights_sha256
from nca_interp.analysis.stimuli.subject import describe
from nca_interp.analysis.verdicts.plan import SCRATCH, primary
from nca_interp.base import Frozen, UserError
from nca_interp.codes import evenly
from nca_interp.files import write_bytes
from nca_interp.machine import device_type
from nca_interp.measurement import Asked
from nca_interp.readers import read_arrays, read_object
from nca_interp.store import damage, sha256_file

NAME = "player"
CODE = (
    "circuit_player/capture.py", "../codes.py", "circuit_player/sequence.py", "causes/ablation.py", "causes/effects.py",
    "causes/resume.py",
)  # fmt: skip
"""Files that decide a number, beside those of the probe engine."""
NUMBERS, INTEGERS = ("value", "low", "high"), ("layer", "head", "n")
ARRAYS = "seen.npz"
COMPARED = ("regime", "control")
TABLE = [*CHECKPOINT, *EFFECTS]


class PlayerOptions(Frozen):
    """Options of the player."""

    checkpoints: int = Field(default=60, ge=1, le=200)
    """Of each run so many at most, evenly chosen, the first and the last among them."""
    models: int = Field(default=5, ge=1, le=24)
    """Regimes of a study, or models from elsewhere, of which two are shown side by side."""


def measure(run: Run, asked: Asked) -> list[str]:
    """Each shown checkpoint of a run that is shown, unless it is up to date; what cannot be measured is kept with the reason."""
    if run.id not in shown(asked.collection, asked.options.models):
        return []
    settings = asked.collection.settings
    missing = [s for s in steps_of(run, asked.options.checkpoints) if kept_arrays(run, s, asked.collection) is None]
    device = settings.device if run.config is None else device_type()
    open_ = open_last if run.config is None else open_scored  # a series of ours is read into one model
    series, problems = Series(run, settings, lambda d: open_(d, device, settings.dtype)), []
    for index, step in enumerate(missing):
        frame, found = pd.DataFrame(columns=EFFECTS), None
        try:
            if run.config is not None and (problem := damage(run.checkpoint(step), quick=True)):
                raise UserError(f"{run.checkpoint(step)}: damaged checkpoint, {problem}")
            model = series.open(step)
            subject = _subject(run, step, model, asked.collection)
            sequence = choose(subject, settings)
            found = see(model, sequence)
            frame, why = _effects(model, subject, sequence)
            frame.attrs = {
                "sequence": sequence.said,
                "shape": list(found.attention.shape[:2]),
                "no_effects": why,
                "words": _words(subject, sequence, found),
            }
        except NotApplicable as reason:
            frame.attrs = {"skipped": str(reason)}
        except UserError as error:
            problems.append(str(error))
            continue
        _keep(run, step, frame, found, asked.collection)
        asked.say(f"checkpoint {index + 1} of {len(missing)}", (index + 1) / len(missing))
    return problems


def _effects(model: Any, subject: Subject, sequence: Sequence) -> tuple[pd.DataFrame, str]:
    """Effects of the heads, or none and why."""
    try:
        found = effects(model, subject, sequence.spec is not None)
    except NotApplicable as reason:
        return pd.DataFrame(columns=EFFECTS), str(reason)
    return found, "" if len(found) else "the model has more heads than are taken out one by one here"


def _words(subject: Subject, sequence: Sequence, found: Seen) -> dict[str, str]:
    """What the predicted tokens say, of text."""
    ids = [int(i) for i in np.unique(found.top)] if sequence.spec is None else []
    return dict(zip(map(str, ids), texts_of(subject, ids), strict=True))


def _subject(run: Run, step: int, model: Any, collection: Collection) -> Subject:
    from nca_interp.model.checkpoint import read_provenance

    directory, settings = run.checkpoint(step), collection.settings
    tokens, tokenizer = (Path(p) if p else None for p in (settings.tokens, settings.tokenizer))
    return describe(directory, model.config, read_provenance(directory), tokens, tokenizer)


def shown(collection: Collection, models: int) -> list[str]:
    """Ids of the runs that are shown. Of a study seed 0 of its regimes on the first domain: the one that it is about, scratch, the
    other compared ones in its order, and the pre-pre-training of each; else the first models."""
    study = collection.study
    if study is None:
        return [run.id for run in collection.runs if run.steps][:models]
    chosen = regimes(collection)[:models]
    own = [r for r in collection.runs if r.seed == 0 and r.regime in chosen]
    last = [r for r in own if r.stage == "pt" and r.domain == study.domains[0].name] if study.domains else []
    parents = {r.parent for r in last}
    before = [r for r in collection.runs if r.stage == "ppt" and (r in own or r.id in parents)]
    return [r.id for r in sorted([*before, *last], key=lambda r: (r.stage != "ppt", _place(chosen, r.regime)))]


def _place(chosen: list[str], regime: str) -> int:
    return chosen.index(regime) if regime in chosen else len(chosen)


def regimes(collection: Collection) -> list[str]:
    """Compared regimes of a study: the one that it is about, scratch, then those that were pre-pre-trained and have checkpoints on the
    way, controls first."""
    assert collection.study is not None
    first = primary(dict(collection.roles))
    compared = [r for r in collection.study.regimes if r.role in COMPARED]
    keys = {
        r.name: (r.name != first, r.name != SCRATCH, r.source is None, r.checkpoints == "ends", r.role != "control")
        for r in compared
    }
    return sorted(keys, key=lambda name: keys[name])


def steps_of(run: Run, most: int) -> list[int]:
    """Steps of a run that are shown."""
    return [run.steps[i] for i in evenly(len(run.steps), most)]


def _made_from(run: Run, step: int, collection: Collection) -> dict[str, Any]:
    own = {"checkpoint": weights_sha256(run.checkpoint(step)), "engine": engine_hash(), "code": code_hash(CODE)}
    texts = [sha256_file(Path(path)) for path in collection.settings.text[:1] if Path(path).is_file()]
    return own | {"text": texts} | collection.settings.decide()


def _keep(run: Run, step: int, frame: pd.DataFrame, found: Seen | None, collection: Collection) -> None:
    path = run.kept(NAME, step)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **(found._asdict() if found is not None else {}))
    write_bytes(_beside(path), buffer.getvalue())
    frame.attrs["arrays"] = sha256_file(_beside(path))
    keep(path, frame, _made_from(run, step, collection))


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}-{ARRAYS}")


def kept_rows(run: Run, step: int, collection: Collection) -> pd.DataFrame | None:
    """EFFECTS of a checkpoint, with `attrs`; None where they are not up to date."""
    return kept(run.kept(NAME, step), _made_from(run, step, collection), numbers=NUMBERS, integers=INTEGERS)


def kept_arrays(run: Run, step: int, collection: Collection) -> dict[str, np.ndarray] | None:
    """Arrays of a checkpoint (`Seen`); None where they are lost, altered or not up to date; empty where nothing could be measured."""
    path = run.kept(NAME, step)
    if kept_rows(run, step, collection) is None or not _beside(path).is_file():
        return None
    said = read_object(path.with_suffix(".json"), attrs=dict)["attrs"]
    return read_arrays(_beside(path)) if sha256_file(_beside(path)) == said.get("arrays") else None


def tables(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> dict[str, pd.DataFrame]:
    """Table `step_effects`: what the model loses without each head, at every shown checkpoint."""
    parts = []
    for run in collection.runs:
        for step in _kept_steps(run):
            frame = kept_rows(run, step, collection)
            if frame is not None and len(frame):
                frame.attrs = {}
                parts.append(frame.assign(**run.at(step))[TABLE])
    return {"step_effects": pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=TABLE)}


def _kept_steps(run: Run) -> list[int]:
    return [step for step in run.steps if run.kept(NAME, step).is_file()]
