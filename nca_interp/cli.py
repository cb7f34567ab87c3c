"""The command line: each command loads, calls, and prints where the result lies. Heavy imports stay inside."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from nca_interp.cli_data import data
from nca_interp.cli_match import match
from nca_interp.errors import RunFailed, UserError

if TYPE_CHECKING:
    from nca_interp.config import Study
    from nca_interp.engine.plan import Plan
    from nca_interp.engine.runner import Outcome
    from nca_interp.store import StudyDir

app = typer.Typer(
    name="nca-interp",
    help="Does pre-pre-training on synthetic data help a language model, and which parts of the network carry it?",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
    epilog="Example: nca-interp demo; nca-interp train laptop --dry-run; nca-interp analyze --checkpoint DIR",
)
app.add_typer(data, name="data")
app.command()(match)
OUT = Path("runs/out")

Out = Annotated[Path | None, typer.Option(help="Study folder; default runs/out/<study>.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change one field: a.b=value (repeatable).")]
Workers = Annotated[int | None, typer.Option(min=1, help="Jobs side by side; default one a core or GPU.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads a job.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Probes = Annotated[Path | None, typer.Option(help="Folder with further probe files.")]


def main() -> None:
    """Entry point: turn the project's own errors into one message and the documented exit code."""
    try:
        app()
    except UserError as error:
        fail(str(error), 2)
    except RunFailed as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("interrupted", 130)


