"""What can be measured of a study, one function a kind: each keeps its result in a file and does nothing where that is up to date."""

from __future__ import annotations

from pathlib import Path

from nca_interp.store import StudyDir


def measure(study: StudyDir, what: str, subject: str, probes_folder: Path | None = None) -> list[str]:
    """Measure `what` (engine/plan.py: Measurement) of the run `subject`; returns what went wrong beside what was measured."""
    run = study.run(subject)
    if what == "probes":
        from nca_interp.analysis.engine import analyze_run

        return analyze_run(run, probes_folder=probes_folder).problems
    from nca_interp.analysis.inference_study import infer_run

    return infer_run(run)
