"""What verdicts are made from: final losses and accuracies of a study's runs, their single documents and problems, lost runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from nca_interp.analysis.collection.run import IDENTITY, Run, Trained, validations
from nca_interp.analysis.verdicts.contrasts import Key, Values
from nca_interp.analysis.verdicts.plan import ACCURACY_MARGIN
from nca_interp.base import UserError, digest
from nca_interp.config import Study
from nca_interp.data.tokens import TokenFile
from nca_interp.store import RunDir, StudyDir, read_json
from nca_interp.train.run import RunConfig

LOST = "diverged"
"""State of a run that ended and will not be continued."""


def final_losses(directory: StudyDir, runs: list[Run], study: Study) -> Values:
    """Loss of the last validation of every finished pre-training run; one that is not a number is lost, by name."""
    rows, items = [], {}
    lost = _lost(runs, study, "pt")
    documents: dict[str, np.ndarray] = {}
    for run in runs:
        if run.stage != "pt" or not run.domain or not run.done:
            continue
        (c, trained), losses = _ours(run), validations(run)
        key = (c.regime, run.domain, c.seed)
        if not losses or not math.isfinite(losses[-1][1]):
            lost[key] = c.id
            continue
        rows.append({**run.identity, "value": losses[-1][1]})
        if c.tokens not in documents:
            documents[c.tokens] = document_of_rows(TokenFile.open(directory.path / c.tokens, verify=False))
        if (found := document_losses(trained.dir, c.config.steps, documents[c.tokens])) is not None:
            items[key] = found
    return Values(pd.DataFrame(rows, columns=[*IDENTITY, "value"]), "val_loss", study.margin, items=items, lost=lost)


def document_of_rows(tokens: TokenFile) -> np.ndarray:
    """Number of the document that each validation row belongs to, from 0: rows in which none ends belong to that of the row before.

    Rows are documents of their own where the source has none, or where all of them would be one.
    """
    rows, end = tokens.val, tokens.meta.end_id
    own = np.arange(len(rows))
    if end is None:
        return own
    starts = (np.asarray(rows) == end).any(1)
    starts[0] = False
    found = np.cumsum(starts)
    return found if found[-1] > 0 else own


def document_losses(run: RunDir, step: int, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(summed loss, targets) of each validation document at the end of a run; None where the run kept none.

    Raises UserError for a file that is not what was written.
    """
    if not run.validation.is_file():
        return None
    kept = read_json(run.validation)
    stated = kept.pop("sha256", None) if isinstance(kept, dict) else None
    if stated is None or digest(kept) != stated or kept["step"] != step or len(kept["nll"]) != len(documents):
        raise UserError(f"{run.validation}: damaged; delete it, and the error of the finite validation set is left out")
    if None in kept["nll"]:
        return None
    return np.bincount(documents, kept["nll"]), np.bincount(documents, kept["targets"])


def accuracies(runs: list[Run], study: Study, table: pd.DataFrame) -> Values | None:
    """Exact-match accuracies; `table`: reasoning (docs/tables.md). None where nothing was or will be fine-tuned."""
    lost = _lost(runs, study, "ft")
    known = set(table.run)
    items = {}
    for run in runs:
        if run.stage != "ft" or not run.done or not run.domain:
            continue
        c, trained = _ours(run)
        key = (c.regime, run.domain, c.seed)
        if c.id not in known:
            lost[key] = c.id
        elif results := read_json(trained.dir.result).get("results"):
            items[key] = _answers(results)
    if study.ft is None and not known:
        return None
    values = table.rename(columns={"accuracy": "value"})
    return Values(values, "accuracy", ACCURACY_MARGIN, higher_is_better=True, items=items, lost=lost)


def _ours(run: Run) -> tuple[RunConfig, Trained]:
    """Configuration and results of a run of a study."""
    assert run.config is not None
    assert run.trained is not None
    return run.config, run.trained


def _answers(results: list[dict[str, str | None]]) -> tuple[np.ndarray, np.ndarray]:
    """1 for each problem that was answered as expected, and the weight 1 of each."""
    from nca_interp.train.finetune import normalise

    right = [r["answer"] is not None and r["answer"] == normalise(r["expected"] or "") for r in results]
    return np.array(right, dtype=float), np.ones(len(right))


def _lost(runs: list[Run], study: Study, stage: str) -> dict[Key, str]:
    """Runs of a stage that diverged, or that can never begin because one before them did: key -> the run that did."""
    lost: dict[Key, str] = {}
    for run in (run for run in runs if _ours(run)[1].status["state"] == LOST):
        for key in _heirs(run, study):
            if run.stage in ("ppt", "pt") or stage == "ft":
                lost.setdefault(key, run.id)
    return lost


def _heirs(run: Run, study: Study) -> Iterator[Key]:
    """Regimes, domains and seeds whose result depends on a run."""
    c, _ = _ours(run)
    if c.stage != "ppt":
        yield c.regime, c.domain or "", c.seed
        return
    source = next((r.source for r in study.regimes if r.name == c.regime), None)
    for regime in _sharing(study, source):
        for domain in study.domains:
            yield regime, domain.name, c.seed


def _sharing(study: Study, source: object) -> Iterable[str]:
    """Regimes whose pre-pre-training is the same."""
    return (r.name for r in study.regimes if source is not None and r.source == source)
