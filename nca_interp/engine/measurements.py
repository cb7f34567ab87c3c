"""What can be measured of a study, one function a kind: each keeps its result in a file and does nothing where that is up to date."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nca_interp.analysis.causes.study import causes_of_run
from nca_interp.analysis.inference.study import infer_run
from nca_interp.analysis.probing.engine import analyze_run
from nca_interp.analysis.probing.null_study import null_of_run
from nca_interp.analysis.readout.study import decode_run
from nca_interp.analysis.similarity.study import compare_run
from nca_interp.engine.plan import MeasureJob, Measurement
from nca_interp.store import StudyDir

Measure = Callable[[StudyDir, MeasureJob, Path | None], list[str]]
"""function(study, job, folder of further probes): what went wrong beside what was measured."""

KINDS: dict[Measurement, Measure] = {
    "probes": lambda study, job, probes: analyze_run(study.run(job.subject), probes_folder=probes).problems,
    "nulls": lambda study, job, probes: null_of_run(study, study.run(job.subject), job.models, probes),
    "inference": lambda study, job, probes: infer_run(study.run(job.subject)),
    "decode": lambda study, job, probes: decode_run(study.run(job.subject)),
    "causes": lambda study, job, probes: causes_of_run(study.run(job.subject), probes),
    "compare": lambda study, job, probes: compare_run(study, job.subject),
}


def measure(study: StudyDir, job: MeasureJob, probes_folder: Path | None = None) -> list[str]:
    """Do a job; returns what went wrong beside what was measured."""
    return KINDS[job.what](study, job, probes_folder)
