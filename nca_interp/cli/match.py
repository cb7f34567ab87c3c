"""`nca-interp match`: which NCA distribution is nearest to a corpus. Heavy imports stay inside."""

from __future__ import annotations

import math
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nca_interp.cli.data import folder_name
from nca_interp.cli.parse import MAX_ROWS, MAX_SEED, MAX_WORKERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nca_interp.analysis.matching.run import Found

FOLDER = Path("runs/out/match")
TOP = 8
"""Cells in the table on the terminal."""


def match(
    corpus: Annotated[
        str,
        typer.Argument(
            help="A text file, files:GLOB, site:prose-b, hf:NAME, arithmetic:, RECIPE.NAME (a domain), or a synthetic "
            "source such as dyck or nca:n_states=4."
        ),
    ],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one field of the source: field=value (repeatable).")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            help="Replace or add an axis of the grid: n_states=2,10, band=0.3:0.4,0.5:1, dt=1, tau=1e-4 (repeatable)."
        ),
    ] = None,
    footing: Annotated[
        str, typer.Option(help="symbols (bytes against cells) or tokens (what a model reads).")
    ] = "symbols",
    rows: Annotated[int, typer.Option(min=16, max=MAX_ROWS, help="Rows of the corpus that are measured.")] = 192,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study",
            "--evidence",
            help="Analysed study whose sweep says what matching is worth; default one in runs/out.",
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Also write the table of cells here.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Also write a recipe file here, e.g. runs/matched.py.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; default runs/out/match/<corpus>-<hash>.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the sample and of the resampling.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, max=MAX_WORKERS, help="Threads; default one a core.")] = None,
) -> None:
    """Find the NCA settings whose complexity is nearest to a corpus, and say how sure that is and what it rests on."""
    from nca_interp.base import UserError
    from nca_interp.config import suggest
    from nca_interp.data.sources import inputs, parse_source

    if footing not in ("symbols", "tokens"):
        raise UserError(f"--footing: {footing!r} is unknown{suggest(footing, ('symbols', 'tokens'))}")
    spec = parse_source(corpus, set_ or [])
    asked = [spec.model_dump(mode="json"), grid or [], footing, rows, seed, str(study)]
    folder = out or FOLDER / folder_name(corpus, asked)

    from nca_interp.analysis.matching.matching import CELLS
    from nca_interp.analysis.matching.recipe import head
    from nca_interp.analysis.matching.run import RECORD, run
    from nca_interp.machine import circumstances
    from nca_interp.outputs import begins, check_output, holds
    from nca_interp.report.pages.matching import MatchFolder
    from nca_interp.store import write_text

    reads, own = [study, *inputs(corpus, spec)], [folder / name for name in (RECORD, "recipe.py", "report.html")]
    check_output("--out", folder, "match", holds(RECORD, "run", "regimes"), reads=reads)
    if csv is not None:
        cells = begins(",".join(CELLS) + "\n")
        check_output("--csv", csv, "table of cells", cells, reads=reads, also=[*own, recipe])
    if recipe is not None:
        made = f"recipe that match made for {corpus}"
        check_output("--recipe", recipe, made, begins(head(corpus)), reads=reads, also=own)
    command = shlex.join(["nca-interp", *sys.argv[1:]])
    with _progress() as report:
        found = run(
            corpus, spec, axes=grid or [], n=rows, seed=seed, footing=footing, study=study, command=command,  # type: ignore[arg-type]
            threads=threads, report=report,
        )  # fmt: skip
    found.record["provenance"] = circumstances(command)
    found.write(folder)
    page = MatchFolder(folder).build()
    for path, text in ((csv, found.frames["cells"].to_csv(index=False)), (recipe, found.recipe)):
        if path is not None:
            write_text(path, text)
    if json_:
        import json

        print(json.dumps(found.json(), allow_nan=False))
    else:
        _show(found)
    print(
        f"page: {page.resolve()}\ntables: {folder / 'tables'}\nrecipe: {recipe or folder / 'recipe.py'} (run {found.record['run']})",
        file=sys.stderr,
    )


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on a terminal's stderr; elsewhere one line for each new step."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        told: set[str] = set()

        def line(what: str, done: float) -> None:
            if what not in told:
                told.add(what)
                print(f"{what} ...", file=sys.stderr, flush=True)

        yield line
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, done: bar.update(task, description=what, completed=done)


def _show(found: Found) -> None:
    """Tables and sentences on the terminal."""
    from rich.console import Console

    from nca_interp.report.tables import each

    record, console = found.record, Console(highlight=False, markup=False)
    console.print(
        f"{record['source']}: {record['description']}\n{record['rows']} rows of {record['row_length']:,} {record['footing']} from "
        f"{record['groups']} {record['unit']}s, {record['alphabet_in_use']} symbols in use\n"
    )
    coordinates = found.frames["coordinates"]
    _table(console, "Measures", ("measure", "corpus", "95 % interval", "nearest cell", "difference", "counts"), [
        (
            c.coordinate.replace("_", " "), _number(c.corpus), f"{_number(c.low)} to {_number(c.high)}", _number(c.nearest),
            _number(c.difference, "+.2f"), "yes" if c.matched else c.note,
        )
        for c in each(coordinates)
    ])  # fmt: skip
    _table(console, f"Nearest of {len(found.frames['cells'])} cells", ("cell", "gzip ratio", "distance", "95 % interval", "nearest in", "rank"), [
        (
            c.cell, "none" if math.isnan(c.band_low) else f"{c.band_low:g}-{c.band_high:g}", f"{c.distance:.3f}",
            f"{c.low:.3f} to {c.high:.3f}", f"{100 * c.share:.0f} %", f"{c.rank_low} to {c.rank_high}",
        )
        for c in each(found.frames["cells"].head(TOP))
    ])  # fmt: skip
    _table(console, "How sure", ("setting", "value", "verdict", "of resamples", "of other ways", "why not clear", "also possible"), [
        (
            s.name, s.value, s.verdict, f"{100 * s.share:.4g} %", f"{s.agree} of {s.readings}", s.failed or "-",
            s.others or "-",
        )
        for s in each(found.frames["settings"])
    ])  # fmt: skip
    _table(
        console,
        "Under other ways of measuring",
        ("changed", "nearest cell", "distance", "counts as"),
        [(r.changed.replace("_", " "), r.cell, f"{r.distance:.3f}", r.counts) for r in each(found.frames["readings"])],
    )
    for text in (
        record["sentence"],
        *record["cautions"],
        (record["paper_rule"] or {}).get("sentence"),
        record["rests_on"],
    ):
        if text:
            console.print(f"{text}\n")
    print(record["regimes"])


def _number(value: float, form: str = ".3f") -> str:
    return "-" if math.isnan(value) else format(value, form)


def _table(console: Any, title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in head:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    console.print(table)
