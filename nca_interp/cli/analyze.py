"""`nca-interp analyze`: one checkpoint, printed and as a table, or every checkpoint of a study."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from nca_interp.cli.plan import Probes, Threads, Workers, finish, follow, print_table, this_command, write_tables
from nca_interp.errors import RunFailed, UserError

CHECKPOINT = ("--probe", "--probes", "--tokens", "--tokenizer", "--random", "--device", "--dtype", "--table")
CAUSES = ("--probes", "--tokens", "--tokenizer", "--device", "--table")
INFERENCE = ("--device", "--table")
STUDY = ("--probes", "--random", "--causes", "--compare", "--workers", "--threads")


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
        int | None,
        typer.Option(
            min=0,
            max=1000,
            help="Randomly initialised models to compare with; default 5 for a study, 0 for --checkpoint.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="With --checkpoint: cpu, cuda, cuda:1 ...")] = "cpu",
    dtype: Annotated[str, typer.Option(help="With --checkpoint: float32, bfloat16 or float16 weights.")] = "float32",
    table: Annotated[
        Path | None, typer.Option(help="With --checkpoint: also write the table here, .csv or .parquet.")
    ] = None,
    causes: Annotated[
        bool,
        typer.Option("--causes", help="Also what the end of each run loses without each head; see docs/causes.md."),
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
    given = {
        "--probe": probe, "--probes": probes, "--tokens": tokens, "--tokenizer": tokenizer, "--random": random,
        "--device": device != "cpu", "--dtype": dtype != "float32", "--table": table, "--causes": causes,
        "--inference": inference, "--compare": compare, "--workers": workers, "--threads": threads != 1,
    }  # fmt: skip
    if (study is None) == (checkpoint is None):
        raise UserError("give either a study folder or --checkpoint DIR")
    if study is not None:
        _only(given, "a study", STUDY)
        raise typer.Exit(_study(study, workers, threads, probes, random, causes, compare))
    assert checkpoint is not None
    if causes:
        _only(given, "--causes", CAUSES)
        _check(checkpoint, device, table, [probes, tokens, tokenizer])
        from nca_interp.cli.causes import show_causes

        where = {"tokens": tokens, "tokenizer": tokenizer, "probes_folder": probes, "device": device}
        show_causes(checkpoint, where, table)
    elif inference:
        _only(given, "--inference", INFERENCE)
        _check(checkpoint, device, table, [])
        _inference(checkpoint, device, table)
    else:
        _only(given, "--checkpoint", CHECKPOINT)
        _check(checkpoint, device, table, [probes, tokens, tokenizer])
        options = {"tokens": tokens, "tokenizer": tokenizer, "random": random or 0, "device": device, "dtype": dtype}
        _checkpoint(checkpoint, probe, probes, options, table)


def _only(given: dict[str, Any], what: str, legal: tuple[str, ...]) -> None:
    """UserError for an option that has no meaning beside `what`."""
    for name, value in given.items():
        if value and name not in (what, *legal):
            raise UserError(f"{name} does not go with {what}; legal with it: {', '.join(legal)}")


def _check(checkpoint: str, device: str, table: Path | None, reads: list[Path | None]) -> None:
    """UserError for a device that is not here, and for a table that may not be written: before anything is measured."""
    from nca_interp.machine import check_device

    check_device(device)
    if table is not None:
        from nca_interp.analysis.probing.table import check_suffix
        from nca_interp.outputs import check_table

        check_suffix(table)
        check_table("--table", table, [Path(checkpoint), *reads])


def _study(
    folder: Path,
    workers: int | None,
    threads: int,
    probes: Path | None,
    random: int | None,
    causes: bool,
    compare: bool,
) -> int:
    from nca_interp.engine.plan import ALWAYS, RANDOM, Measurement, analysis_plan
    from nca_interp.engine.runner import default_workers
    from nca_interp.store import StudyDir

    directory = StudyDir.open(folder)
    more: dict[Measurement, bool] = {"causes": causes, "compare": compare}
    kinds = (*ALWAYS, *(kind for kind, asked in more.items() if asked))
    plan = analysis_plan(directory, kinds, RANDOM if random is None else random)
    resume = this_command()
    code = finish(follow(directory, plan, workers or default_workers(), threads, probes), resume)
    write_tables(folder, probes)
    if not causes:
        from nca_interp.analysis.causes.study import outdated

        if old := outdated(directory.all_runs(), probes):
            print(
                f"note: causes of {len(old)} run(s) are of other weights, code or probes: {resume} --causes",
                file=sys.stderr,
            )
    print(f"tables: {directory.tables}\nnext: {shlex.join(['nca-interp', 'report', str(folder)])}")
    return code


def _checkpoint(
    checkpoint: str, probe: list[str] | None, probes: Path | None, options: dict[str, Any], path: Path | None
) -> None:
    import warnings

    from nca_interp.analysis.probing.engine import analyze
    from nca_interp.analysis.probing.summary import annotate, summarise
    from nca_interp.analysis.probing.table import save

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # problems are printed below
        frame = analyze(checkpoint, probe or None, probes_folder=probes, **options)
    columns, rows, notes = annotate(summarise(frame))
    print_table(f"{checkpoint}: largest score of each probe, at layer.head", columns, rows, left=("unit",))
    for note in notes:
        print(note)
    if path is not None:
        print(f"table: {', '.join(map(str, save(frame, path)))}")
    for reason in frame.attrs["skipped"]:
        print(f"skipped: {reason}", file=sys.stderr)
    problems = frame.attrs["problems"]
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    if problems:
        raise RunFailed(f"{len(problems)} probe(s) failed; the others are above")


def _inference(checkpoint: str, device: str, path: Path | None) -> None:
    from nca_interp.analysis.inference.inference import rule_inference
    from nca_interp.analysis.probing.summary import by_frame, what_changed_contexts_cost
    from nca_interp.analysis.probing.table import save

    frame = rule_inference(checkpoint, device=device)
    for title, columns, rows in by_frame(frame):
        print_table(title, columns, rows)
    print(frame.attrs["learned"]["sentence"], what_changed_contexts_cost(frame.attrs["learned"]), sep="\n")
    if path is not None:
        print(f"table: {', '.join(map(str, save(frame, path)))}")
    for note in frame.attrs["notes"]:
        print(f"note: {note}", file=sys.stderr)
