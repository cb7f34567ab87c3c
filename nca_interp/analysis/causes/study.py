"""Causes of a study: the last checkpoint of each run, measured once and kept, and what runs that share weights have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from nca_interp.analysis.cache import code_hash, keep, kept
from nca_interp.analysis.causes.causes import as_scores, causes, scoring_probes
from nca_interp.analysis.causes.circuit_edges import circuit_edges
from nca_interp.analysis.causes.load_bearing import load_tables
from nca_interp.analysis.causes.options import CausesOptions, Scope
from nca_interp.analysis.causes.parts import Say
from nca_interp.analysis.causes.rows import Scores
from nca_interp.analysis.causes.shared_heads import checkpoint_load
from nca_interp.analysis.causes.table import COLUMNS, INTEGERS, NUMBERS, as_table
from nca_interp.analysis.collection.collection import Collection, Settings
from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.probing.cache import read_header
from nca_interp.analysis.probing.engine import engine_hash
from nca_interp.analysis.probing.table import read_table
from nca_interp.analysis.stimuli.size import seconds
from nca_interp.analysis.stimuli.source import weights_sha256
from nca_interp.base import UserError
from nca_interp.config import suggest
from nca_interp.discover import find
from nca_interp.machine import device_type
from nca_interp.measurement import Asked
from nca_interp.readers import read_object
from nca_interp.store import MANIFEST, damage

CODE = (
    "causes/ablation.py", "causes/attribution.py", "causes/attribution_rows.py", "causes/causes.py", "causes/composition.py", "causes/effects.py",
    "causes/folded.py", "causes/lens.py", "causes/options.py", "causes/partners.py", "causes/patching.py", "causes/random_sets.py",
    "causes/resume.py", "causes/rows.py", "causes/set_rows.py", "causes/shared_heads.py", "causes/stages.py", "causes/table.py", "causes/work.py", "spectra.py",
)  # fmt: skip
"""Files of this package that decide a number, beside those of the probe engine."""
BEHAVIOUR = ("in_context_learning", "repeated_token_gain")
"""Probes whose numbers are metrics of an ablation."""
CROSS_STAGE = (("nca_loss", "own_loss"), ("own_loss", "own_loss"), ("repeated_token_loss", "repeated_token_loss"))
"""A loss before the swap and one after it: do the same heads carry both?"""
TOP_SETS = 12
"""Different sets of top heads that `cost` supposes."""


def causes_of_run(
    run: Run,
    probes_folder: Path | None = None,
    settings: Settings | None = None,
    options: CausesOptions | None = None,
    say: Say = lambda what, share: None,
) -> list[str]:
    """Measure the last checkpoint of a run unless it is up to date; what cannot be measured is kept with the reason. Each part is
    kept when it is done, so that an interrupted measurement goes on where it was.

    Returns what went wrong: a damaged checkpoint, or parts of the measurement that failed (tried again next time).
    """
    step, checkpoint, settings = run.steps[-1], run.last, settings or Settings()
    if problem := _damage(run, quick=True):
        return [f"{checkpoint}: damaged checkpoint, {problem}"]
    inputs = _made_from(run, step, _probe_files(probes_folder), settings)
    made_from = {**inputs, "arguments": (options or CausesOptions()).model_dump(mode="json")}
    frame = _kept(run, step, made_from)
    if frame is None or frame.attrs.get("problems"):
        scores, folder = _measured_scores(run, step, inputs), run.kept("causes", step).with_suffix("")
        try:
            frame = causes(
                checkpoint, probes_folder=probes_folder, scores=scores, parts=folder, made_from=inputs, say=say,
                **_where(run, settings), **made_from["arguments"],
            )  # fmt: skip
        except UserError as error:
            if _damage(run):
                return [str(error)]
            frame = as_table([])
            frame.attrs = {"skipped": [f"not measured: {error}"]}
        keep(run.kept("causes", step), frame, made_from)
    return [f"{checkpoint}: {problem}" for problem in frame.attrs.get("problems", [])]


def _damage(run: Run, quick: bool = False) -> str | None:
    """What is wrong with the files of its last checkpoint; others' checkpoints have no manifest to compare with."""
    if run.config is None and not (run.last / MANIFEST).is_file():
        return None
    return damage(run.last, quick=quick)