def fail(message: str, code: int) -> NoReturn:
    """Print one message on stderr and leave."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


@app.command()
def demo(out: Out = None, workers: Workers = None, threads: Threads = 1) -> None:
    """Train, analyse and report the demonstration study: minutes on two CPU cores. Finished parts are reused."""
    study, plan = _plan("demo", None, None, None, None, analyze=True)
    folder = out or OUT / study.name
    code = _run(folder, study, plan, workers, threads, resume=f"nca-interp demo{_option('--out', out)}")
    _tables(folder, None)
    _report(folder)
    raise typer.Exit(code)


@app.command()
def train(
    run: Annotated[str, typer.Argument(help="Recipe, e.g. demo, laptop, gpu (see: nca-interp list).")],
    regime: Annotated[str | None, typer.Option(help="Only this regime.")] = None,
    domain: Annotated[str | None, typer.Option(help="Only this domain.")] = None,
    seed: Annotated[int | None, typer.Option(help="Only this seed (index).")] = None,
    set_: Set = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Print the plan and its cost; write nothing.")
    ] = False,
    out: Out = None,
    workers: Workers = None,
    threads: Threads = 1,
    device: Device = "auto",
    track: Annotated[
        list[str] | None, typer.Option(help="Also report to tensorboard, wandb or trackio (repeatable).")
    ] = None,
    shard: Annotated[bool, typer.Option("--shard", help="Under several processes: shard the model (FSDP2).")] = False,
) -> None:
    """Train the runs of a recipe (all, or one regime, domain or seed). Continues where it stopped."""
    _execute_on(device, track or [], shard)
    study, plan = _plan(run, regime, domain, seed, set_, analyze=False)
    folder = out or OUT / study.name
    if dry_run:
        from nca_interp.engine.cost import print_plan

        print_plan(plan, folder, workers, threads)
        return
    code = _run(folder, study, plan, workers, threads, resume=" ".join(["nca-interp", *sys.argv[1:]]))
    print(f"trained: {folder}\nnext: nca-interp analyze {folder}")
    raise typer.Exit(code)


@app.command()
def analyze(
    study: Annotated[Path | None, typer.Argument(help="Study folder: every checkpoint of every run.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="One Hugging Face checkpoint instead: a directory, or org/name[@revision].")
    ] = None,
    probe: Annotated[list[str] | None, typer.Option(help="Only this probe (repeatable).")] = None,
    probes: Probes = None,
    tokens: Annotated[Path | None, typer.Option(help="Token directory for natural stimuli.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json (or its folder) for natural text; default the checkpoint's own.")
    ] = None,
    random: Annotated[
        int, typer.Option(min=0, help="Randomly initialised models to compare with; 5 or more give hits.")
    ] = 0,
    device: Annotated[str, typer.Option(help="With --checkpoint: cpu, cuda, cuda:1 ...")] = "cpu",
    dtype: Annotated[str, typer.Option(help="With --checkpoint: float32, bfloat16 or float16 weights.")] = "float32",
    table: Annotated[
        Path | None, typer.Option(help="With --checkpoint: also write the table here, .csv or .parquet.")
    ] = None,
    causes: Annotated[
        bool, typer.Option("--causes", help="With --checkpoint: what it loses without each head; minutes.")
    ] = False,
    inference: Annotated[
        bool,
        typer.Option("--inference", help="With --checkpoint of NCA pre-pre-training: was the task learned? No probes."),
    ] = False,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="With a study: also how alike its networks are inside; see docs/compare.md."),
    ] = False,
    workers: Workers = None,
    threads: Threads = 1,
) -> None:
    """Measure heads and behaviour of one checkpoint, or of a whole study."""
    if (study is None) == (checkpoint is None):
        raise UserError("give either a study folder or --checkpoint DIR")
    if compare and study is None:
        raise UserError("--compare goes with a study folder: it compares the runs of its regimes")
    if causes:
        if checkpoint is None or inference or probe or random or dtype != "float32":
            raise UserError(
                "--causes goes with --checkpoint, --probes, --tokens, --tokenizer, --device and --table only"
            )
        from nca_interp.cli_causes import show_causes

        show_causes(
            checkpoint, {"tokens": tokens, "tokenizer": tokenizer, "probes_folder": probes, "device": device}, table
        )
        return
    if checkpoint is not None:
        if inference:
            if probe or probes or tokens or tokenizer or random or dtype != "float32":
                raise UserError(
                    "--inference runs no probes and draws its own rows; only --device and --table go with it"
                )
            _infer(checkpoint, device, table)
            return
        options = {"tokens": tokens, "tokenizer": tokenizer, "random": random, "device": device, "dtype": dtype}
        _analyze_checkpoint(checkpoint, probe, probes, options, table)
        return
    assert study is not None
    if inference:
        raise UserError("--inference goes with --checkpoint; a study measures it by itself (tables/learned.csv)")
    if probe or tokens or tokenizer or random or table or (device, dtype) != ("cpu", "float32"):
        raise UserError(
            "a study runs every probe on every checkpoint; only --probes, --compare, --workers and --threads go with it"
        )
    code = _analyze_study(study, workers, threads, probes)
    if compare:
        from nca_interp.analysis.compare import compare_study

        compare_study(study)
    print(f"tables: {study / 'tables'}\nnext: nca-interp report {study}")
    raise typer.Exit(code)


@app.command()
def report(
    study: Annotated[Path, typer.Argument(help="Study folder.")],
    name: Annotated[str, typer.Option(help="Report definition (see: nca-interp list).")] = "study",
) -> None:
    """Write the study's self-contained HTML report from its tables."""
    _report(study, name)


@app.command()
def view(study: Annotated[Path, typer.Argument(help="Study folder.")] = OUT / "demo") -> None:
    """Open a study's report in the browser."""
    from nca_interp.store import StudyDir

    path = StudyDir.open(study).report
    if not path.is_file():
        raise UserError(f"{path}: no report yet; run: nca-interp report {study}")
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
    """Show the state of every run of a study while other processes train it. Reads only."""
    from contextlib import suppress

    from rich.console import Console

    from nca_interp import watch as watching

    with suppress(KeyboardInterrupt):
        watching.watch(study, Console(), once, json)


