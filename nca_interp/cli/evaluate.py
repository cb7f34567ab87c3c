"""`nca-interp evaluate`: ask checkpoints, or the runs of a study, reasoning tasks, into tables and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nca_interp.cli.plan import Workers
from nca_interp.errors import UserError

NAME = "reasoning"


def evaluate(
    ctx: typer.Context,
    place: Annotated[str | None, typer.Argument(metavar="[FOLDER]", help="Study folder, or that of an earlier analysis of checkpoints.")] = None,
    tasks: Annotated[
        str, typer.Option(help="What is asked, with commas: gsm8k=FILE, humaneval=FILE, mbpp=FILE, bbl=FILE, bbh=FILES, pairs=FILE, recall:2 ..., tasks of the harness.")
    ] = "",
    checkpoint: Annotated[list[str] | None, typer.Option(help="Hugging Face checkpoint (repeatable), as for analyze.")] = None,
    examples: Annotated[str, typer.Option(help="Training split that context examples come from: gsm8k=FILE,...")] = "",
    shots: Annotated[int, typer.Option(min=0, help="Context examples before each problem.")] = 0,
    sampling: Annotated[str, typer.Option(help="greedy, paper (T 0.4, top-p 0.95), paper-gsm8k (T 0.6, top-p 1.0), published (each task's own).")] = "greedy",
    samples: Annotated[int, typer.Option(min=1, help="Answers drawn to each problem.")] = 1,
    k: Annotated[str, typer.Option(help="k of pass@k, with commas.")] = "1",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many problems of each task.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Answers that are written at a time.")] = 64,
    steps: Annotated[str, typer.Option(help="last, or all checkpoints of a run.")] = "last",
    parts: Annotated[int, typer.Option(min=1, help="Jobs that share the problems of a checkpoint.")] = 1,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Another option: reasoning.option=value (repeatable).")] = None,
    run_generated_code: Annotated[bool, typer.Option("--run-generated-code", help="Run programs that the model wrote, in a sandbox.")] = False,
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer; default the checkpoint's own.")] = None,
    device: Annotated[str | None, typer.Option(help="With --checkpoint: cpu, cuda, cuda:1 ...")] = None,
    dtype: Annotated[str | None, typer.Option(help="With --checkpoint: float32, bfloat16 or float16.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --checkpoint: folder to write.")] = None,
    workers: Workers = None,
) -> None:  # fmt: skip
    """Ask reasoning tasks: accuracy and pass@k, by lm-evaluation-harness. Continues where it stopped.

    The same as analyze --only reasoning; answers are kept and scored again when only the scoring changed.
    """
    from nca_interp.cli.analyze import analyze

    if not tasks:
        raise UserError("--tasks: none is named, e.g. --tasks gsm8k=test.jsonl,recall:2 (docs/reasoning.md)")
    given: dict[str, Any] = {
        "tasks": tasks, "examples": examples, "shots": shots, "sampling": sampling, "samples": samples, "k": k, "batch": batch,
        "steps": steps, "parts": parts, **({"limit": limit} if limit else {}), "run_generated_code": run_generated_code,
    }  # fmt: skip
    from nca_interp.analysis.reasoning.options import Options
    from nca_interp.overrides import parse

    parse(Options, given)
    ctx.args = [
        f"--{name.replace('_', '-')}={given[name]}"
        for name in ("tasks", "examples", "shots", "sampling", "samples", "k", "limit")
        if given.get(name) not in ("", None)
    ]
    ctx.args += ["--run-generated-code"] if run_generated_code else []
    changed = [f"{NAME}.{name}={given[name]}" for name in ("batch", "steps", "parts")]
    analyze(
        ctx,
        place,
        checkpoint,
        out,
        only=[NAME],
        set_=[*changed, *(set_ or [])],
        tokenizer=Path(tokenizer) if tokenizer else None,
        device=device,
        dtype=dtype,
        workers=workers,
    )
