"""Processor seconds of what `nca-interp demo` measures, by measurement, then of its tables and its report.

`python benchmarks/analysis_of_study.py STUDY [--runs ID ...]` takes a finished demonstration, forgets what was measured of the runs (default:
all) and measures it again in this process, one job after the other, those of a run together, as a worker does. Imports are told apart.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections import defaultdict
from pathlib import Path

KEPT = ("probes", "causes", "decode", "inference", "loss_profile", "player", "retrieval", "survival", "mediation")


def main() -> None:
    """Print a line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--runs", nargs="*", default=[])
    given = parser.parse_args()
    began = time.process_time()
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    import nca_interp.analysis.probing.study  # noqa: F401
    from nca_interp.analysis.tables import build_tables
    from nca_interp.engine.demonstration import measured_plan
    from nca_interp.engine.jobs import execute
    from nca_interp.engine.plan import MeasureJob, make_plan
    from nca_interp.report.build import build_report
    from nca_interp.store import StudyDir
    from nca_interp.train.allocator import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"imports {time.process_time() - began:.1f}", flush=True)
    plan = measured_plan(make_plan(StudyDir.open(given.study).study(), "fp32"))
    jobs = [j for j in plan.jobs if isinstance(j.payload, MeasureJob)]
    of = {j.id: j.payload.subject for j in jobs if isinstance(j.payload, MeasureJob)}
    jobs = [j for j in jobs if not given.runs or of[j.id] in given.runs]
    places = {run: place for place, run in enumerate(dict.fromkeys(of[j.id] for j in jobs))}
    for run in places:
        for name in KEPT:
            shutil.rmtree(given.study / "runs" / run / name, ignore_errors=True)
    shutil.rmtree(given.study / "nulls", ignore_errors=True)
    spent: dict[str, list[float]] = defaultdict(list)
    for job in sorted(jobs, key=lambda j: places[of[j.id]]):
        began = time.process_time()
        execute(given.study, job, None)
        spent[job.id.partition(":")[0]].append(time.process_time() - began)
    print("| measurement | jobs | processor s |\n|---|---|---|")
    for name, seconds in sorted(spent.items(), key=lambda item: -sum(item[1])):
        print(f"| {name} | {len(seconds)} | {sum(seconds):.1f} |", flush=True)
    print(f"| together | {len(jobs)} | {sum(map(sum, spent.values())):.1f} |", flush=True)
    for name, make in (("tables", build_tables), ("report", build_report)):
        began = time.process_time()
        make(given.study)
        print(f"| {name} | | {time.process_time() - began:.1f} |", flush=True)


if __name__ == "__main__":
    main()