def _where(run: Run, settings: Settings) -> dict[str, Any]:
    """How the checkpoint is read."""
    if run.config is not None:
        return {"device": device_type()}
    paths = {name: Path(value) for name in ("tokens", "tokenizer") if (value := getattr(settings, name)) is not None}
    return {"device": settings.device, **paths}


def applies(run: Run) -> bool:
    """Whether a run is of a regime that is compared."""
    return run.role in ("regime", "control")


def measure(run: Run, asked: Asked) -> list[str]:
    """Measure the last checkpoint of a run unless it is up to date."""
    return causes_of_run(run, asked.probes, asked.collection.settings, asked.options, asked.say)


def check(asked: Asked) -> None:
    """UserError for heads or probes that are named and that none of the runs has."""
    from nca_interp.model.checkpoint import load_config

    options, probes = asked.options, scoring_probes(asked.probes)
    if unknown := [name for name in options.probes if name not in probes]:
        raise UserError(f"causes.probes: {unknown[0]!r} names no kind of head{suggest(unknown[0], probes)}")
    shapes = []
    for run in asked.collection.runs:
        with suppress(UserError):  # what is damaged is told where it is measured
            shapes += [shape(load_config(run.last))] if run.steps and applies(run) else []
    if shapes and not any(_fits(options, *one) for one in shapes):
        layers, heads = max(shapes)
        if options.k is not None and options.k > layers * heads:
            raise UserError(f"causes.k: {options.k}; legal: 1 to {layers * heads}, the model's heads")
        raise UserError(f"causes.heads: {','.join(options.heads)}; legal: L0H0 to L{layers - 1}H{heads - 1}")


def _fits(options: CausesOptions, layers: int, heads: int) -> bool:
    """Whether a model of that shape has the heads."""
    there = all(layer < layers and head < heads for layer, head in options.named)
    return there and (options.k is None or options.k <= layers * heads)


def shape(config: Any) -> tuple[int, int]:
    """Layers, and heads of a layer, by a Hugging Face configuration; 1 where it does not say."""
    text = config.get_text_config()
    layers, heads = (getattr(text, name, None) for name in ("num_hidden_layers", "num_attention_heads"))
    return int(layers or 1), int(heads or 1)


def cost(run: Run, options: CausesOptions) -> float:
    """Seconds that it takes, about: passes of the model through its stimuli, from the shape in its configuration."""
    from nca_interp.model.checkpoint import load_config

    if not run.steps:
        return 1.0
    try:
        layers, heads = shape(load_config(run.last))
    except UserError:
        return 1.0
    scope = Scope(options, layers * heads)
    ablated = len(options.named) or (layers * heads if scope.every else 2 * options.checked)
    passes = {
        "attribution": 6, "ablation": ablated / 2, "knock_outs": 1.5 * layers, "top_heads": TOP_SETS * (1 + scope.sets),
        "logit_lens": layers / 2, "patching": layers, "edges": 4,
    }  # fmt: skip
    measured = sum(n * len(scope.stimuli(stage)) for stage, n in passes.items() if scope.has(stage))
    return seconds(run.last, measured * (2**10 if scope.large else 2**12))


