"""Own prompts on the last checkpoint of each run: measured once and kept, as tables, and as arrays for viewers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.cache import code_hash, keep, kept, lost
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.collection.collection import Collection, Settings
from nca_interp.analysis.collection.run import CHECKPOINT, Run
from nca_interp.analysis.probing.engine import engine_hash
from nca_interp.analysis.probing.opened import open_last
from nca_interp.analysis.prompts.look import Look, Row, look
from nca_interp.analysis.prompts.texts import Options, Prompt, arguments, encoder, read_prompts
from nca_interp.analysis.stimuli.base import NotApplicable
from nca_interp.analysis.stimuli.source import unchanged, weights_sha256
from nca_interp.analysis.stimuli.subject import context_length
from nca_interp.base import UserError
from nca_interp.files import write_bytes
from nca_interp.machine import device_type
from nca_interp.measurement import Asked, Shown
from nca_interp.readers import read_arrays, read_object
from nca_interp.store import sha256_file, write_json

CODE = (
    "causes/lens.py", "causes/resume.py", "prompts/attribution.py", "prompts/linear.py", "prompts/look.py", "prompts/study.py",
    "prompts/texts.py",
)  # fmt: skip
"""Files of this package that decide a number, beside those of the probe engine."""
TABLES = {
    "token": ("prompts", [*CHECKPOINT, "prompt", "position", "token", "text", "nll", "rank"]),
    "prediction": ("prompt_predictions", [*CHECKPOINT, "prompt", "position", "place", "token", "text", "logit", "probability"]),
    "lens": ("prompt_lens", [*CHECKPOINT, "prompt", "position", "layer", "target", "target_text", "nll", "kl", "token", "text", "probability"]),
    "part": ("prompt_parts", [*CHECKPOINT, "prompt", "position", "target", "target_text", "part", "layer", "head", "neuron", "value", "centred"]),
}  # fmt: skip
"""Kind of row -> its table and columns."""
INTEGERS = ("position", "token", "rank", "place", "layer", "head", "neuron", "target")
NUMBERS = ("nll", "kl", "logit", "probability", "value", "centred")
COLUMNS = ["kind", "prompt", "text", "target_text", "part", *INTEGERS, *NUMBERS]
ARRAYS = "patterns.npz"
SUMMARISED = 3


def measure(run: Run, asked: Asked) -> list[str]:
    """Every prompt on the last checkpoint of a run, unless that is up to date; what cannot be measured is kept with the reason."""
    settings: Settings = asked.collection.settings
    options: Options = asked.options
    read = read_prompts((*settings.text, *options.files), options.prompts)
    path = run.kept("prompts", run.steps[-1])
    made_from = (
        _weights(run)
        | {"prompts": [list(p) for p in read.prompts], "arguments": arguments(options)}
        | settings.decide()
    )
    if kept(path, made_from, numbers=NUMBERS, integers=INTEGERS) is not None and _arrays(path) is not None:
        return []
    try:
        looks, notes = _look(run, settings, options, read.prompts, asked)
    except NotApplicable as reason:
        looks, notes = {}, [("", f"not measured: {reason}")]
    notes = [*(("", note) for note in read.notes), *notes]
    rows = [{**row, "prompt": name} for name, found in looks.items() for row in found.rows]
    arrays = {
        f"{name}-{layer}.{head}": a for name, found in looks.items() for (layer, head), a in found.patterns.items()
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(_beside(path), buffer.getvalue())
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame[list(INTEGERS)] = frame[list(INTEGERS)].astype("Int64")
    frame.attrs = {"notes": notes, "arrays": sha256_file(_beside(path))}
    keep(path, frame, made_from)
    return []


def _look(
    run: Run, settings: Settings, options: Options, prompts: tuple[Prompt, ...], asked: Asked
) -> tuple[dict[str, Look], list[tuple[str, str]]]:
    """By prompt what was found, and (prompt, note) of what was cut or could not be measured."""
    encode = encoder(run, settings)
    device = settings.device if run.config is None else device_type()
    with unchanged(run.last):
        model: Any = open_last(run.last, device, settings.dtype)
        try:
            trunk: Trunk | NotApplicable = Trunk(model)
        except NotApplicable as reason:
            trunk = reason
        except UserError as error:
            trunk = NotApplicable(str(error))
    config = model.config.get_text_config()
    limit = min(options.tokens, context_length(config))
    looks, notes = {}, []
    for number, prompt in enumerate(prompts):
        asked.say(f"prompt {number + 1} of {len(prompts)}", number / len(prompts))
        ids = encode.prompt(prompt.text)
        if len(ids) < 2 or max(ids) >= config.vocab_size:
            short = len(ids) < 2
            why = "fewer than two tokens" if short else f"token {max(ids)} of a vocabulary of {config.vocab_size}"
            notes.append((prompt.name, f"left out: {why}"))
            continue
        if len(ids) > limit:
            notes.append((prompt.name, f"the first {limit} of {len(ids)} tokens (prompts.tokens={options.tokens})"))
        looks[prompt.name] = look(model, trunk, ids[:limit], encode, options)
        notes += [(prompt.name, note) for note in looks[prompt.name].notes]
    return looks, notes


def _weights(run: Run) -> dict[str, Any]:
    return {"checkpoint": weights_sha256(run.last), "engine": engine_hash(), "code": code_hash(CODE)}


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}-{ARRAYS}")


def last_kept(
    path: Path, weights: dict[str, Any], numbers: tuple[str, ...], integers: tuple[str, ...]
) -> pd.DataFrame | None:
    """What is kept, whatever was asked, if it is of these weights and this code."""
    if lost(path):
        return None
    said = read_object(path.with_suffix(".json"), made_from=dict)["made_from"]
    if any(said.get(name) != value for name, value in weights.items()):
        return None
    return kept(path, said, numbers=numbers, integers=integers)


def _kept(run: Run) -> pd.DataFrame | None:
    if not run.steps or not (path := run.kept("prompts", run.steps[-1])).is_file():
        return None
    return last_kept(path, _weights(run), NUMBERS, INTEGERS)


def _arrays(path: Path) -> dict[str, np.ndarray] | None:
    """The patterns that are kept beside a table; None where they are lost or altered."""
    beside = _beside(path)
    said = read_object(path.with_suffix(".json"), attrs=dict)["attrs"]
    if not beside.is_file() or sha256_file(beside) != said.get("arrays"):
        return None
    return read_arrays(beside)


def tables(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> dict[str, pd.DataFrame]:
    """Tables of TABLES and `prompt_notes`; none where no text was given."""
    found: dict[str, list[pd.DataFrame]] = {}
    notes: list[Row] = []
    for run in collection.runs:
        frame = _kept(run)
        if frame is None:
            continue
        said, frame.attrs = frame.attrs["notes"], {}
        frame = frame.assign(**run.at(run.steps[-1]))
        notes += [{**run.at(run.steps[-1]), "prompt": p, "note": n} for p, n in said]
        for kind, (name, columns) in TABLES.items():
            found.setdefault(name, []).append(frame[frame.kind == kind][columns])
    if not found:
        return {}
    whole = {name: pd.concat(frames, ignore_index=True) for name, frames in found.items()}
    return whole | {"prompt_notes": pd.DataFrame(notes, columns=[*CHECKPOINT, "prompt", "note"])}


def files(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> None:
    """prompt_patterns.npz and .json (docs/tables.md); removed where there is nothing to show."""
    arrays: dict[str, np.ndarray] = {}
    entries: list[Any] = []
    for run in collection.runs if "prompts" in tables else ():
        found = _arrays(run.kept("prompts", run.steps[-1])) if _kept(run) is not None else None
        rows = tables["prompts"][tables["prompts"].run == run.id]
        for key, pattern in (found or {}).items():
            prompt, _, place = key.rpartition("-")
            layer, head = map(int, place.split("."))
            name = f"{len(entries)}"
            tokens = rows[rows.prompt == prompt].sort_values("position").text.tolist()
            entries.append(
                {"key": name, **run.at(run.steps[-1]), "prompt": prompt, "layer": layer, "head": head, "tokens": tokens}
            )
            arrays[name] = pattern
    path = collection.dir.tables / "prompt_patterns.npz"
    if not entries:
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
        return
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())
    write_json(path.with_suffix(".json"), entries)


def summary(collection: Collection, tables: dict[str, pd.DataFrame]) -> Iterator[Shown | str]:
    """Of each prompt its loss, what comes next, and the heads that add most to that."""
    if "prompts" not in tables:
        return
    for run in collection.runs[:SUMMARISED]:
        tokens, said = (tables[name][tables[name].run == run.id] for name in ("prompts", "prompt_predictions"))
        parts = tables["prompt_parts"][(tables["prompt_parts"].run == run.id) & (tables["prompt_parts"].part == "head")]
        lines = []
        for prompt, rows in tokens.groupby("prompt", sort=False):
            end = rows.position.max()
            first = said[(said.prompt == prompt) & (said.position == end) & (said.place == 1)].iloc[0]
            heads = parts[(parts.prompt == prompt) & (parts.position == end)].sort_values("centred", ascending=False)[
                :3
            ]
            best = " ".join(f"{int(h.layer)}.{int(h.head)}({h.centred:+.1f})" for h in heads.itertuples())
            text = repr(str(first.text))[:14]
            lines.append(
                [str(prompt)[-16:], str(len(rows)), f"{rows.nll.mean():.2f}", f"{text} {first.probability:.2f}", best]
            )
        head = ["prompt", "tokens", "nats", "next", "heads that raise it"]
        yield Shown(f"{run.label}: your own text", head, lines, ("next", "heads that raise it"))
    for r in tables["prompt_notes"].drop_duplicates(["prompt", "note"]).itertuples():
        yield f"{r.prompt}: {r.note}" if isinstance(r.prompt, str) and r.prompt else str(r.note)
