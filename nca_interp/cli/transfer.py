"""`nca-interp transfer`: what a checkpoint from anywhere gives to language training, as a study. Heavy imports stay inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nca_interp.cli.parse import MAX_WORKERS
from nca_interp.cli.plan import Threads, Workers, arranged, check_folder, execute_on, planned
from nca_interp.cli.running import run_plan, write_report, write_tables
from nca_interp.cli.show import print_about, print_table
from nca_interp.errors import UserError

if TYPE_CHECKING:
    from nca_interp.config import Study

OUT = Path("runs/out")


def transfer(
    checkpoint: Annotated[
        list[str],
        typer.Option(
            help="Hugging Face checkpoint with safetensors: a directory or org/name[@revision]. Several (repeatable) are one "
            "seed each; one is the parent of every seed."
        ),
    ],
    domain: Annotated[
        str | None, typer.Option(help="Language: a domain of the recipe laptop, or RECIPE.NAME; default web.")
    ] = None,
    text: Annotated[list[Path] | None, typer.Option(help="Files of your own text instead (repeatable).")] = None,
    arms: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these (comma-separated or repeatable): reinit-attn, reinit-mlp, reinit-norm, keep-attn, published; "
            "full and scratch are always there."
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=MAX_WORKERS, help="Replications; default 3, or one a checkpoint.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of language training an arm; default 200.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one field of the study: a.b=value (repeatable).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Study folder; default runs/out/transfer-<checkpoint>.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Print arms, tokens and cost; write nothing.")
    ] = False,
    workers: Workers = None,
    threads: Threads = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Swap the embeddings of any checkpoint, train it on language beside scratch and its re-initialised arms, and report."""
    from nca_interp.engine.transfer import STEPS, named_domain, text_domain, transfer_study
    from nca_interp.model.parent import forward_words
    from nca_interp.overrides import with_overrides

    if text and domain is not None:
        raise UserError("--domain and --text: both name the language; give one of them")
    execute_on(device, [], False)
    language = text_domain(text) if text else named_domain(domain or "web")
    made = transfer_study(checkpoint, language, arms=arms, seeds=seeds, steps=STEPS if steps is None else steps)
    study = with_overrides(made, set_ or [])
    folder = out or OUT / study.name
    check_folder(folder, study)
    study = arranged(folder, study)
    plan = planned(study, None, None, None, analyze=True)
    if dry_run:
        from nca_interp.analysis.verdicts.power import power_plan, spread_of
        from nca_interp.engine.cost import print_plan

        power = list(power_plan(study, spread_of(None)))
        _print_arms(study)
        print_plan(plan, folder, workers, threads)
        print(*power, sep="\n")
        return
    slower = forward_words(study.model)
    for line in (*_said(study), *([f"forward     {slower}"] if slower else [])):
        print(line)
    code = run_plan(folder, study, plan, workers, threads)
    write_tables(folder, None)
    write_report(folder)
    raise typer.Exit(code)


def _print_arms(study: Study) -> None:
    """What each arm is."""
    from nca_interp.checkpoint_spec import CheckpointSpec

    print_about(f"{study.title}.")
    rows = []
    for regime in study.regimes:
        source = "initial weights" if regime.source is None else "checkpoint"
        if isinstance(regime.source, CheckpointSpec) and regime.keep != ("attn", "mlp", "norm"):
            source = f"checkpoint: {', '.join(regime.keep) or 'nothing'}"
        rows.append([regime.name, source, regime.swap.words(regime.swap.applied(study.model))])
    print_table("Arms", ["arm", "body from", "at the swap"], rows, left=("body from", "at the swap"))
    for line in _said(study):
        print(line)


def _said(study: Study) -> list[str]:
    """What the study took from the checkpoints, and what it does not need of them."""
    from nca_interp.checkpoint_spec import CheckpointSpec
    from nca_interp.data.text.tokenizer import has_tokenizer
    from nca_interp.model.parent import parent_of

    places = dict.fromkeys(p for r in study.regimes if isinstance(r.source, CheckpointSpec) for p in r.source.paths)
    lines = []
    for place in places:
        found = parent_of(place)
        without = (
            "" if has_tokenizer(found.directory) else "; it has no tokenizer, and needs none: the domain has its own"
        )
        shape = f"context {found.model.n_ctx:,}, {'tied' if found.model.tied else 'untied'} embeddings"
        lines.append(f"checkpoint  {place}: {found.class_name}, {shape}{without}")
    if len(places) == 1 and len(study.seeds) > 1:
        lines.append(
            "seeds       differ by data order and fresh embeddings only (scratch: also by its body): the parent is one"
        )
    return lines
