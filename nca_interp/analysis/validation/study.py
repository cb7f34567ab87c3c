"""Loss of every checkpoint from elsewhere on one text, and the contrasts of a study on them: regimes over shared seeds.

The statistics are those of a study (analysis/verdicts: paired t and Holm over all comparisons, error of the finite text
included). What a study has and these have not is a plan that was kept before the first result: every verdict says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from nca_interp.analysis.attention.forward import forward, slices
from nca_interp.analysis.cache import code_hash, keep, kept
from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import CHECKPOINT, IDENTITY, Run
from nca_interp.analysis.probing.engine import engine_hash
from nca_interp.analysis.probing.opened import open_last
from nca_interp.analysis.stimuli.base import Batch, NotApplicable
from nca_interp.analysis.stimuli.source import unchanged, weights_sha256
from nca_interp.analysis.stimuli.subject import describe
from nca_interp.analysis.verdicts.contrasts import Key, Values, contrast_tables
from nca_interp.analysis.verdicts.plan import Contrast, planned
from nca_interp.base import Frozen, digest
from nca_interp.measurement import Asked, Shown
from nca_interp.model.checkpoint import load_config, read_provenance
from nca_interp.readers import read_object

CODE = ("validation/study.py",)
"""Files of this package that decide a number, beside those of the probe engine."""
LOSSES = [*CHECKPOINT, "val_loss", "targets", "rows", "text", "rows_sha256"]
EXPLORATORY = "exploratory"
NO_PLAN = " No plan was fixed before these results: the verdict is exploration."


class Options(Frozen):
    """Options of the validation loss."""

    rows: int = Field(default=64, ge=2, le=100_000)
    """Rows of the text, the first ones; each is a document of its own, so that its spread counts as error."""
    margin: float = Field(default=0.01, gt=0)
    """Difference in nats a token below which regimes count as equivalent."""


def applies(run: Run) -> bool:
    """Whether a run comes from elsewhere; a study's runs have the losses of their own training."""
    return run.config is None and run.stage != "ft"


def measure(run: Run, asked: Asked) -> list[str]:
    """Loss of each row of the text at every checkpoint of a run, unless that is up to date."""
    for number, step in enumerate(run.steps):
        asked.say(f"checkpoint {number + 1} of {len(run.steps)}", number / len(run.steps))
        directory, path = run.checkpoint(step), run.kept("val-loss", step)
        made_from = _weights(directory) | asked.options.model_dump(mode="json") | asked.collection.settings.decide()
        if kept(path, made_from, numbers=["nll"], integers=["targets"]) is None:
            frame = _losses(directory, asked)
            frame.attrs["margin"] = asked.options.margin
            keep(path, frame, made_from)
    return []


def _losses(directory: Path, asked: Asked) -> pd.DataFrame:
    settings = asked.collection.settings
    tokens, tokenizer = (Path(p) if p else None for p in (settings.tokens, settings.tokenizer))
    told: dict[Any, Any] = {"text": "", "rows_sha256": "", "note": ""}
    nll, targets = np.zeros(0), np.zeros(0, dtype=np.int64)
    try:
        subject = describe(directory, load_config(directory), read_provenance(directory), tokens, tokenizer)
        if subject.rows is None:
            raise NotApplicable(f"{directory} has no text in its tokens; give --tokens or --tokenizer")
        rows = np.asarray(subject.rows[: asked.options.rows], dtype=np.int64)
        told |= {"text": subject.rows_from, "rows_sha256": digest([rows.shape, rows.tolist(), subject.vocab_size])}
        with unchanged(directory):
            model = open_last(directory, settings.device, settings.dtype)
        parts = slices(Batch(rows[:, :-1], rows[:, 1:]))
        found = np.concatenate([forward(model, part, None, True, (), {}).double().numpy() for part in parts])
        nll, targets = found.sum(1), np.full(len(rows), rows.shape[1] - 1)
    except NotApplicable as reason:
        told["note"] = str(reason)
    frame = pd.DataFrame({"nll": nll, "targets": targets})
    frame.attrs = told
    return frame


def _weights(directory: Path) -> dict[str, Any]:
    return {"checkpoint": weights_sha256(directory), "engine": engine_hash(), "code": code_hash(CODE)}


def _kept(run: Run, step: int) -> pd.DataFrame | None:
    path = run.kept("val-loss", step)
    if not path.is_file():
        return None
    said = read_object(path.with_suffix(".json"), made_from=dict)["made_from"]
    if any(said.get(name) != value for name, value in _weights(run.checkpoint(step)).items()):
        return None
    return kept(path, said, numbers=["nll"], integers=["targets"])


