"""The command line: each command loads, calls, and prints where the result lies. Heavy imports stay inside."""

from __future__ import annotations

import errno
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from nca_interp.cli.analyze import analyze
from nca_interp.cli.data import data
from nca_interp.cli.doctor import doctor
from nca_interp.cli.evaluate import evaluate
from nca_interp.cli.graph import plan as plan_command
from nca_interp.cli.help import WithMeasurements
from nca_interp.cli.match import match
from nca_interp.cli.parse import Commands, UsageError, explain
from nca_interp.cli.plan import (
    RUNS,
    Engine,
    Probes,
    Threads,
    Workers,
    arranged,
    check_engine,
    check_folder,
    execute_on,
    part,
    planned,
    stands,
    wanted,
)
from nca_interp.cli.running import run_plan, write_report, write_tables
from nca_interp.cli.show import print_about
from nca_interp.cli.transfer import transfer
from nca_interp.console import last_resort, make_patient
from nca_interp.errors import RunFailed, UserError
from nca_interp.signals import exit_code, this_command

app = typer.Typer(
    name="nca-interp",
    cls=Commands,
    help="Does pre-pre-training on synthetic data help a language model, and which parts of the network carry it?",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: nca-interp demo; nca-interp train laptop --dry-run; nca-interp analyze --checkpoint DIR",
)
app.add_typer(data, name="data")
app.command()(match)
app.command()(transfer)
app.command()(evaluate)
app.command("plan")(plan_command)
app.command()(doctor)
app.command(cls=WithMeasurements, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(analyze)
Out = Annotated[Path | None, typer.Option(help="Study folder; default runs/out/<study>.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change one field: a.b=value (repeatable).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def call(arguments: list[str]) -> int:
    """Run one command line; errors become one message and the documented exit code; no traceback reaches the screen."""
    make_patient()
    try:
        try:
            _check_here()
            # what a command returns is its exit code
            return int(app(arguments, prog_name="nca-interp", standalone_mode=False) or 0)
        finally:
            sys.stdout.flush()
    except UsageError as error:
        if not arguments or type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return 2
        return _told(explain(error, arguments), 2)
    except UserError as error:
        return _told(str(error), 2)
    except RunFailed as error:
        return _told(str(error), 1)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return _told(f"{str(error.filename)[:80]}...: the name is too long for a file", 2)
        return _told(last_resort(error, this_command()), 1)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a user's file may raise what is no Exception
        return _told(last_resort(error, this_command()), 1)


def _check_here() -> None:
    """UserError where the working directory was deleted: no path means anything then."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UserError("the working directory is no longer there: cd into one that is") from None


def _told(message: str, code: int) -> int:
    with suppress(OSError, ValueError):  # stderr may be full, or closed: the exit code says it then
        print(f"error: {message}", file=sys.stderr, flush=True)
    return code


@app.command()
def demo(out: Out = None, workers: Workers = None, threads: Threads = 1) -> None:
    """Train, analyse and report the demonstration study: minutes on two CPU cores. Finished parts are reused."""
    from nca_interp import discover
    from nca_interp.engine.demonstration import measured_plan
    from nca_interp.overrides import call_study

    study = call_study(discover.find("runs", "demo").value, [])
    folder = out or RUNS / study.name
    study = arranged(folder, study)
    plan = measured_plan(planned(study, None, None, None, analyze=True))
    check_folder(folder, study)
    code = run_plan(folder, study, plan, workers, threads)
    write_tables(folder, None)
    write_report(folder)
    raise typer.Exit(code)


@app.command()
def train(
    run: Annotated[
        str, typer.Argument(help="Recipe, e.g. demo, laptop, phase, gpu (see: nca-interp list), or a study folder.")
    ],
    regime: Annotated[str | None, typer.Option(help="Only this regime.")] = None,
    domain: Annotated[str | None, typer.Option(help="Only this domain.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Only this seed (index).")] = None,
    set_: Set = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Print the plan and its cost; write nothing.")
    ] = False,
    spread: Annotated[
        str | None,
        typer.Option(help="With --dry-run: spread over seeds in nats, or a study to take it from, for the power plan."),
    ] = None,
    out: Out = None,
    workers: Workers = None,
    threads: Threads = 1,
    device: Device = "auto",
    track: Annotated[
        list[str] | None, typer.Option(help="Also report to tensorboard, wandb or trackio (repeatable).")
    ] = None,
    shard: Annotated[bool, typer.Option("--shard", help="Under several processes: shard the model (FSDP2).")] = False,
    engine: Engine = "local",
    share: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only the I-th of N shares of the plan, I from 0.")
    ] = None,
    job: Annotated[
        str | None, typer.Option(help="Only this job of the plan (see: nca-interp plan), what it needs being done.")
    ] = None,
    declare: Annotated[
        bool, typer.Option("--declare", help="Declare what is compared anew, as long as no run of it is evaluated.")
    ] = False,
) -> None:
    """Train the runs of a recipe or of a study that has begun (all, or one regime, domain or seed). Continues where it stopped."""
    from nca_interp.phase import Phase

    check_engine(engine)
    execute_on(device, track or [], shard, here=engine == "local")
    _, found, folder, about = wanted(run, set_ or [], out)
    if isinstance(found, Phase):
        from nca_interp.cli import phase as phases

        phases.refuse_parts(
            regime=regime, domain=domain, seed=seed, spread=spread, share=share, job=job, declare=declare or None
        )
        phases.check(found, folder)
        if dry_run:
            print_about(about)
            phases.print_phase(found, folder, workers, threads)
            return
        raise typer.Exit(phases.train(found, folder, workers, threads, engine))
    study = arranged(folder, found)
    plan = part(planned(study, regime, domain, seed, analyze=job is not None), share, job)
    if spread is not None and not dry_run:
        raise UserError("--spread goes with --dry-run only")
    check_folder(folder, study)
    if dry_run:
        from nca_interp.analysis.mediation.power import mediation_plan
        from nca_interp.analysis.sweep.power import arms_plan
        from nca_interp.analysis.verdicts.declare import check_anew
        from nca_interp.analysis.verdicts.power import power_plan, spread_of
        from nca_interp.engine.cost import print_plan
        from nca_interp.store import StudyDir

        if declare:
            check_anew(StudyDir(folder), study)
        power = [*power_plan(study, spread_of(spread)), *arms_plan(study), *mediation_plan(study)]
        print_about(about)
        print_plan(plan, folder, workers, threads, stands(folder, study, plan, anew=declare))
        print(*power, sep="\n")
        return
    code = run_plan(folder, study, plan, workers, threads, engine, declare)
    print(f"trained: {folder}\nnext: nca-interp analyze {folder}")
    raise typer.Exit(code)


@app.command()
def report(
    study: Annotated[Path, typer.Argument(help="Folder of a study, a phase diagram or an analysis of checkpoints.")],
    name: Annotated[str | None, typer.Option(help="Report definition (see: nca-interp list).")] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Instead: this report beside another one (a study folder, report.html or .json)."),
    ] = None,
    gallery: Annotated[
        bool, typer.Option("--gallery", help="Instead: index.html over all reports below STUDY.")
    ] = False,
    figures: Annotated[
        Path | None, typer.Option(help="Instead: every figure as SVG, PNG and CSV, into this folder.")
    ] = None,
) -> None:
    """Write the self-contained HTML report of a study or an analysis from its tables."""
    from nca_interp.cli import reports

    ways = {"--against": against is not None, "--gallery": gallery, "--figures": figures is not None}
    if sum(ways.values()) > 1 or (name is not None and (gallery or against is not None)):
        asked = [*(option for option, given in ways.items() if given), *(["--name"] if name is not None else [])]
        raise UserError(f"{' and '.join(asked)}: these do not go together")
    if against is not None:
        reports.compare(study, against)
    elif gallery:
        reports.index(study)
    elif figures is not None:
        reports.export(study, figures, name)
    else:
        write_report(study, name)


@app.command()
def view(
    study: Annotated[Path, typer.Argument(help="Study folder, a page, or a folder of several reports.")] = RUNS
    / "demo",
) -> None:
    """Open the report of a study or an analysis in the browser; of a folder above several, an index of them."""
    from nca_interp.cli import reports

    path = reports.page_of(study)
    print(path.resolve().as_uri())
    if sys.stdout.isatty():
        import webbrowser

        webbrowser.open(path.resolve().as_uri())


@app.command()
def watch(
    study: Annotated[Path, typer.Argument(help="Study folder.")],
    once: Annotated[bool, typer.Option("--once", help="Show it once and leave.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print it once as JSON.")] = False,
) -> None:
    """Show the state of every run and job of a study or analysis while other processes work on it. Reads only."""
    from rich.console import Console

    from nca_interp.cli import watch as watching

    try:
        watching.watch(study, Console(), once, json)
    except KeyboardInterrupt:  # how one leaves it
        raise SystemExit(0 if exit_code() == 130 else exit_code()) from None


@app.command("list")
def list_(
    probes: Probes = None,
    definitions: Annotated[
        bool, typer.Option("--definitions", help="The definition of every probe instead, as Markdown.")
    ] = False,
) -> None:
    """List runs, probes, measurements and reports, the user's own included."""
    from nca_interp import discover
    from nca_interp.measurement import measurements

    if definitions:
        from nca_interp.analysis.probing.summary import document

        print(document(discover.load("probes", probes)), end="")
        return
    print("measurements:")
    for one in measurements().values():
        if one.measure is not None:
            print(f"  {one.name:24} {one.about}")
            if one.flags:
                print(f"{'':27}takes {' '.join(f'--{flag} TEXT' for flag in one.flags)}")
    for kind in ("runs", "probes", "reports"):
        print(f"{kind}:")
        found = discover.load(
            kind, probes if kind == "probes" else None, on_error=lambda m: print(f"  broken: {m}", file=sys.stderr)
        )
        for name, definition in sorted(found.items()):
            print(f"  {name:24} {definition.doc}")
