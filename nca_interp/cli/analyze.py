"""`nca-interp analyze`: measure a study, or any set of checkpoints, into tables and a report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nca_interp.cli.flags import only_these, split
from nca_interp.cli.plan import Engine, Probes, Workers, check_engine
from nca_interp.cli.running import finish, follow, open_engine, write_report, write_tables
from nca_interp.cli.show import print_table
from nca_interp.cli.tried import try_checkpoints, try_text
from nca_interp.errors import UserError
from nca_interp.measurement import check_given
from nca_interp.signals import this_command

if TYPE_CHECKING:
    from nca_interp.analysis.collection.collection import Collection

OUT = Path("runs/out/analysis")


def analyze(
    ctx: typer.Context,
    place: Annotated[
        str | None,
        typer.Argument(
            metavar="[FOLDER]", help="Study folder, or the folder that an earlier analysis of checkpoints wrote."
        ),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="Hugging Face checkpoint (repeatable): a directory, a folder of step folders, org/name[@revision or @step*], a "
            ".yaml, .json or .py file that lists some; LABEL= in front names it."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --checkpoint: folder to write; default named after them.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME]",
            help="Nothing but this measurement (repeatable; any of those below) and what other options ask for.",
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN", help="Measure of these runs alone, by name or pattern: 'pt.nca.web.*' (repeatable)."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="An option of a measurement: NAME.option=value (repeatable).")
    ] = None,
    probe: Annotated[list[str] | None, typer.Option(help="Only this probe (repeatable).")] = None,
    probes: Probes = None,
    tokens: Annotated[Path | None, typer.Option(help="Natural text: a token directory or a UTF-8 file.")] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Tokenizer for natural text: a file, a folder, a hub name; default the checkpoint's own."),
    ] = None,
    text: Annotated[list[Path] | None, typer.Option(help="File of your own text to look at (repeatable).")] = None,
    random: Annotated[
        int | None,
        typer.Option(
            min=0, help="Randomly initialised models to compare with; default 5, fewer where they have many heads."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="With --checkpoint: cpu, cuda, cuda:1 ...")] = None,
    dtype: Annotated[str | None, typer.Option(help="With --checkpoint: float32, bfloat16 or float16 weights.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="A first look: fewer sequences, no random models.")] = False,
    table: Annotated[
        Path | None, typer.Option(help="Also write the table of every head's scores here, .csv or .parquet.")
    ] = None,
    workers: Workers = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads a job; default 1 in a study, else all cores.")
    ] = None,
    engine: Engine = "local",
) -> None:
    """Measure heads and behaviour of a study, or of any checkpoints, into tables and a report.

    A measurement that is made by request is asked for by its name: --causes, --compare. Each is made alone by --only NAME.
    """
    from nca_interp.analysis.collection.collection import Collection
    from nca_interp.store import refuse_unwritable

    check_engine(engine)
    given_more = split([*([place] if place is not None else []), *ctx.args])
    folder = Path(given_more.places[0]) if given_more.places else None
    given_more.asked.extend([*only_these(only or []), *(["probes"] if probe else [])])
    if (folder is None) == (not checkpoint):
        raise UserError("give either a folder (a study, or an earlier analysis) or --checkpoint CHECKPOINT")
    given: dict[str, Any] = {
        "tokens": _text(tokens), "tokenizer": _text(tokenizer), "text": tuple(str(p.resolve()) for p in text) if text else None,
        "device": device, "dtype": dtype, "random": random, "fast": fast or None,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    options = _options(set_ or [], probe, probes, random, given_more.options)
    _check(checkpoint or [], device, table, [probes, tokens, tokenizer, folder])
    if folder is not None:
        collection = Collection.open(folder)
        refuse_unwritable("folder", folder)
        wrong = [
            name
            for name in (*given, *(["out"] if out else []))
            if collection.study is not None and name not in ("random", "fast")
        ]
        if wrong:
            raise UserError(f"--{wrong[0]}: a study's checkpoints name their own tokens; it goes with --checkpoint")
        if collection.study is None and given:
            collection = _claim(collection.dir.path, _listed(collection, given), given_more.asked, options, probes)
        else:
            check_given(collection, given_more.asked, options, probes)
    else:
        assert checkpoint
        collection = _collect(checkpoint, given, out, given_more.asked, options, run, probes)
    runs = chosen(run, [one.id for one in collection.runs])
    raise typer.Exit(
        _measure(collection, given_more.asked, options, only is not None, runs, probes, workers, threads, table, engine)
    )


def chosen(patterns: list[str] | None, runs: list[str]) -> set[str]:
    """The runs that patterns (`*`, `?`) name, all without any; UserError for a pattern that names none."""
    from fnmatch import fnmatchcase

    from nca_interp.config import suggest

    found: set[str] = set()
    for pattern in patterns or ["*"]:
        named = {run for run in runs if fnmatchcase(run, pattern)}
        if patterns and not named:
            raise UserError(f"--run {pattern}: no run that has begun is named so{suggest(pattern, runs)}")
        found |= named
    return found


def _check(checkpoints: list[str], device: str | None, table: Path | None, reads: list[Path | None]) -> None:
    """UserError for a device that is not here, and for a table that may not be written: before anything is measured."""
    from nca_interp.machine import check_device

    check_device(device or "cpu")
    if table is not None:
        from nca_interp.analysis.probing.table import check_suffix
        from nca_interp.outputs import check_table

        check_suffix(table)
        check_table("--table", table, [*(Path(c.partition("=")[2] or c) for c in checkpoints), *reads])


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve() if path.exists() else path)


def _collect(
    names: list[str],
    given: dict[str, Any],
    out: Path | None,
    asked: list[str],
    options: dict[str, dict[str, Any]],
    run: list[str] | None = None,
    probes: Path | None = None,
) -> Collection:
    """The collection of what was named, in its folder."""
    from nca_interp.analysis.collection.collection import Settings
    from nca_interp.analysis.collection.find import find, folder_name
    from nca_interp.overrides import parse

    listed = find(names, parse(Settings, given))
    chosen(run, [entry.run for entry in listed.entries])  # refused before anything is written
    try_checkpoints(listed)
    return _claim(out or OUT / folder_name(listed), listed, asked, options, probes)


def _listed(collection: Collection, given: dict[str, Any]) -> Any:
    """What an earlier analysis was asked, with other settings."""
    from nca_interp.analysis.collection.collection import Listed
    from nca_interp.overrides import parse

    listed = parse(Listed, collection.dir.read_collection()["collection"])
    settings = parse(type(listed.settings), {**listed.settings.model_dump(), **given})
    return listed.model_copy(update={"settings": settings})


def _claim(
    folder: Path, listed: Any, asked: list[str], options: dict[str, dict[str, Any]], probes: Path | None
) -> Collection:
    """Write collection.json, or check that the folder holds the same checkpoints; nothing is written where what is asked of
    them cannot be done."""
    from nca_interp import machine
    from nca_interp.analysis.collection.collection import Collection
    from nca_interp.outputs import check_output, holds
    from nca_interp.store import AnalysisDir

    directory = AnalysisDir(folder)
    reads = [Path(e.path) for e in listed.entries]
    check_output("--out", folder, "analysis", holds(directory.collection.name, "collection"), reads=reads)
    provenance = machine.provenance(this_command(), listed.settings.dtype, 1, 1)
    collection = Collection.of(directory, listed, provenance)
    check_given(collection, asked, options, probes)
    try_text(collection)
    directory.claim_collection(listed.model_dump(mode="json"), provenance)
    return Collection.open(folder)


def _options(
    overrides: list[str],
    probe: list[str] | None,
    folder: Path | None,
    random: int | None,
    flags: dict[str, dict[str, str | bool]],
) -> dict[str, dict[str, Any]]:
    """By measurement, the options that were given, checked."""
    from nca_interp.config import suggest
    from nca_interp.measurement import measurements, resolve
    from nca_interp.overrides import with_overrides

    known = measurements()
    found: dict[str, dict[str, Any]] = {}
    for override in overrides:
        name, separator, rest = override.partition(".")
        if not separator or name not in known:
            raise UserError(f"--set {override}: expected NAME.option=value, NAME a measurement{suggest(name, known)}")
        found.setdefault(name, {}).setdefault("", []).append(rest)
    for name, given in found.items():
        model = with_overrides(resolve(known[name].options)(), given.pop(""), name)
        given |= model.model_dump(mode="json", exclude_unset=False, exclude_defaults=True)
    for name, values in flags.items():
        found.setdefault(name, {}).update(values)
    if probe:
        from nca_interp.analysis.probing.engine import choose

        choose(probe, folder)
        found.setdefault("probes", {})["names"] = list(probe)
    if random is not None:
        found.setdefault("nulls", {})["models"] = random
    return found


def _measure(
    collection: Collection, asked: list[str], options: dict[str, dict[str, Any]], only: bool, runs: set[str],
    probes: Path | None, workers: int | None, threads: int | None, table: Path | None, engine: str,
) -> int:  # fmt: skip
    from nca_interp.engine.graph import MeasureJob, Plan
    from nca_interp.engine.local import default_workers
    from nca_interp.engine.plan import analysis_plan

    plan = analysis_plan(collection, asked, options, only=only)
    plan = Plan(
        plan.study, [job for job in plan.jobs if isinstance(job.payload, MeasureJob) and job.payload.subject in runs]
    )
    if not plan.jobs:
        raise UserError(f"--run: nothing of what was asked for applies to {', '.join(sorted(runs)[:5])}")
    study = collection.study is not None
    if workers is None and engine == "local":
        workers = default_workers() if study else 1
    threads = threads or (1 if study else max(1, _cores() // (workers or 1)))
    opened = open_engine(engine, collection.folder, plan, workers, threads, probes)
    code = finish(follow(collection.dir, plan, opened), this_command())
    write_tables(collection.folder, probes)
    _show(collection)
    if table is not None:
        _export(collection, table)
    if study:
        _outdated(collection, asked, probes)
        print(f"tables: {collection.dir.tables}\nnext: {shlex.join(['nca-interp', 'report', str(collection.folder)])}")
    else:
        print(f"tables: {collection.dir.tables}")
        write_report(collection.folder, None)
    return code


def _cores() -> int:
    from nca_interp.machine import cores

    return cores()


def _show(collection: Collection) -> None:
    """What each measurement has to say on a terminal."""
    from nca_interp.analysis.tables import read_tables
    from nca_interp.measurement import Shown, measurements, resolve

    tables = read_tables(collection)
    for one in measurements().values():
        for part in resolve(one.summary)(collection, tables) if one.summary is not None else ():
            if isinstance(part, Shown):
                print_table(part.title, part.columns, part.rows, left=part.left)
            else:
                print(part)


def _export(collection: Collection, path: Path) -> None:
    """The table of probes as one file, for other viewers."""
    from nca_interp.analysis.probing.table import read_table, save

    frame = read_table(collection.dir.table("probes"))
    frame.attrs = {"provenance": {"collection": collection.title, **collection.provenance}}
    print(f"table: {', '.join(map(str, save(frame, path)))}")


def _outdated(collection: Collection, asked: list[str], probes: Path | None) -> None:
    if "causes" in asked:
        return
    from nca_interp.analysis.causes.study import outdated

    if old := outdated(collection.runs, probes):
        print(
            f"note: causes of {len(old)} run(s) are of other weights, code or probes: {this_command()} --causes",
            file=sys.stderr,
        )
