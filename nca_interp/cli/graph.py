"""`nca-interp plan`: the jobs of a recipe for somebody else to run: a script for SLURM, the graph as JSON, a makefile, a drawing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nca_interp.cli.plan import Threads, arranged, check_folder, planned, stands, wanted
from nca_interp.errors import UserError
from nca_interp.signals import this_command

if TYPE_CHECKING:
    from nca_interp.config import Study
    from nca_interp.engine.export import Commands
    from nca_interp.engine.graph import Plan

FORMATS = ("slurm", "json", "make", "dot")


def plan(
    run: Annotated[
        str, typer.Argument(help="Recipe, e.g. demo, laptop, gpu-long (see: nca-interp list), or a study folder.")
    ],
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
    """Print the jobs of a recipe, or of a study that has begun with how far each is, for another engine: a ready SLURM script, or the
    graph as JSON, makefile or drawing. Runs nothing."""
    from nca_interp.config import suggest
    from nca_interp.phase import Phase

    if format_ not in FORMATS:
        raise UserError(f"--format {format_}: unknown{suggest(format_, FORMATS)}")
    given = {"--tasks": tasks, "--workers": workers, "--gpus": gpus, "--time": time, "--rate": rate, "--sbatch": sbatch}
    if format_ != "slurm" and (wrong := [name for name, value in given.items() if value]):
        raise UserError(f"{wrong[0]}: goes with --format slurm only")
    words, study, folder, _ = wanted(run, set_ or [], out)
    if isinstance(study, Phase):
        raise UserError(
            f"{run}: a phase diagram chooses its next runs by the results of others; start nca-interp train {run} several times"
        )
    study, folder = arranged(folder, study), folder.absolute()
    where = str(folder)
    if (format_ in ("slurm", "make") and len(where.splitlines()) > 1) or (format_ == "make" and "%" in where):
        what = "% or a line break" if format_ == "make" else "a line break"
        raise UserError(
            f"--out {where!r}: holds {what}, which no file of --format {format_} can name; choose another folder"
        )
    check_folder(folder, study)
    chosen = {"regime": regime, "domain": domain, "seed": seed}
    parts = [word for name, value in chosen.items() if value is not None for word in (f"--{name}", str(value))]
    commands = _commands(["train", words[0], *parts, *words[1:]], folder)
    found = _planned(folder, study, regime, domain, seed, analyze=True)
    stood = stands(folder, study, found, refuse=True)
    if format_ == "slurm":
        from nca_interp.engine.needs import needs_of
        from nca_interp.engine.slurm import Ask, script

        needs = needs_of(found, threads, "cuda" if gpus else "cpu")
        trained = _planned(folder, study, regime, domain, seed, analyze=False)
        workers = workers or max(1, gpus)
        ask = Ask(tasks or max(1, -(-len(trained.runs) // 8)), workers, threads, gpus, time, rate, tuple(sbatch or ()))
        print(script(trained, needs, commands, ask, folder, " ".join(this_command().split()), stood), end="")
        return
    from nca_interp.engine import export

    if format_ == "json":
        from nca_interp.engine.needs import needs_of

        lines = export.as_json(found, needs_of(found, threads, "cpu"), commands, folder, stood)
    elif format_ == "make":
        lines = export.as_make(found, commands, folder, stood)
    else:
        lines = export.as_dot(found, stood)
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _planned(
    folder: Path, study: Study, regime: str | None, domain: str | None, seed: int | None, analyze: bool
) -> Plan:
    """All jobs, in the precision in which a study that has begun trains, wherever its plan is printed."""
    from nca_interp.engine.plan import make_plan
    from nca_interp.readers import check_object
    from nca_interp.store import StudyDir

    directory = StudyDir(folder)
    if not directory.config.is_file():
        return planned(study, regime, domain, seed, analyze)
    known = check_object(directory.config, directory.read_provenance(), "", {"precision": str})["precision"]
    return make_plan(study, known, regime, domain, seed, analyze)


def _commands(train: list[str], folder: Path) -> Commands:
    from nca_interp.engine.export import Commands

    script = Path(sys.executable).with_name("nca-interp")
    start = [str(script)] if script.is_file() else [sys.executable, "-P", "-m", "nca_interp"]
    return Commands([*start, *train], [*start, "analyze", str(folder)], [*start, "report", str(folder)])
