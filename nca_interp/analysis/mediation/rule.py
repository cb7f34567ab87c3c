"""Which heads a rule means: decided at the end of a pre-pre-training, once, and kept beside it for the trainings that need it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nca_interp.analysis.causes.rows import top_heads
from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.dynamics.emergence import level_of
from nca_interp.analysis.mediation.sets import Head, matched_sets
from nca_interp.analysis.probing.engine import choose, engine_hash
from nca_interp.analysis.probing.measure import Measured, Measurer, open_scored
from nca_interp.analysis.probing.null import PERCENTILE, random_models
from nca_interp.analysis.probing.null_study import MODELS
from nca_interp.analysis.stimuli.source import weights_sha256
from nca_interp.base import RunFailed
from nca_interp.config import Study
from nca_interp.files import held, write_record
from nca_interp.graft import rule_of
from nca_interp.head_rule import HeadRule
from nca_interp.machine import device_type
from nca_interp.measurement import Asked
from nca_interp.readers import read_object

MEND = "delete it, and it is decided anew before the runs that need it"


class Scores(NamedTuple):
    """What a rule decides by."""

    of_head: dict[Head, float]
    chance: float | None
    """Of uniform attention; mean over layers."""
    level: float
    """Above it a head counts as one of the kind (docs/emergence.md); NaN where the probe does not apply."""
    threshold: float
    """The probe's own."""
    maxima: list[float]
    """Highest score of each of the random models."""
    skipped: str = ""
    """Why the probe does not apply."""


def applies(run: Run) -> bool:
    """Whether a run is a pre-pre-training of ours."""
    return run.config is not None and run.stage == "ppt"


def rules_of(study: Study, run: Run) -> list[HeadRule]:
    """The rules of the arms that start from a pre-pre-training, each once, random sets counted as the rule that they belong to."""
    first = study.regime(run.regime)
    found = (
        rule_of(r.graft) for r in study.regimes if r.source == first.source and study.ppt_of(r) == study.ppt_of(first)
    )
    return list(dict.fromkeys(rule.itself for rule in found if rule is not None))


def measure(run: Run, asked: Asked) -> list[str]:
    """Decide every rule that needs this pre-pre-training, unless that was done for the same weights."""
    collection, folder = asked.collection, asked.collection.folder
    if collection.study is None:
        return []
    for rule in rules_of(collection.study, run):
        path = folder / rule.file.replace("{parent}", run.id)
        with held(path.with_suffix(".lock"), f"{path}: another process is deciding this rule".__str__):
            if not decided(path, run):
                decide(folder, run, rule, asked.probes)
    return []


def decided(path: Path, run: Run) -> bool:
    """Whether a rule has been decided for the weights that the run has now. UserError where its record is damaged."""
    if not path.is_file():
        return False
    return bool(read_object(path, MEND, checkpoint=str)["checkpoint"] == weights_sha256(run.last))


def decide(folder: Path, run: Run, rule: HeadRule, probes_folder: Path | None = None) -> dict[str, Any]:
    """Measure the probes on the last checkpoint and on random models, choose, draw the matched sets, and write all of it, the record
    of the rule itself last. Returns that record. RunFailed where a probe fails."""
    assert run.config is not None
    scores, made_by = score(run, rule, probes_folder)
    found = {name: chosen(rule, name, one, run.id) for name, one in scores.items()}
    lacking = [one.sentence for one in found.values() if not one.heads]
    heads = [] if lacking else list(dict.fromkeys(head for one in found.values() for head in one.heads))
    sentence = "; ".join(lacking or [one.sentence for one in found.values()])
    sets = matched_sets(heads, run.config.model.n_heads, rule.sets)
    few = f"the layers of the {len(heads)} head(s) of {run.id} hold {len(sets)} other set(s)" if heads else sentence
    for number in range(1, rule.sets + 1):
        one = rule.model_copy(update={"random": number})
        own = sorted(sets[number - 1]) if number <= len(sets) else []
        said = {"heads": own, "of": rule.key, "sentence": "" if own else few}
        write_record(folder / one.file.replace("{parent}", run.id), said)
    record = {
        "heads": heads, "sentence": sentence, "rule": rule.model_dump(mode="json"), "words": rule.words(), "run": run.id,
        "step": run.steps[-1], "checkpoint": weights_sha256(run.last), "random": [sorted(s) for s in sets], "made_by": made_by,
        "kinds": {name: _kind(scores[name], one) for name, one in found.items()},
    }  # fmt: skip
    write_record(folder / rule.file.replace("{parent}", run.id), record)
    return record


