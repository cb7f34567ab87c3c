"""Retrieval over the checkpoints of a run: measured once and kept sequence by sequence."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.cache import code_hash, keep, kept
from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.collection.series import Series
from nca_interp.analysis.probing.opened import open_last
from nca_interp.analysis.retrieval.lists import Lists, all_lists
from nca_interp.analysis.retrieval.losses import (
    LISTS,
    PROFILE,
    Classes,
    frequency_classes,
    list_losses,
    profile,
    training_counts,
)
from nca_interp.analysis.retrieval.options import RetrievalOptions
from nca_interp.analysis.stimuli.base import NotApplicable, Subject, rows_batch
from nca_interp.analysis.stimuli.size import seconds
from nca_interp.analysis.stimuli.source import weights_sha256
from nca_interp.analysis.stimuli.subject import LONGEST, describe
from nca_interp.base import UserError
from nca_interp.measurement import Asked
from nca_interp.readers import read_object
from nca_interp.store import MANIFEST, damage

NAME, BESIDE = "retrieval", "loss_profile"
"""Folders of the kept rows: of lists, and of validation rows."""
CODE = (
    "retrieval/lists.py", "retrieval/losses.py", "retrieval/nouns.py", "retrieval/study.py", "attention/losses.py",
    "stimuli/base.py", "stimuli/subject.py", "stimuli/text.py", "stimuli/vocabulary.py",
)  # fmt: skip
"""Files that decide a number."""
NUMBERS, INTEGERS = ("first", "second", "control"), ("length", "distance", "item", "sequence")
PROFILE_NUMBERS, PROFILE_INTEGERS = ("low_edge", "high_edge", "value"), ("bin", "sequence", "targets")


def measure(run: Run, asked: Asked) -> list[str]:
    """Measure each checkpoint of a run unless it is up to date; a damaged one is a problem of the run, the others are measured."""
    missing = [step for step in run.steps if _kept_both(run, step, asked) is None]
    settings = asked.collection.settings
    load = None if run.config is not None else partial(open_last, device=settings.device, dtype=settings.dtype)
    series, shown, problems = Series(run, settings, load), _Stimuli(run, asked), []
    for index, step in enumerate(missing):
        try:
            if problem := _damage(run, step):
                raise UserError(f"{run.checkpoint(step)}: damaged checkpoint, {problem}")
            model = series.open(step)
            lists, skipped, rows = shown.of(step, model)
            frame = list_losses(model, lists)[LISTS]
            frame.attrs = {"skipped": skipped}
            beside = pd.DataFrame(columns=PROFILE) if rows is None else profile(model, rows, shown.first, shown.classes)
        except UserError as error:
            problems.append(str(error))
            continue
        keep(run.kept(NAME, step), frame, made_from(run, step, asked))
        keep(run.kept(BESIDE, step), beside, made_from(run, step, asked))
        asked.say(f"checkpoint {index + 1} of {len(missing)}", (index + 1) / len(missing))
    return problems


class _Stimuli:
    """What the checkpoints of a run are shown: the same to all of one configuration."""

    def __init__(self, run: Run, asked: Asked) -> None:
        self._run, self._settings = run, asked.collection.settings
        options: RetrievalOptions = asked.options
        fewer = {"sequences": max(2, options.sequences // 4), "rows": max(2, options.rows // 4)}
        self._options = options.model_copy(update=fewer) if self._settings.fast else options
        self._known: dict[Any, tuple[list[Lists], list[str], np.ndarray | None]] = {}
        meta = run.trained.meta if run.trained is not None else None
        self.first = 1 if meta is None else meta.unsupervised_prefix
        """Place of the first target of a row."""
        self.classes = self._classes(asked.collection)

    def of(self, step: int, model: Any) -> tuple[list[Lists], list[str], np.ndarray | None]:
        """Lists, why some are not shown, and rows [row, position] of the loss by position, or None."""
        key = None if self._run.config is not None else step  # checkpoints of ours differ in their weights alone
        if key not in self._known:
            subject = self._subject(step, model)
            self._known[key] = (*all_lists(subject, self._options), self._rows(subject))
        return self._known[key]

    def _subject(self, step: int, model: Any) -> Subject:
        from nca_interp.model.checkpoint import read_provenance

        directory = self._run.checkpoint(step)
        tokens, tokenizer = (Path(p) if p else None for p in (self._settings.tokens, self._settings.tokenizer))
        subject = describe(directory, model.config, read_provenance(directory), tokens, tokenizer)
        return replace(subject, fast=self._settings.fast)

    def _rows(self, subject: Subject) -> np.ndarray | None:
        if subject.rows is None:
            return None
        try:
            batch = rows_batch(subject, self._options.rows, LONGEST)
        except NotApplicable:
            return None
        return np.concatenate([batch.inputs, batch.targets[:, -1:]], 1)

    def _classes(self, collection: Collection) -> Classes | None:
        """Of the tokens that a run of ours was trained on; those of others are not known."""
        if self._run.config is None or collection.study is None:
            return None
        return frequency_classes(training_counts(collection.folder / self._run.config.tokens))


def _damage(run: Run, step: int) -> str | None:
    directory = run.checkpoint(step)
    return damage(directory, quick=True) if (directory / MANIFEST).is_file() else None


def made_from(run: Run, step: int, asked: Asked) -> dict[str, Any]:
    """What the rows of a checkpoint are made from; for tables, which nobody gives options, with those that they were made with."""
    own = {"checkpoint": weights_sha256(run.checkpoint(step)), "code": code_hash(CODE)}
    options = _options(run, step) if asked.options is None else asked.options.model_dump(mode="json")
    return own | {"options": options} | asked.collection.settings.decide()


def _options(run: Run, step: int) -> dict[str, Any] | None:
    try:
        made = read_object(run.kept(NAME, step).with_suffix(".json"), made_from=dict)["made_from"]
        options: dict[str, Any] = made["options"]
        return options
    except (UserError, KeyError):
        return None


def kept_lists(run: Run, step: int, asked: Asked) -> pd.DataFrame | None:
    """Rows (LISTS) of a checkpoint; None where they are not up to date."""
    return kept(run.kept(NAME, step), made_from(run, step, asked), numbers=NUMBERS, integers=INTEGERS)


def kept_profile(run: Run, step: int, asked: Asked) -> pd.DataFrame | None:
    """Rows (PROFILE) of a checkpoint; None where they are not up to date."""
    return kept(run.kept(BESIDE, step), made_from(run, step, asked), numbers=PROFILE_NUMBERS, integers=PROFILE_INTEGERS)


def _kept_both(run: Run, step: int, asked: Asked) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    lists, beside = kept_lists(run, step, asked), kept_profile(run, step, asked)
    return None if lists is None or beside is None else (lists, beside)


def cost(run: Run, options: RetrievalOptions) -> float:
    """Seconds that it takes, about: tokens that go through the model, from the shape in its configuration."""
    lists = 2 * options.sequences * sum(2 * n + d for n, d in options.cells)
    return sum(seconds(run.checkpoint(step), lists + LONGEST * options.rows) for step in run.steps) or 1.0
