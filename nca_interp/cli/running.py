"""What commands share that run a plan: the engine, what is shown of it, exit codes, and the tables and report that follow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nca_interp.cli.plan import check_bands
from nca_interp.cli.show import fail
from nca_interp.errors import RunFailed, UserError
from nca_interp.signals import this_command

if TYPE_CHECKING:
    from nca_interp.config import Study
    from nca_interp.engine.engines import Engine as Opened
    from nca_interp.engine.graph import Job, Plan
    from nca_interp.engine.runner import Outcome
    from nca_interp.store import AnalysisDir, StudyDir


def run_plan(
    folder: Path, study: Study, plan: Plan, workers: int | None, threads: int, engine: str = "local", anew: bool = False
) -> int:
    """Check the disk and the engine, claim the folder, run the plan; returns the exit code. `anew`: declare what is compared anew."""
    import os
    import shutil

    from nca_interp import machine
    from nca_interp.analysis.verdicts.declare import check_anew, declare
    from nca_interp.analysis.verdicts.plan import contrasts_of
    from nca_interp.data.text.named_tokenizer import ASSUMED
    from nca_interp.engine.change import alters_no_run, rename
    from nca_interp.engine.cost import disk_cost, size
    from nca_interp.engine.local import default_workers
    from nca_interp.engine.vocabulary import unknown_tokenizers
    from nca_interp.store import StudyDir, refuse_unwritable

    contrasts_of(study)  # a plan that cannot be is refused before anything is written
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if together and engine != "local":
        raise UserError(
            f"--engine {engine}: several processes that were launched together train one run here; start it once"
        )
    directory = StudyDir(folder)
    refuse_unwritable("--out", folder)
    if anew:
        check_anew(directory, study)
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
        study.model_dump(mode="json"), provenance, lambda there, asked: alters_no_run(there, asked, precision, anew)
    ):
        rename(directory, study, precision)
    if not declare(directory, study, this_command() if anew else None):
        _say_changed(directory, study)
    if opened is None:
        return _together(directory, plan)
    outcome = follow(directory, plan, opened)
    print_notes(directory, plan)
    return finish(outcome, this_command())


def _say_changed(directory: StudyDir, study: Study) -> None:
    """Say that what is compared is not what was declared, and whether it can still be."""
    from nca_interp.analysis.verdicts.declare import check_anew
    from nca_interp.analysis.verdicts.plan import kept_plan

    how = (
        "is not the one that is kept, which verdicts follow"
        if kept_plan(directory)
        else "was not kept before its runs began"
    )
    try:
        check_anew(directory, study)
    except UserError:
        how += "; the report shows the difference"
    else:
        how += "; no run that it compares has been evaluated yet, so --declare still declares it anew"
    print(f"note: the plan of comparisons {how}", file=sys.stderr)


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
    from nca_interp.engine.graph import TokensJob

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
        begun = [job for job, state in outcome.states.items() if state == "stopped"]
        within = next((f" within {job}" for job in begun if not job.startswith(("train:", "tokens:"))), "")
        saved = "what was finished is saved, " if within else "everything is saved, "
        how = f"{len(outcome.failed)} job(s) failed:\n{messages}\n" if messages else saved
        fail(f"stopped{within}; {how}continue with: {resume}", 128 + outcome.stopped)
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
    from nca_interp import discover, machine
    from nca_interp.cli.progress import steps
    from nca_interp.report.build import build_report
    from nca_interp.report.pages.phase import PhaseFolder

    if PhaseFolder.is_one(folder):
        found = None if name is None else discover.find("reports", name)
        print(f"report: {PhaseFolder(folder).build(found).resolve()}")
        return
    with steps() as say:
        found = None if name is None else discover.find("reports", name)
        path = build_report(folder, found, say, alone=machine.cores() < 2)
    print(f"report: {path.resolve()}")
