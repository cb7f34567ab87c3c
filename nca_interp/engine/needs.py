"""What the jobs of a plan need: threads, memory, a share of a GPU. Estimates by the formulas of cost.py, which place jobs and decide
nothing of their results."""

from __future__ import annotations

from nca_interp.engine.cost import PROCESS_BYTES, run_cost
from nca_interp.engine.engines import Resources
from nca_interp.engine.graph import Job, Plan
from nca_interp.train.run import RunConfig

ALLOCATED = 1.4
"""What the kernel sees over what the formula counts, at most (docs/scaling.md)."""
TOKENS_BYTES, MEASURE_BYTES = 1.0e9, 1.0e9
"""A process that writes tokens, and one that measures, without the weights that it measures."""
COPIES = 4
"""Of the weights, in fp32, that a measurement holds: the model, what it is compared with, gradients where parts are attributed."""
GPU_HOST_BYTES, CONTEXT_BYTES = 3.0e9, 0.6e9
"""A process that computes on a GPU takes that of the machine and, beside its tensors, that of the GPU (assumed, unmeasured)."""
STEP_BYTES = 2**26
"""Needs are rounded up to that, so that jobs that are nearly alike are alike."""


def needs_of(plan: Plan, threads: int, device: str) -> dict[str, Resources]:
    """What every job of a plan needs, by id; `device`: cpu or cuda."""
    found: dict[tuple[object, ...], float] = {}

    def trained(run: RunConfig) -> float:
        config = run.config
        key = (
            run.model,
            config.rows_at_once,
            config.vocab_rows,
            config.gradient_checkpointing,
            str(run.source),
            run.precision,
        )
        if key not in found:
            found[key] = run_cost(run, device).memory * ALLOCATED
        return found[key]

    return {
        job.id: _needs(job, threads, device, trained(job.payload) if isinstance(job.payload, RunConfig) else 0.0)
        for job in plan.jobs
    }


def _needs(job: Job, threads: int, device: str, tensors: float) -> Resources:
    if job.kind == "tokens":
        return Resources(threads, TOKENS_BYTES)
    if job.kind == "measure":
        tensors = COPIES * job.weights
    if device != "cuda":
        return Resources(threads, _round(tensors + (MEASURE_BYTES if job.kind == "measure" else PROCESS_BYTES)))
    return Resources(threads, GPU_HOST_BYTES, _round(tensors + CONTEXT_BYTES))


def _round(n: float) -> float:
    return -(-n // STEP_BYTES) * STEP_BYTES