@app.command("list")
def list_(
    probes: Probes = None,
    definitions: Annotated[
        bool, typer.Option("--definitions", help="The definition of every probe instead, as Markdown.")
    ] = False,
) -> None:
    """List runs, probes and reports, the user's own included."""
    from nca_interp import discover

    if definitions:
        from nca_interp.analysis.summary import document

        print(document(discover.load("probes", probes)), end="")
        return
    for kind in ("runs", "probes", "reports"):
        print(f"{kind}:")
        found = discover.load(
            kind, probes if kind == "probes" else None, on_error=lambda m: print(f"  broken: {m}", file=sys.stderr)
        )
        for name, definition in sorted(found.items()):
            print(f"  {name:24} {definition.doc}")


@app.command()
def doctor() -> None:
    """Show versions, devices and what this machine can do."""
    import shutil

    from nca_interp import machine

    print(f"device      {machine.device_name()}, {machine.cores()} cores")
    precision = machine.resolve_precision("auto")
    native = "native" if machine.native_bf16() else "not native: auto precision is fp32"
    print(f"bf16        {native}")
    print(f"matmul      {machine.matmul_flops(precision) / 1e9:,.0f} GFLOP/s ({precision}, one thread or GPU)")
    print(f"disk free   {shutil.disk_usage('.').free / 1e9:,.0f} GB")
    for name, version in machine.package_versions().items():
        print(f"{name:24} {version}")
    if "missing" in machine.package_versions().values():
        raise RunFailed("packages are missing; install with: pip install -c constraints.txt -e .")


def _execute_on(device: str, track: list[str], shard: bool) -> None:
    """Settle how runs are computed, for this process and its workers, before anything touches a device."""
    import os

    from nca_interp.machine import refuse_lost_processes, use_device

    refuse_lost_processes()
    use_device(device)
    if track:
        from nca_interp.train.track import TRACK, check

        check(track)
        os.environ[TRACK] = ",".join(track)
    if shard:
        from nca_interp.machine import torchrun
        from nca_interp.train.parallel import SHARD

        if os.environ.get("WORLD_SIZE", "1") == "1":
            raise UserError(f"--shard: there is one process; start several: {torchrun(2)}")
        os.environ[SHARD] = "true"


def _plan(
    name: str, regime: str | None, domain: str | None, seed: int | None, overrides: list[str] | None, *, analyze: bool
) -> tuple[Study, Plan]:
    from nca_interp import discover
    from nca_interp.engine.plan import make_plan
    from nca_interp.machine import resolve_precision
    from nca_interp.overrides import call_recipe

    study = call_recipe(discover.find("runs", name).value, overrides or [])
    return study, make_plan(study, resolve_precision(study.precision), regime, domain, seed, analyze)


def _run(folder: Path, study: Study, plan: Plan, workers: int | None, threads: int, resume: str) -> int:
    """Claim the folder, check the disk, run the plan; returns the exit code."""
    import os
    import shutil

    from nca_interp import machine
    from nca_interp.engine.cost import disk_cost, size
    from nca_interp.engine.runner import default_workers
    from nca_interp.store import StudyDir

    workers = workers or default_workers()
    directory = StudyDir(folder)
    fresh = not directory.config.exists()
    precision = machine.resolve_precision(study.precision)
    directory.claim(
        study.model_dump(mode="json"),
        machine.provenance(" ".join(["nca-interp", *sys.argv[1:]]), precision, workers, threads),
    )
    free = shutil.disk_usage(folder).free
    if fresh and (needed := disk_cost(plan, workers).peak) > free:
        raise RunFailed(f"{folder}: the plan needs {size(needed)}, {size(free)} are free (details: --dry-run)")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from nca_interp.engine.runner import run_inline

        return _finish(run_inline(directory, plan, lambda what, job, message: print(what, job.id, flush=True)), resume)
    return _finish(_follow(directory, plan, workers, threads, None), resume)


def _follow(directory: StudyDir, plan: Plan, workers: int, threads: int, probes: Path | None) -> Outcome:
    from rich.console import Console

    from nca_interp.engine.runner import run_plan
    from nca_interp.progress import Follow

    follow = Follow(directory, plan, Console(stderr=True))
    with follow.shown():
        return run_plan(
            directory, plan, workers=workers, threads=threads, probes=probes, on_event=follow.event, on_tick=follow.tick
        )


