"""What commands share: from a recipe to its plan, running it, exit codes, tables printed and written, report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from nca_interp.cli.parse import MAX_WORKERS
from nca_interp.errors import RunFailed, UserError
from nca_interp.signals import this_command as this_command

if TYPE_CHECKING:
    from nca_interp.config import Study
    from nca_interp.engine.cost import Stand
    from nca_interp.engine.engines import Engine as Opened
    from nca_interp.engine.plan import Job, Plan
    from nca_interp.engine.runner import Outcome
    from nca_interp.store import AnalysisDir, StudyDir

Workers = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_WORKERS, help="Jobs side by side, as far as memory goes; default one a core or GPU."),
]
Engine = Annotated[
    str,
    typer.Option(metavar="NAME[:ADDRESS]", help="Who runs the jobs: local, or ray[:ADDRESS], a cluster that is there."),
]
Threads = Annotated[int, typer.Option(min=1, max=MAX_WORKERS, help="Threads a job.")]
Probes = Annotated[Path | None, typer.Option(help="Folder with further probe files.")]


def fail(message: str, code: int) -> NoReturn:
    """Print one message on stderr and leave."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


def print_table(title: str, columns: list[str], rows: list[list[str]], left: tuple[str, ...] = ()) -> None:
    """A table for 80 columns; the first column, what rows are of, and headings are never cut. `left`: columns of text."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    tall = any("\n" in name for name in columns)
    for index, name in enumerate(columns):
        text = index == 0 or name in left
        table.add_column(
            name,
            justify="left" if text else "right",
            vertical="bottom" if tall else "top",
            no_wrap=name not in left,
        )
    for row in rows:
        table.add_row(*row)
    print(title)
    Console().print(table)


WIDTH = 80
"""Columns of a terminal that text is wrapped for."""


def print_about(text: str) -> None:
    """Print what a recipe says of itself, its paragraphs wrapped, and an empty line."""
    import textwrap

    for paragraph in text.split("\n\n"):
        print(
            textwrap.fill(" ".join(paragraph.split()), WIDTH, break_long_words=False, break_on_hyphens=False),
            end="\n\n",
        )


def execute_on(device: str, track: list[str], shard: bool, here: bool = True) -> None:
    """Settle how runs are computed, for this process and its workers, before anything touches a device; `here`: on this machine."""
    import os

    from nca_interp.machine import refuse_lost_processes, use_device

    refuse_lost_processes()
    use_device(device, here)
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


def arranged(folder: Path, study: Study) -> Study:
    """A study in the order of regimes in which the runs of the folder keep their names, where there is one (`engine.change`)."""
    from nca_interp.engine.change import arranged as in_order
    from nca_interp.machine import resolve_precision
    from nca_interp.store import StudyDir

    directory = StudyDir(folder)
    if not directory.config.is_file():
        return study
    return in_order(directory.read_config(), study, resolve_precision(study.precision, study.model.d_model))


def planned(study: Study, regime: str | None, domain: str | None, seed: int | None, analyze: bool) -> Plan:
    """The plan of a study on this machine."""
    from nca_interp.engine.plan import make_plan
    from nca_interp.machine import resolve_precision

    return make_plan(study, resolve_precision(study.precision, study.model.d_model), regime, domain, seed, analyze)


def part(plan: Plan, share: str | None, job: str | None) -> Plan:
    """One share of a plan, or one job of it. UserError where there is none."""
    from nca_interp.engine import shares

    if share is not None and job is not None:
        raise UserError("--share and --job: give one of them")
    if job is not None:
        return shares.only(plan, job)
    return plan if share is None else shares.share(plan, *shares.parse_share(share))


def run_plan(folder: Path, study: Study, plan: Plan, workers: int | None, threads: int, engine: str = "local") -> int:
    """Check the disk and the engine, claim the folder, run the plan; returns the exit code."""
    import os
    import shutil

    from nca_interp import machine
    from nca_interp.analysis.verdicts.plan import contrasts_of, declare
    from nca_interp.data.text.named_tokenizer import ASSUMED
    from nca_interp.engine.change import alters_no_run, rename
    from nca_interp.engine.cost import disk_cost, size
    from nca_interp.engine.local import default_workers
    from nca_interp.engine.plan import unknown_tokenizers
    from nca_interp.store import StudyDir, refuse_unwritable

    contrasts_of(study)  # a plan that cannot be is refused before anything is written
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if together and engine != "local":
        raise UserError(
            f"--engine {engine}: several processes that were launched together train one run here; start it once"
        )
    directory = StudyDir(folder)
    refuse_unwritable("--out", folder)
    if not directory.config.exists():
        check_bands(plan)
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free, needed = shutil.disk_usage(there).free, disk_cost(plan, workers or default_workers()).peak
        if needed > free:
            unknown = "".join(f"; {n!r} is taken to have {ASSUMED:,} tokens" for n in unknown_tokenizers(plan))
            raise RunFailed(
                f"{folder}: the plan needs {size(needed)}, {size(free)} are free (details: --dry-run){unknown}"
            )
    opened = None if together else open_engine(engine, folder, plan, workers, threads)
    workers = workers or (default_workers() if opened is None else opened.workers)
    precision = machine.resolve_precision(study.precision, study.model.d_model)
    provenance = machine.provenance(this_command(), precision, workers, threads)
    if directory.claim(
        study.model_dump(mode="json"), provenance, lambda there, asked: alters_no_run(there, asked, precision)
    ):
        rename(directory, study, precision)
    declare(directory, study)
    if opened is None:
        return _together(directory, plan)
    outcome = follow(directory, plan, opened)
    print_notes(directory, plan)
    return finish(outcome, this_command())


def check_bands(plan: Plan) -> None:
    """UserError naming the regime whose automata are chosen by a band or measure that no rule reaches."""
    from nca_interp.data.nca.reach import check_reach
    from nca_interp.data.specs import NcaSpec

    sources = {str(run.source): run for run in plan.runs if run.stage == "ppt" and run.source.get("kind") == "nca"}
    for run in sources.values():
        try:
            check_reach(NcaSpec.model_validate(run.source))
        except UserError as error:
            raise UserError(f"regimes.{run.regime}.source: {error}") from None


def stands(folder: Path, study: Study, plan: Plan) -> dict[str, Stand]:
    """How far each run of a plan is in a folder, and, printed, what of the study that is there would change; nothing where it is another
    study, which `train` would refuse."""
    from nca_interp import machine
    from nca_interp.engine.change import alters_no_run
    from nca_interp.engine.cost import Stand
    from nca_interp.store import StudyDir

    directory = StudyDir(folder)
    precision = machine.resolve_precision(study.precision, study.model.d_model)
    changed, refused = directory.changes(
        study.model_dump(mode="json"), lambda there, asked: alters_no_run(there, asked, precision)
    )
    if refused:
        print(f"refused     {refused}\n")
        return {}
    if changed:
        print(f"changes     {len(changed)} that alter no run: only what is new is trained\n")
    found = {run.id: directory.run(run.id).status() for run in plan.runs if directory.run(run.id).config.is_file()}
    return {name: Stand(str(status["state"]), int(status["step"])) for name, status in found.items()}


def check_folder(folder: Path, study: Study) -> None:
    """UserError unless its corpora are installed, the checkpoints that it starts from are of its model, and it may be written to
    `folder`: new, empty or a study, and not in what its runs read."""
    from nca_interp.checkpoint_spec import CheckpointSpec
    from nca_interp.data.sources import check_installed, inputs
    from nca_interp.outputs import check_output
    from nca_interp.store import StudyDir

    specs = [domain.source for domain in study.domains]
    parents = [regime.source for regime in study.regimes if isinstance(regime.source, CheckpointSpec)]
    others = [r.source for r in study.regimes if r.source is not None and not isinstance(r.source, CheckpointSpec)]
    check_installed([*specs, *others])
    reads = [path for spec in specs for path in inputs(spec.source, spec)]
    reads += [Path(place) for parent in parents for place in parent.paths]
    check_output("--out", folder, "study", StudyDir.may_claim, reads=reads)
    if parents:
        from nca_interp.model.parent import check_parents

        check_parents(study)


def check_engine(name: str) -> None:
    """UserError unless the engine is known and installed; its address is tried later."""
    from nca_interp.engine.engines import LOCAL, parse

    if name != LOCAL:
        parse(name)


def open_engine(
    name: str, folder: Path, plan: Plan, workers: int | None, threads: int, probes: Path | None = None
) -> Opened:
    """The engine `NAME[:ADDRESS]` for the jobs of a plan. UserError where it is not there or cannot do one of them, with nothing written."""
    from functools import partial

    from nca_interp.engine.engines import Asked, device_asked, opened
    from nca_interp.engine.needs import needs_of

    kinds = frozenset(job.kind for job in plan.jobs)
    needs = partial(needs_of, plan, threads)
    engine = opened(name, Asked(folder.absolute(), needs, workers, threads, probes, device=device_asked(), kinds=kinds))
    if engine.about:
        print(f"{engine.about}; whatever ends this command, it continues with: {this_command()}", file=sys.stderr)
    return engine


def follow(directory: AnalysisDir, plan: Plan, engine: Opened) -> Outcome:
    """Have an engine run a plan, and show how far it is; what happens to each job stands in `jobs/` for `watch`."""
    from rich.console import Console

    from nca_interp.cli.progress import Follow
    from nca_interp.engine.journal import Journal
    from nca_interp.engine.runner import run_plan as run_jobs

    following = Follow(directory, plan, Console(stderr=True))
    with Journal.begun(directory.path) as journal, following.shown():

        def event(what: str, job: Job, message: str) -> None:
            journal.add(what, job.id, message)
            following.event(what, job, message)

        return run_jobs(directory, plan, engine=engine, on_event=event, on_tick=following.tick)


def print_notes(directory: StudyDir, plan: Plan) -> None:
    """Say what the tokens of a plan lack of what was asked for (`data.notes`)."""
    from nca_interp.data.text.notes import notes
    from nca_interp.data.tokens import read_meta
    from nca_interp.engine.plan import TokensJob

    for job in plan.jobs:
        if isinstance(job.payload, TokensJob) and (tokens := directory.path / job.payload.path).is_dir():
            for note in notes(read_meta(tokens)):
                print(f"note: {tokens.name}: {note}")


def _together(directory: StudyDir, plan: Plan) -> int:
    """Run the plan as one of several processes that were launched together; the first one speaks for all."""
    from rich.console import Console

    from nca_interp.cli.progress import Follow
    from nca_interp.engine.inline import run_inline
    from nca_interp.machine import launched_again
    from nca_interp.train.guard import is_first_process

    if not is_first_process():
        outcome = run_inline(directory, plan)
        raise SystemExit(128 + outcome.stopped if outcome.stopped else int(bool(outcome.failed)))
    following = Follow(directory, plan, Console(stderr=True))
    with following.shown():
        outcome = run_inline(directory, plan, on_event=following.event, on_tick=following.tick)
    print_notes(directory, plan)
    return finish(outcome, launched_again(sys.argv[1:]))


def finish(outcome: Outcome, resume: str) -> int:
    """Exit code of a plan: 1 where runs or probes failed (the others are whole and go on to the report).

    Raises UserError for mistakes, RunFailed where token files could not be made, and leaves with 130 or 143 where it
    was stopped.
    """
    messages = "\n".join(f"{job}: {text}" for job, text in outcome.messages.items())
    if outcome.stopped:
        how = f"{len(outcome.failed)} job(s) failed:\n{messages}\n" if messages else "everything is saved, "
        fail(f"stopped; {how}continue with: {resume}", 128 + outcome.stopped)
    if outcome.usage_error:
        raise UserError(messages)
    if any(job.startswith("tokens:") for job in outcome.failed):
        raise RunFailed(messages)
    if outcome.failed:
        print(f"error: {len(outcome.failed)} job(s) failed, the others are finished:\n{messages}", file=sys.stderr)
    return 1 if outcome.failed else 0


def write_tables(folder: Path, probes: Path | None) -> None:
    """Write the tables of a study from what its runs hold."""
    from nca_interp import machine
    from nca_interp.analysis.tables import build_tables
    from nca_interp.cli.progress import steps

    with steps() as say:
        build_tables(folder, probes_folder=probes, say=say, alone=machine.cores() < 2)


def write_report(folder: Path, name: str | None = None) -> None:
    """Write a report and say where it lies; `name`: its definition, by default that of a study or of checkpoints."""
    from nca_interp import discover
    from nca_interp.cli.progress import steps
    from nca_interp.report.build import build_report
    from nca_interp.report.pages.phase import PhaseFolder

    if PhaseFolder.is_one(folder):
        found = None if name is None else discover.find("reports", name)
        print(f"report: {PhaseFolder(folder).build(found).resolve()}")
        return
    with steps() as say:
        path = build_report(folder, None if name is None else discover.find("reports", name), say)
    print(f"report: {path.resolve()}")
