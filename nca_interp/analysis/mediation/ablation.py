"""The heads of each rule ablated together at the end of language, against random sets of the same layers: cheap, so many of them."""

from __future__ import annotations

from typing import Any

import pandas as pd
from pydantic import Field

from nca_interp.analysis.cache import code_hash, keep, kept
from nca_interp.analysis.causes.ablation import ablate_sets
from nca_interp.analysis.causes.effects import Task, score, tasks_for
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.collection.series import Series
from nca_interp.analysis.mediation.arms import grafted_arms
from nca_interp.analysis.mediation.records import heads_of
from nca_interp.analysis.mediation.sets import Head, matched_sets
from nca_interp.analysis.stimuli.base import NotApplicable
from nca_interp.analysis.stimuli.source import weights_sha256
from nca_interp.analysis.stimuli.subject import describe
from nca_interp.base import Frozen
from nca_interp.head_rule import HeadRule
from nca_interp.measurement import Asked

NAME = "mediation"
COLUMNS = ["rule", "number", "metric", "value", "worse"]
"""rule: key, empty for the model as it is; number: 0 the chosen heads, from 1 the random sets; value: of the metric where `rule` is
empty, else its change; worse: 1 where a damaged model's value rises, -1 where it falls."""
CODE = (
    "mediation/ablation.py", "mediation/sets.py", "causes/ablation.py", "causes/effects.py", "causes/random_sets.py", "causes/resume.py",
)  # fmt: skip
"""Files that decide a number."""
STIMULI = ("natural", "repeated_tokens")


class MediationOptions(Frozen):
    """Options of the ablation."""

    sets: int = Field(default=24, ge=1, le=1000)
    """Random sets of the same layers beside the heads of a rule, where there are so many."""


def applies(run: Run) -> bool:
    """Whether a run of ours may be full transfer or scratch in language."""
    return run.config is not None and run.stage == "pt" and run.role in ("regime", "control", "swap")


def measure(run: Run, asked: Asked) -> list[str]:
    """Ablate the heads of every rule at the last checkpoint of a run that the study's mediation arms are compared with."""
    collection: Collection = asked.collection
    if kept_rows(run, collection, asked.options) is not None or not run.steps:
        return []
    if (rules := rules_at(collection, run)) is None:
        return []
    step = run.steps[-1]
    frame = pd.DataFrame(columns=COLUMNS)
    try:
        model = Series(run).open(step)
        frame = pd.DataFrame(_rows(model, run, step, rules, asked.options.sets), columns=COLUMNS)
    except NotApplicable as reason:
        frame.attrs = {"skipped": str(reason)}
    keep(run.kept(NAME, step), frame, made_from(run, rules, asked.options))
    return []


def rules_at(collection: Collection, run: Run) -> dict[str, list[Head]] | None:
    """The rules that the arms of a run's regime follow, with their heads; none for scratch, which is only the other end of the gain;
    None where no arm is compared with it."""
    if collection.study is None:
        return None
    arms = grafted_arms(collection.study)
    if run.regime in {one.scratch for one in arms}:
        return {}
    rules: dict[str, HeadRule] = {one.rule.key: one.rule for one in arms if one.full == run.regime}
    return {key: heads_of(collection, run, rule) for key, rule in rules.items()} if rules else None


def _rows(model: Any, run: Run, step: int, rules: dict[str, list[Head]], n: int) -> list[tuple[Any, ...]]:
    from nca_interp.model.checkpoint import read_provenance

    trunk, directory = Trunk(model), run.checkpoint(step)
    subject = describe(directory, model.config, read_provenance(directory))
    rows: list[tuple[Any, ...]] = []
    chosen = {key: (frozenset(h), *matched_sets(h, trunk.n_heads, n)) for key, h in rules.items() if h}
    for task in tasks_for(subject, STIMULI)[0]:
        rows += _plain(trunk, task)
        if not chosen:
            continue
        found = ablate_sets(trunk, task, [one for sets in chosen.values() for one in sets])
        for key, sets in chosen.items():
            rows += [
                (key, number, name, float(found[one][name].mean()), metric.harm)
                for number, one in enumerate(sets) for name, metric in task.metrics.items()
            ]  # fmt: skip
    return rows


def _plain(trunk: Trunk, task: Task) -> list[tuple[Any, ...]]:
    """Every metric of the model as it is."""
    sums: dict[str, list[float]] = {}
    for part in task.slices():
        passage = trunk.passage(part.tokens(trunk.model.device))
        for name, values in score(trunk, passage, passage.residuals[-1], part).items():
            sums.setdefault(name, []).extend(values.tolist())
    return [("", 0, name, sum(values) / len(values), task.metrics[name].harm) for name, values in sums.items()]


def made_from(run: Run, rules: dict[str, list[Head]], options: MediationOptions | None) -> dict[str, Any]:
    """What the rows of a run are made from."""
    heads = {key: [list(head) for head in sorted(own)] for key, own in rules.items()}
    return {
        "checkpoint": weights_sha256(run.last), "code": code_hash(CODE), "rules": heads,
        "sets": (options or MediationOptions()).sets,
    }  # fmt: skip


def kept_rows(run: Run, collection: Collection, options: MediationOptions | None) -> pd.DataFrame | None:
    """Rows (COLUMNS) of a run; None where they are not up to date. Without options those that they were made with."""
    if not run.steps or (rules := rules_at(collection, run)) is None:
        return None
    path = run.kept(NAME, run.steps[-1])
    if options is None:
        options = MediationOptions(sets=_sets(path))
    return kept(path, made_from(run, rules, options), numbers=("value",), integers=("number", "worse"))


def _sets(path: Any) -> int:
    from nca_interp.base import UserError
    from nca_interp.readers import read_object

    try:
        return int(read_object(path.with_suffix(".json"), made_from=dict)["made_from"]["sets"])
    except (UserError, KeyError, OSError):
        return MediationOptions().sets
