"""What the demonstration measures beside its runs: all that fits into its ten minutes. `nca-interp analyze --causes` of its folder
measures the rest."""

from __future__ import annotations

from nca_interp.analysis.collection.collection import planned
from nca_interp.analysis.verdicts.plan import SCRATCH
from nca_interp.engine.graph import Job, MeasureJob, Plan
from nca_interp.engine.plan import headline, measure_jobs
from nca_interp.train.run import RunConfig

LONG = ("causes", "decode")
"""Measurements that take longest, made of one seed but for controls: what a head does is then seen of one network of each kind, not how
often."""
OF_HEADS = ("probes", "retrieval", "survival")
"""Measurements that are left out of arms to which no head is carried; what these arms are for is their loss."""


def measured_plan(plan: Plan) -> Plan:
    """A plan of the demonstration with `LONG` of the first seed alone of the runs that the study is about, and of what its controls
    taught in every seed, so that a head that is known to matter can be found to; without `OF_HEADS` of further arms from scratch and
    of re-initialised ones."""
    controls = [run for run in plan.runs if run.stage == "ppt" and run.role == "control"]
    shown = [*(run for run in headline(plan) if run.seed == 0), *controls]
    ids, bare = {run.id for run in shown}, {run.id for run in plan.runs if _carries_no_head(run)}

    def made(job: Job) -> bool:
        one = job.payload
        if not isinstance(one, MeasureJob):
            return True
        return not (one.what in LONG and one.subject not in ids) and not (one.what in OF_HEADS and one.subject in bare)

    causes = measure_jobs([planned(run) for run in shown], ["causes"], only=True, to_train=True)
    return Plan(plan.study, [*filter(made, plan.jobs), *causes])


def _carries_no_head(run: RunConfig) -> bool:
    return run.stage == "pt" and (run.role == "transfer" or (run.parent is None and run.regime != SCRATCH))
