"""The probes of a collection as measurements: jobs, tables, and the files that a viewer takes."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Iterator
from typing import Any

import pandas as pd
from pydantic import Field

from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.probing.cache import read_header
from nca_interp.analysis.probing.engine import analyze_run, choose
from nca_interp.analysis.probing.exhibited import keep_exhibits, write_patterns
from nca_interp.analysis.probing.null_study import MODELS, enough, null_key, null_of_run, probe_tables
from nca_interp.analysis.probing.summary import WIDTH, columns, summarise, units
from nca_interp.analysis.stimuli.size import seconds
from nca_interp.base import Frozen, UserError
from nca_interp.measurement import Asked, Shown
from nca_interp.store import write_json

TOKENS, TOKENS_RANDOM = 4e4, 4e3
"""Tokens of all stimuli, about, what probes compute of them included; of a random model of a large shape."""
SUMMARISED = 2
"""Runs whose probes are printed."""


class ProbeOptions(Frozen):
    """Options of the probes."""

    names: tuple[str, ...] = ()
    """Only these; empty: all that are found."""


class NullOptions(Frozen):
    """Options of the null."""

    models: int | None = Field(default=None, ge=0, le=100)
    """Randomly initialised models of each architecture and token source; null: 5 in a study, elsewhere enough for 200 heads."""


def measure_probes(run: Run, asked: Asked) -> list[str]:
    """Every probe on every checkpoint of a run that is not up to date; then what a report shows of its heads, while a model from elsewhere is still open."""
    steps = len(run.steps)

    def told(share: float) -> None:
        asked.say(f"checkpoint {min(steps, int(share * steps) + 1)} of {steps}", share)

    settings = asked.collection.settings
    names = list(asked.options.names) or None
    problems = analyze_run(run, probes=names, probes_folder=asked.probes, settings=settings, tell=told).problems
    try:
        keep_exhibits(asked.collection, run)
    except UserError as error:
        problems.append(str(error))
    return problems


def measure_null(run: Run, asked: Asked) -> list[str]:
    """What randomly initialised models of a run's architecture score."""
    models = asked.options.models
    if models == 0 or asked.collection.settings.fast:
        return []
    return null_of_run(
        asked.collection, run, MODELS if models is None and run.config is not None else models, asked.probes, asked.say
    )


def cost(run: Run, options: ProbeOptions) -> float:
    """Seconds that the probes of a run take, about."""
    return sum(seconds(run.checkpoint(step), TOKENS) for step in run.steps) or 1.0


def null_cost(run: Run, options: NullOptions) -> float:
    """Seconds that its random models take, about."""
    if not run.steps:
        return 1.0
    models = options.models if options.models is not None else (MODELS if run.config is not None else enough(run.last))
    return models * seconds(run.last, TOKENS_RANDOM)


def shares_null(run: Run) -> Hashable:
    """Runs of one architecture and one token source share their null."""
    if run.config is not None:
        return run.config.tokens, run.config.config.vocab_rows
    return null_key(run, None) if run.steps else run.id


def tables(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> dict[str, pd.DataFrame]:
    """Tables `probes`, `hits` and `stimuli`."""
    return probe_tables(collection)


def files(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> None:
    """probes.json, patterns.npz and patterns.json."""
    measured = set(tables["probes"].probe.unique())
    definitions, _ = choose(None, asked.probes)
    docs: list[Any] = [d.value.describe() for name, d in definitions.items() if name in measured]
    write_json(collection.dir.tables / "probes.json", docs)
    write_patterns(collection, tables["probes"])


def summary(collection: Collection, tables: dict[str, pd.DataFrame]) -> Iterator[Shown | str]:
    """Of the last checkpoint of each run, the largest score of each probe."""
    if collection.study is not None:
        return
    probes = tables["probes"]
    for run in collection.runs[:SUMMARISED]:
        rows = probes[(probes.run == run.id) & (probes.step == run.steps[-1])]
        yield Shown(f"{run.label}: largest score of each probe, at layer.head", *columns(summarise(rows)))
        yield from units(rows)
        header = read_header(run.kept("probes", run.steps[-1])) or {}
        if told := header.get("tokens"):
            yield textwrap.fill(told["sentence"], WIDTH, break_long_words=False, break_on_hyphens=False)
        null = read_header(collection.dir.null(null_key(run, collection.settings))) or {}
        if "shown" in null:
            yield f"random models: {null['models']}, in {null['dtype']}, at most {null['shown']:,} tokens of a stimulus"
        reasons: dict[str, list[str]] = {}
        for name, reason in header.get("skipped", {}).items():
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            yield textwrap.fill(f"skipped: {', '.join(names)}: {reason}", WIDTH, break_long_words=False)
    if len(collection.runs) > SUMMARISED:
        yield f"and {len(collection.runs) - SUMMARISED} more: {collection.dir.table('probes')}"
