"""How few synthetic tokens suffice: what small models have learned of NCA and of repeated tokens, by tokens seen and schedule.

`python -m benchmarks.synthetic_schedule [--source nca repeat] [--tokens 1e6] [--seeds 1] [--set lr=4e-3 --set batch_size=8 ...]
[--out DIR]`

One line a checkpoint of the `tiny` model: tokens, the loss on new rows, and of NCA the share of cells predicted on new rules
(free-running, the frames that the verdict looks at) beside the rival that is not beaten, what the loss of the last frame is below that of the first and what
another rule's frames cost (nats a patch), then the best head of four probes. A schedule is judged
by these alone: language plays no part. Runs continue where they stopped, and are kept by what they were asked.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from nca_interp import analyze, rule_inference
from nca_interp.base import digest
from nca_interp.config import Domain, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.sources import parse_source
from nca_interp.data.specs import TextSpec, TokenizerSpec
from nca_interp.engine.graph import Plan
from nca_interp.engine.jobs import execute
from nca_interp.engine.plan import make_plan
from nca_interp.model.presets import PRESETS
from nca_interp.overrides import with_overrides
from nca_interp.store import StudyDir

PROBES = ("induction", "previous_token", "nca_stencil", "nca_induction")


def main() -> None:
    """Train what was asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", nargs="+", default=["demo.nca", "demo.repeat"])
    parser.add_argument("--tokens", type=float, default=1e6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--model", choices=list(PRESETS), default="tiny")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="a field of the stage")
    parser.add_argument("--shape", action="append", default=[], help="a field of the model, e.g. init_std=0.1")
    parser.add_argument("--points", type=int, default=4, help="checkpoints that are measured")
    parser.add_argument("--out", type=Path, default=Path("runs/out/schedules"))
    arguments = parser.parse_args()
    head = [
        "source",
        "schedule",
        "seed",
        "tokens",
        "loss",
        "cells",
        "rival",
        "last - first frame",
        "context swap",
        *PROBES,
        "s",
    ]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for source in arguments.source:
        plan = plan_of(source, arguments)
        folder = arguments.out / digest([run.model_dump(mode="json") for run in plan.runs], 10)
        StudyDir(folder).path.mkdir(parents=True, exist_ok=True)
        for job in plan.jobs:
            if job.kind == "train" and job.payload.stage != "ppt":  # type: ignore[union-attr]
                continue
            if job.kind == "tokens" and not job.payload.path.startswith("tokens/synthetic"):  # type: ignore[union-attr]
                continue
            begin = time.process_time()
            execute(folder, job, None)
            if job.kind == "train":
                seconds = time.process_time() - begin
                for row in rows(StudyDir(folder), job.payload, arguments.points):
                    print(
                        "| "
                        + " | ".join([source, " ".join([*arguments.changes, *arguments.shape]), *row, f"{seconds:.0f}"])
                        + " |",
                        flush=True,
                    )


def plan_of(source: str, arguments: argparse.Namespace) -> Plan:
    """A study of one source whose language stage is never run."""
    stage = StageConfig(steps=1, batch_size=16, lr=2e-3, eval_every=200, checkpoint_every=100)
    stage = with_overrides(stage, arguments.changes)
    model = with_overrides(PRESETS[arguments.model], arguments.shape)
    steps = round(arguments.tokens / stage.batch_size / model.n_ctx)
    stage = stage.model_copy(update={"steps": steps, "checkpoint_every": max(1, steps // arguments.points)})
    text = TextSpec(source="site:prose-b", tokenizer=TokenizerSpec(vocab_size=512))
    study = Study(
        name="schedule", title=source, model=model,
        regimes=(Regime(name="synthetic", label=source, source=parse_source(source)),),
        domains=(Domain(name="web", label="web", source=text),),
        seeds=paired_seeds(arguments.seeds), ppt=stage, pt=stage, val_rows=64,
    )  # fmt: skip
    return make_plan(study, "fp32", analyze=False)


def rows(study: StudyDir, config: Any, points: int) -> list[list[str]]:
    """What each of the last checkpoints of a run has learned."""
    run, found = study.run(config.id), []
    losses = {row["step"]: row["val_loss"] for row in run.read_metrics() if row["val_loss"] is not None}
    steps = [step for step in config.config.checkpoint_steps() if step and step % config.config.checkpoint_every == 0]
    last = config.config.steps
    for step in [*(s for s in steps[-points:] if last - s > config.config.checkpoint_every // 2), last]:
        checkpoint = run.checkpoint(step)
        told = [""] * 4
        if config.source["kind"] == "nca":
            learned = rule_inference(checkpoint, device="cpu", whole=True).attrs["learned"]
            told = [
                f"{learned['accuracy']:.3f}", f"{learned['rival']} {learned['rival_accuracy']:.3f}", f"{learned['gain']:+.2f}",
                f"{learned['swap']:+.2f}",
            ]  # fmt: skip
        names = PROBES if config.source["kind"] == "nca" else PROBES[:2]
        best = analyze(checkpoint, probes=names).groupby("probe").value.max()
        near = min(losses, key=lambda s: abs(s - step))
        tokens = step * config.config.batch_size * config.model.n_ctx
        found.append(
            [str(config.seed), f"{tokens / 1e6:.2f}M", f"{losses[near]:.3f}", *told, *(f"{best[n]:.2f}" if n in best else "" for n in PROBES)]
        )  # fmt: skip
    return found


if __name__ == "__main__":
    main()
