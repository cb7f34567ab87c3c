"""What a plan costs, for `--dry-run`: tokens, FLOPs, disk and a time estimate that says what it rests on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from nca_interp import machine
from nca_interp.config import STAGE_LABELS
from nca_interp.engine.plan import Plan, disk_bytes, vocab
from nca_interp.engine.runner import default_workers

UTILISATION = 0.4
"""Assumed share of the measured matrix-product rate that training reaches (0.4 to 0.8 measured for tiny to 50M)."""


def print_plan(plan: Plan, folder: Path, workers: int | None, threads: int) -> None:
    """Print every run of the plan with its budget, then the totals. Writes nothing."""
    workers = workers or default_workers()
    model, runs = plan.study.model, plan.runs
    print(f"study       {plan.study.name}: {plan.study.title}")
    print(f"folder      {folder}")
    shape = f"{model.n_layers} layers, d_model {model.d_model}, {model.n_heads} heads, d_mlp {model.d_mlp}, n_ctx {model.n_ctx}"
    print(f"model       {shape}: {model.n_params_body:,} parameters without embeddings")
    print(f"{'run':40} {'steps':>9} {'tokens':>14} {'parameters':>14} {'FLOPs':>10}")
    flops = {job.payload.id: job.flops for job in plan.jobs if job.kind == "train"}  # type: ignore[union-attr]
    for run in runs:
        tokens = run.config.steps * run.config.batch_size * model.n_ctx
        print(f"{run.id:40} {run.config.steps:9,} {tokens:14,} {model.n_params(vocab(run)):14,} {flops[run.id]:10.2e}")
    stages = Counter(STAGE_LABELS[run.stage] for run in runs)
    print(f"runs        {len(runs)} ({', '.join(f'{n} {stage}' for stage, n in stages.items())})")
    total = sum(flops.values())
    print(f"FLOPs       {total:.3g}")
    print(f"disk        {disk_bytes(plan) / 1e9:.2f} GB (token files and fp32 checkpoints)")
    rate = machine.matmul_flops(runs[0].precision, threads)
    hours = total / (rate * UTILISATION * workers) / 3600
    time = f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min"
    print(
        f"time        about {time}: {workers} worker(s) at {UTILISATION:.0%} of the {rate / 1e9:,.0f} GFLOP/s that a "
        f"{runs[0].precision} matrix product reaches here now (training only)"
    )