def _finish(outcome: Outcome, resume: str) -> int:
    """Exit code of a plan: 1 where runs or probes failed (the others are whole and go on to the report).

    Raises UserError for mistakes, RunFailed where token files could not be made, and leaves with 130 or 143 where it
    was stopped.
    """
    if outcome.stopped:
        fail(f"stopped; everything is saved, continue with: {resume}", 128 + outcome.stopped)
    messages = "\n".join(f"{job}: {text}" for job, text in outcome.messages.items())
    if outcome.usage_error:
        raise UserError(messages)
    if any(job.startswith("tokens:") for job in outcome.failed):
        raise RunFailed(messages)
    if outcome.failed:
        print(f"error: {len(outcome.failed)} job(s) failed, the others are finished:\n{messages}", file=sys.stderr)
    return 1 if outcome.failed else 0


def _analyze_study(folder: Path, workers: int | None, threads: int, probes: Path | None) -> int:
    from nca_interp.engine.plan import analysis_plan
    from nca_interp.engine.runner import default_workers
    from nca_interp.store import StudyDir

    directory = StudyDir.open(folder)
    plan = analysis_plan(directory)
    resume = f"nca-interp analyze {folder}{_option('--probes', probes)}"
    code = _finish(_follow(directory, plan, workers or default_workers(), threads, probes), resume)
    _tables(folder, probes)
    return code


def _tables(folder: Path, probes: Path | None) -> None:
    from nca_interp.analysis.tables import build_tables

    build_tables(folder, probes_folder=probes)


def _analyze_checkpoint(
    checkpoint: str, probe: list[str] | None, probes: Path | None, options: dict[str, Any], path: Path | None
) -> None:
    import warnings

    from rich.console import Console
    from rich.table import Table

    from nca_interp.analysis.engine import analyze
    from nca_interp.analysis.probe_table import check_suffix, save
    from nca_interp.analysis.summary import COLUMNS, summarise

    check_suffix(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # problems are printed below
        frame = analyze(checkpoint, probe or None, probes_folder=probes, **options)
    table = Table(title=checkpoint, title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("probe", "unit") else "right")
    for row in summarise(frame):
        table.add_row(*row)
    Console().print(table)
    if path is not None:
        print(f"table: {', '.join(map(str, save(frame, path)))}")
    for reason in frame.attrs["skipped"]:
        print(f"skipped: {reason}", file=sys.stderr)
    problems = frame.attrs["problems"]
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    if problems:
        raise RunFailed(f"{len(problems)} probe(s) failed; the others are above")


def _infer(checkpoint: str, device: str, path: Path | None) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from nca_interp.analysis.inference import rule_inference
    from nca_interp.analysis.probe_table import check_suffix, save
    from nca_interp.analysis.summary import by_frame, what_changed_contexts_cost

    check_suffix(path)
    frame = rule_inference(checkpoint, device=device)
    for title, columns, rows in by_frame(frame):
        table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
        for name in columns:
            table.add_column(name, justify="right", vertical="bottom")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    print(frame.attrs["learned"]["sentence"], what_changed_contexts_cost(frame.attrs["learned"]), sep="\n")
    if path is not None:
        print(f"table: {', '.join(map(str, save(frame, path)))}")
    for note in frame.attrs["notes"]:
        print(f"note: {note}", file=sys.stderr)


def _report(folder: Path, name: str = "study") -> None:
    from nca_interp import discover
    from nca_interp.report.build import build_report
    from nca_interp.store import StudyDir

    directory = StudyDir.open(folder)
    path = build_report(directory.path, discover.find("reports", name))
    print(f"report: {path.resolve()}")


def _option(flag: str, value: Path | None) -> str:
    return f" {flag} {value}" if value is not None else ""


if __name__ == "__main__":
    main()