def tables(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> dict[str, pd.DataFrame]:
    """Table `causes`, and what is judged of it over seeds; none where nothing was measured."""
    found = causes_table(collection.runs, asked.probes, collection.settings)
    if found.empty:
        return {}
    roles, domains = collection.roles, list(collection.domains)
    margin = collection.study.margin if collection.study is not None else 0.0
    edges = circuit_edges(found, tables["probes"])
    return {
        "causes": found,
        "circuit_edges": edges,
        **load_tables(found, tables["probes"], tables["runs"], roles, domains, margin),
    }


def causes_table(
    runs: Sequence[Run], probes_folder: Path | None = None, settings: Settings | None = None
) -> pd.DataFrame:
    """What is kept of all runs (causes.COLUMNS), and for each that got all its weights from another (rows `cross_stage`)
    whether the heads that carried the other's task carry its own."""
    frames = _all_kept(runs, probes_folder, settings or Settings())
    found = {run_id: frame for run_id, frame in frames.items() if frame is not None and len(frame)}
    crossed = as_table([row for run in runs for row in _cross_stage(run, found)])
    parts = [frame for frame in [*found.values(), crossed] if len(frame)]
    for frame in parts:
        frame.attrs = {}
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else crossed


def outdated(runs: Iterable[Run], probes_folder: Path | None = None) -> list[str]:
    """Runs whose causes were measured with other weights, code, probe files or arguments, and so stand in no table."""
    return [run_id for run_id, frame in _all_kept(runs, probes_folder, Settings()).items() if frame is None]


def _all_kept(runs: Iterable[Run], probes_folder: Path | None, settings: Settings) -> dict[str, pd.DataFrame | None]:
    """By run, the causes of its last checkpoint; None where they are out of date."""
    ends = [(run, run.steps[-1]) for run in runs if run.steps]
    ends = [(run, step) for run, step in ends if run.kept("causes", step).is_file()]
    probes = _probe_files(probes_folder) if ends else {}
    kept = {run.id: _kept_any(run, step, _made_from(run, step, probes, settings)) for run, step in ends}
    return {run.id: _as_of(run, step, kept[run.id]) for run, step in ends}


def _as_of(run: Run, step: int, frame: pd.DataFrame | None) -> pd.DataFrame | None:
    """What is kept of a checkpoint from elsewhere names its directory: as the run that it is called here."""
    if frame is None or run.config is not None:
        return frame
    at: dict[str, Any] = {name: pd.NA if value is None else value for name, value in run.at(step).items()}
    named = frame.assign(**at).astype({name: "Int64" for name in at if name in INTEGERS})
    named.attrs = frame.attrs
    return named


def _cross_stage(run: Run, found: dict[str, pd.DataFrame]) -> Iterator[dict[str, Any]]:
    parent = run.parent
    if run.stage != "pt" or not run.carries_all or parent not in found or run.id not in found:
        return
    assert parent is not None
    before, after = found[parent], found[run.id]
    last = {name: after[name].iloc[0] for name in ("step", "tokens")}
    for metric, by in CROSS_STAGE:
        if metric in set(before["metric"]) and by in set(after["metric"]):
            try:
                load = checkpoint_load(before, after, metric, by)
            except ValueError:  # fewer than three heads
                continue
            yield {
                **run.identity, **last, "probe": "cross_stage", "metric": metric, "by": by, "value": load.rho, "p": load.p,
                "n": load.n, "chance": 0.0, "unit": "Spearman correlation", "at": parent,
            }  # fmt: skip


def _probe_files(folder: Path | None) -> dict[str, dict[str, str]]:
    """Hashes of the probe files that causes come from: of those that score heads, and of those that judge behaviour."""
    return {
        "scores": {name: d.sha256 for name, d in scoring_probes(folder).items()},
        "behaviour": {name: find("probes", name).sha256 for name in BEHAVIOUR},
    }


def _made_from(run: Run, step: int, probes: dict[str, dict[str, str]], settings: Settings) -> dict[str, Any]:
    checkpoint, code = weights_sha256(run.checkpoint(step)), code_hash(CODE)
    return {"checkpoint": checkpoint, "engine": engine_hash(), "code": code, "probes": probes} | settings.decide()


def _measured_scores(run: Run, step: int, made_from: dict[str, Any]) -> Scores | None:
    """Scores that the analysis of the probes kept of the same weights; None unless it has all of them by the same files."""
    header, wanted = read_header(run.kept("probes", step)), made_from["probes"]["scores"]
    if header is None or any(header.get(part) != made_from[part] for part in ("engine", "checkpoint")):
        return None
    if any(header["probes"].get(name) != sha256 or name in header["problems"] for name, sha256 in wanted.items()):
        return None
    frame = read_table(run.kept("probes", step))
    rows: Any = frame[frame["probe"].isin(wanted)].to_dict("records")
    return as_scores(rows)


def _kept(run: Run, step: int, made_from: dict[str, Any]) -> pd.DataFrame | None:
    frame = kept(run.kept("causes", step), made_from, numbers=NUMBERS, integers=INTEGERS)
    return None if frame is None else frame.astype(dict.fromkeys(INTEGERS, "Int64"))


def _kept_any(run: Run, step: int, inputs: dict[str, Any]) -> pd.DataFrame | None:
    """What is kept, with whichever options it was asked for."""
    try:
        arguments = read_object(run.kept("causes", step).with_suffix(".json"), made_from=dict)["made_from"]["arguments"]
    except (UserError, KeyError):
        return None
    return _kept(run, step, {**inputs, "arguments": arguments})
