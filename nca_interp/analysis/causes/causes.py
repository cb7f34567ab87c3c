"""Which heads matter: ablations, matched random sets, cross-task load, lens, patching and circuits of one checkpoint, as a table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from nca_interp.analysis.causes.composition import not_computed
from nca_interp.analysis.causes.effects import tasks_for
from nca_interp.analysis.causes.options import CausesOptions, Scope
from nca_interp.analysis.causes.parts import Kept, Say
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.causes.rows import Scores
from nca_interp.analysis.causes.stages import Found, Stages
from nca_interp.analysis.causes.table import Row, as_table
from nca_interp.analysis.collection.run import CHECKPOINT
from nca_interp.analysis.stimuli.base import NotApplicable, account
from nca_interp.base import UserError
from nca_interp.config import suggest
from nca_interp.discover import Definition, load
from nca_interp.overrides import parse


def causes(
    checkpoint: Path | str,
    *,
    tokens: Path | str | None = None,
    tokenizer: Path | str | None = None,
    probes_folder: Path | str | None = None,
    device: str = "cpu",
    scores: Scores | None = None,
    parts: Path | None = None,
    made_from: dict[str, Any] | None = None,
    say: Say = lambda what, share: None,
    **options: Any,
) -> pd.DataFrame:
    """Table of every causal measure of one checkpoint: COLUMNS, documented in docs/causes.md.

    `options`: fields of `CausesOptions` (how, k, sets, metric, heads, stages ...). `scores`: those of `scoring_probes` where they were
    measured for these weights before. `parts`: folder where each part is kept when it is done, and read from where `made_from`
    (hashes of weights, code and probe files) is the same. `say(what, share)` is called now and then. `attrs`: "skipped", what does
    not apply to this model and why; "problems", stages that failed (the others are there); "provenance". Raises UserError for a
    checkpoint that cannot be opened or changes while it is read, a model whose layers have no known names or that takes no
    stimulus, and options out of range.
    """
    from nca_interp.analysis.probing.opened import open_last
    from nca_interp.analysis.stimuli.source import Source, unchanged
    from nca_interp.analysis.stimuli.subject import describe
    from nca_interp.machine import package_versions
    from nca_interp.model.checkpoint import read_provenance

    asked = parse(CausesOptions, options)
    source = Source.find(checkpoint)
    with unchanged(source.directory):
        say("opening the model", 0.0)
        model = open_last(source.directory, device)
        provenance = read_provenance(source.directory)
        subject = describe(source.directory, model.config, provenance, _path(tokens), _path(tokenizer))
        try:
            found = _found(model, subject, scores, _path(probes_folder), asked, Kept(parts, made_from or {}, say), say)
        except NotApplicable as reason:
            raise UserError(f"{checkpoint}: {reason}") from None
    identity = {key: provenance.get(key) for key in CHECKPOINT}
    identity["run"] = identity["run"] or source.directory.resolve().name
    frame = as_table([{**identity, **row} for row in found.rows])
    frame.attrs = {
        "skipped": [f"{name}: {reason}" for name, reason in found.skipped.items()],
        "problems": found.problems,
        "provenance": {
            "checkpoint": str(checkpoint), "checkpoint_sha256": source.sha256(), **asked.model_dump(mode="json"),
            "tokens": account(subject), "device": device, "versions": package_versions(),
        },
    }  # fmt: skip
    return frame


def _found(
    model: Any, subject: Any, scores: Scores | None, probes: Path | None, options: CausesOptions, kept: Kept, say: Say
) -> Found:
    """Rows, what does not apply and why, what failed."""
    trunk = Trunk(model)
    _check(options, trunk)
    wanted = Scope(options, trunk.n_layers * trunk.n_heads).stimuli()
    tasks, skipped = tasks_for(subject, wanted)
    if not tasks:
        raise NotApplicable(f"nothing to measure effects on: {'; '.join(f'{n}: {why}' for n, why in skipped.items())}")
    if scores is None:
        say("scores of the heads", 0.0)
        scores = _measure_scores(model, subject, scoring_probes(probes))
    if unknown := [name for name in options.probes if name not in scores]:
        raise UserError(f"probes: {unknown[0]!r} names no kind of head{suggest(unknown[0], scores)}")
    found = Stages(trunk, tasks, scores, options).measure(kept, say)
    skipped |= found.skipped
    if not found.rows and not found.problems:
        raise NotApplicable("; ".join(dict.fromkeys(skipped.values())) or "nothing of it was asked for")
    return Found(found.rows, skipped | not_computed(found.rows), found.problems)


def _check(options: CausesOptions, trunk: Trunk) -> None:
    n = trunk.n_layers * trunk.n_heads
    if options.k is not None and options.k > n:
        raise UserError(f"k: {options.k}; legal: 1 to {n}, the model's heads")
    for layer, head in options.named:
        if layer >= trunk.n_layers or head >= trunk.n_heads:
            legal = f"L0H0 to L{trunk.n_layers - 1}H{trunk.n_heads - 1}"
            raise UserError(f"heads: L{layer}H{head}; legal: {legal}")


def scoring_probes(folder: Path | None = None) -> dict[str, Definition]:
    """The probes that name a kind of head, by name: what top heads are the best of. Files that do not load are left out."""
    found = load("probes", folder, lambda problem: None)
    return {
        n: d for n, d in sorted(found.items()) if d.value.hit is not None and d.value.reads in ("attention", "heads")
    }


def _measure_scores(model: Any, subject: Any, probes: dict[str, Definition]) -> Scores:
    from nca_interp.analysis.probing.measure import Measurer

    return as_scores(Measurer(probes).measure(model, subject).rows)


def as_scores(rows: Iterable[Row]) -> Scores:
    """Rows of a probes table by probe and head."""
    scores: Scores = {}
    for row in rows:
        scores.setdefault(row["probe"], {})[row["layer"], row["head"]] = row["value"]
    return scores


def _path(value: Path | str | None) -> Path | None:
    return None if value is None else Path(value)
