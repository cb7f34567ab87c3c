"""`nca-interp plan`: the jobs of a recipe for somebody else to run: a script for SLURM, the graph as JSON, a makefile, a drawing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nca_interp.cli.plan import Threads, check_folder, planned, this_command
from nca_interp.errors import UserError

if TYPE_CHECKING:
    from nca_interp.engine.export import Commands

FORMATS = ("slurm", "json", "make", "dot")


def plan(
    run: Annotated[str, typer.Argument(help="Recipe, e.g. demo, laptop, gpu-long (see: nca-interp list).")],
    format_: Annotated[str, typer.Option("--format", help="slurm, json, make or dot.")] = "json",
    regime: Annotated[str | None, typer.Option(help="Only this regime.")] = None,
    domain: Annotated[str | None, typer.Option(help="Only this domain.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Only this seed (index).")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change one field: a.b=value (repeatable).")] = None,
    out: Annotated[Path | None, typer.Option(help="Study folder; default runs/out/<study>.")] = None,
    tasks: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="slurm: tasks of the array; default one for 8 runs.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="slurm: jobs side by side in a task; default 1, or one a GPU.")
    ] = None,
    threads: Threads = 1,
    gpus: Annotated[int, typer.Option(min=0, max=64, help="slurm: GPUs of a task.")] = 0,
    time: Annotated[
        str | None, typer.Option(help="slurm: time limit of a task, as sbatch takes it; default from the cost.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=1.0, help="slurm: FLOP/s of a worker's matrix products there, for the time.")
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(help="slurm: a further option of sbatch, e.g. --sbatch=--account=x (repeatable)."),
    ] = None,
) -> None:
    """Print the jobs of a recipe for another engine: a ready SLURM script, or the graph as JSON, makefile or drawing. Runs nothing."""
    from nca_interp import discover
    from nca_interp.config import suggest
    from nca_interp.overrides import call_recipe
    from nca_interp.phase import Phase

    if format_ not in FORMATS:
        raise UserError(f"--format {format_}: unknown{suggest(format_, FORMATS)}")
    given = {"--tasks": tasks, "--workers": workers, "--gpus": gpus, "--time": time, "--rate": rate, "--sbatch": sbatch}
    if format_ != "slurm" and (wrong := [name for name, value in given.items() if value]):
        raise UserError(f"{wrong[0]}: goes with --format slurm only")
    study = call_recipe(discover.find("runs", run).value, set_ or [])
    if isinstance(study, Phase):
        raise UserError(
            f"{run}: a phase diagram chooses its next runs by the results of others; start nca-interp train {run} several times"
        )
    folder = (out or Path("runs/out") / study.name).absolute()
    where = str(folder)
    if (format_ in ("slurm", "make") and len(where.splitlines()) > 1) or (format_ == "make" and "%" in where):
        what = "% or a line break" if format_ == "make" else "a line break"
        raise UserError(
            f"--out {where!r}: holds {what}, which no file of --format {format_} can name; choose another folder"
        )
    check_folder(folder, study)
    parts = [
        word
        for name, value in (("regime", regime), ("domain", domain), ("seed", seed))
        if value is not None
        for word in (f"--{name}", str(value))
    ]
    words = [*parts, *(word for one in set_ or [] for word in ("--set", one)), "--out", str(folder)]
    commands = _commands(["train", run, *words], folder)
    if format_ == "slurm":
        from nca_interp.engine.needs import needs_of
        from nca_interp.engine.slurm import Ask, script

        found = planned(study, regime, domain, seed, analyze=False)
        workers = workers or max(1, gpus)
        ask = Ask(tasks or max(1, -(-len(found.runs) // 8)), workers, threads, gpus, time, rate, tuple(sbatch or ()))
        everything = planned(study, regime, domain, seed, analyze=True)
        needs = needs_of(everything, threads, "cuda" if gpus else "cpu")
        print(script(found, needs, commands, ask, folder, " ".join(this_command().split())), end="")
        return
    found = planned(study, regime, domain, seed, analyze=True)
    from nca_interp.engine import export

    if format_ == "json":
        from nca_interp.engine.needs import needs_of

        lines = export.as_json(found, needs_of(found, threads, "cpu"), commands, folder)
    else:
        lines = export.as_make(found, commands, folder) if format_ == "make" else export.as_dot(found)
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _commands(train: list[str], folder: Path) -> Commands:
    from nca_interp.engine.export import Commands

    script = Path(sys.executable).with_name("nca-interp")
    start = [str(script)] if script.is_file() else [sys.executable, "-P", "-m", "nca_interp"]
    return Commands([*start, *train], [*start, "analyze", str(folder)], [*start, "report", str(folder)])