def _kind(scores: Scores, found: Chosen) -> dict[str, Any]:
    """What a record says of one probe."""
    return {
        "heads": found.heads, "sentence": found.sentence, "level": _known(scores.level), "threshold": _known(scores.threshold),
        "chance": scores.chance, "maxima": scores.maxima, "above": sum(v > scores.level for v in scores.of_head.values()),
        "below": [head for head in found.heads if not scores.of_head[head] > scores.level],
        "scores": [[*head, value] for head, value in sorted(scores.of_head.items())],
    }  # fmt: skip


class Chosen(NamedTuple):
    """The heads of one probe, best first, and the sentence about them."""

    heads: list[Head]
    sentence: str


def chosen(rule: HeadRule, probe: str, scores: Scores, run: str) -> Chosen:
    """The heads of a rule by one of its probes; none where none is above the level, or the probe does not apply, unless the rule
    says otherwise."""
    if scores.skipped:
        return Chosen([], f"the probe {probe} does not apply to {run}: {scores.skipped}")
    able = {head: v for head, v in scores.of_head.items() if rule.layers is None or head[0] in rule.layers}
    size = rule.size(len(scores.of_head))
    above = {head: v for head, v in able.items() if v > scores.level}
    best = max(able.values(), default=math.nan)
    told = f"the highest score by {probe} in {run} is {best:.3f}, the level that random models do not reach {scores.level:.3f}"
    if rule.otherwise == "top":
        heads = top_heads(able, size)
        marked = sum(head not in above for head in heads)
        return Chosen(
            heads, f"{marked} of {len(heads)} head(s) taken though not above the level: {told}" if marked else told
        )
    if not above:
        return Chosen([], f"no head is of the kind: {told}")
    return Chosen(top_heads(above, min(size, len(above))), told)


def score(run: Run, rule: HeadRule, probes_folder: Path | None = None) -> tuple[dict[str, Scores], dict[str, Any]]:
    """By probe, scores of every head at the last checkpoint of a run and the highest of random models of its configuration; and what
    decided them."""
    from nca_interp.analysis.stimuli.subject import describe
    from nca_interp.model.checkpoint import read_provenance

    definitions, _ = choose(list(rule.probes), probes_folder)
    measurer, directory = Measurer(definitions), run.last
    model = open_scored(directory, device_type())
    subject = describe(directory, model.config, read_provenance(directory))
    measured = _sound(measurer.measure(model, subject))
    drawn = random_models(model.config, MODELS, model.dtype, model.device)
    null = [_sound(measurer.only(set(rule.probes) - set(measured.skipped)).measure(one, subject)) for one in drawn]
    made_by = {
        "probes": {name: one.sha256 for name, one in definitions.items()}, "engine": engine_hash(), "models": MODELS,
    }  # fmt: skip
    return {name: _scores(measurer, name, measured, null) for name in rule.probes}, made_by


def _scores(measurer: Measurer, probe: str, measured: Measured, null: list[Measured]) -> Scores:
    if why := measured.skipped.get(probe):
        return Scores({}, None, math.nan, math.nan, [], why)
    own, threshold = [row for row in measured.rows if row["probe"] == probe], measurer.probes[probe].hit
    drawn = [[row["value"] for row in one.rows if row["probe"] == probe] for one in null]
    maxima = [max(values) for values in drawn]
    assert threshold is not None
    rows = pd.DataFrame({"null_95": [float(np.percentile(np.concatenate(drawn), PERCENTILE))]})
    chances = [row["chance"] for row in own if row["chance"] is not None]
    return Scores(
        {(row["layer"], row["head"]): row["value"] for row in own}, float(np.mean(chances)) if chances else None,
        level_of(rows.null_95.to_numpy(float), threshold, np.array(maxima), np.array(chances)), float(threshold), maxima,
    )  # fmt: skip


def _sound(measured: Measured) -> Measured:
    """RunFailed where a probe went wrong."""
    for problem in measured.problems.values():
        raise RunFailed(problem)
    return measured


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
