"""Runs of a study folder as the analysis sees them."""

from __future__ import annotations

from pathlib import Path

from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import Run
from nca_interp.store import StudyDir


def opened(study: StudyDir | Path) -> Collection:
    """The collection of a study."""
    return Collection.open(study.path if isinstance(study, StudyDir) else study)


def run_of(study: StudyDir | Path, run_id: str) -> Run:
    """One run of it, as it stands on disk now."""
    return opened(study).run(run_id)