def tables(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> dict[str, pd.DataFrame]:
    """`val_losses`, `val_loss_notes`, and where regimes share seeds `contrasts`, `pairs` and `pooled` of the last checkpoints."""
    losses: list[dict[str, Any]] = []
    notes: list[tuple[str, str]] = []
    ends: dict[str, pd.DataFrame] = {}
    if collection.study is not None:
        return {}
    for run in collection.runs:
        for step in run.steps:
            frame = _kept(run, step)
            if frame is None:
                continue
            said: Any = frame.attrs
            if said["note"]:
                notes.append((run.id, said["note"]))
                continue
            value = float(frame.nll.to_numpy().sum() / frame.targets.sum())
            losses.append({
                **run.at(step), "val_loss": value, "targets": int(frame.targets.sum()), "rows": len(frame),
                "text": said["text"], "rows_sha256": said["rows_sha256"],
            })  # fmt: skip
            if step == run.steps[-1]:
                ends[run.id] = frame
    if not losses and not notes:
        return {}
    found = {"val_losses": pd.DataFrame(losses, columns=LOSSES)}
    compared, said_of = _comparable(collection, ends)
    found |= contrasts(collection, compared)
    return found | {"val_loss_notes": pd.DataFrame([*notes, *said_of], columns=["run", "note"]).drop_duplicates()}


def _comparable(
    collection: Collection, ends: dict[str, pd.DataFrame]
) -> tuple[dict[str, pd.DataFrame], list[tuple[str, str]]]:
    """Of the last checkpoints those with a seed, on the rows that the first of them has; and why others are left out."""
    seeded = {run.id: ends[run.id] for run in collection.runs if run.id in ends and run.seed is not None}
    first: Any = next(iter(seeded.values())).attrs["rows_sha256"] if seeded else None
    same = {run: frame for run, frame in seeded.items() if frame.attrs["rows_sha256"] == first}
    other = "in no contrast: its tokens differ from those of the first run (another tokenizer or text)"
    return same, [(run, other) for run in seeded if run not in same]


def contrasts(collection: Collection, ends: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables of a study's contrasts, every verdict marked as exploration; empty where no two regimes share a seed."""
    runs = [run for run in collection.runs if run.id in ends]
    rows, items, lost = [], {}, {}
    for run in runs:
        key: Key = (run.regime, run.domain, int(run.seed or 0))
        frame = ends[run.id]
        value = float(frame.nll.to_numpy().sum() / frame.targets.sum())
        if not np.isfinite(value):
            lost[key] = run.id
            continue
        rows.append({**run.identity, "value": value})
        items[key] = (frame.nll.to_numpy(float), frame.targets.to_numpy(float))
    margin: Any = next(iter(ends.values())).attrs["margin"] if ends else 0.01
    values = Values(pd.DataFrame(rows, columns=[*IDENTITY, "value"]), "val_loss", margin, items=items, lost=lost)
    domains = {run.domain: collection.domains.get(run.domain) or "the given text" for run in runs}
    plan = list(_plan(collection.roles, domains, {*items, *lost}, margin))
    made = contrast_tables(collection.roles, domains, values, None, plan)
    judged = made["contrasts"]
    if len(judged):
        judged["verdict"] = [f"{verdict} ({EXPLORATORY})" if verdict else verdict for verdict in judged.verdict]
        judged["sentence"] = judged.sentence + NO_PLAN
    return made


def _plan(roles: dict[str, str], domains: dict[str, str], there: set[Key], margin: float) -> Iterator[Contrast]:
    """The comparisons that a study with these regimes would plan, on the seeds that both have, lost ones included."""
    for domain in domains:
        for item in planned(roles):
            seeds = [{s for regime, d, s in there if (regime, d) == (name, domain)} for name in item[1:]]
            if common := tuple(sorted(set.intersection(*seeds))):
                yield Contrast(item.family, domain, "val_loss", item.treated, item.control, common, margin)


def summary(collection: Collection, tables: dict[str, pd.DataFrame]) -> Iterator[Shown | str]:
    """Loss of each last checkpoint, and the contrasts in words."""
    if "val_losses" not in tables or not len(tables["val_losses"]):
        return
    rows = tables["val_losses"]
    last = rows[rows.step == rows.groupby("run").step.transform("max")]
    body = [[str(r.run), str(r.regime), f"{r.val_loss:.4f}", f"{r.targets:,}"] for r in last.itertuples()]
    yield Shown(f"loss on {last.text.iloc[0]}", ["run", "regime", "nats a token", "targets"], body, ("regime",))
    if "contrasts" in tables:
        yield from (str(text) for text in tables["contrasts"].sentence)
