"""`nca-interp data ...`: look at token sources, write their tokens. Heavy imports stay inside."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from nca_interp.cli.parse import MAX_LENGTH, MAX_ROWS, MAX_SEED, MAX_WORKERS
from nca_interp.signals import exit_code

data = typer.Typer(help="Look at token sources; write their tokens.", no_args_is_help=True, rich_markup_mode=None)
FOLDER = Path("runs/out/inspect")

Source = Annotated[
    str,
    typer.Argument(
        help="nca, dyck, nca:n_states=2,band=[0.3,1], site:prose-b, arithmetic:, files:GLOB, hf:NAME, a text file, "
        "a token directory, or RECIPE.NAME (a regime or domain)."
    ),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Change one field of the source: field=value (repeatable).")
]


@data.command()
def inspect(
    source: Source,
    set_: Set = None,
    n: Annotated[int, typer.Option(min=1, max=MAX_ROWS, help="Rows.")] = 256,
    length: Annotated[int | None, typer.Option(min=2, max=MAX_LENGTH, help="Tokens a row; default 1024.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="Seed of the rows; default 0.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; default runs/out/inspect/<source>-<hash>.")] = None,
    dear: Annotated[
        bool, typer.Option("--all", help="Also the measures that take minutes: learnability, goodness of fit.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, max=MAX_WORKERS, help="Threads; default one a core.")] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
) -> None:
    """Measure a token source and write one HTML page on it: examples, complexity, acceptance, ideal predictors."""
    import shlex
    import time

    begin = time.perf_counter()
    from nca_interp.base import UserError
    from nca_interp.data.sources import check_installed, inputs, parse_source, token_directory

    spec, directory = parse_source(source, set_ or []), token_directory(source)
    if directory and (set_ or length is not None or seed is not None):
        raise UserError(
            f"{source}: its rows are shown as they are stored; --set, --length and --seed go with other sources"
        )
    check_installed([] if directory else [spec])
    length, seed = length or 1024, seed or 0
    folder = out or FOLDER / folder_name(source, [spec.model_dump(mode="json"), n, length, seed, dear])

    from nca_interp.analysis.complexity import inspection
    from nca_interp.data.sample import draw
    from nca_interp.machine import circumstances
    from nca_interp.report.pages.inspection import Inspection

    def say(what: str) -> None:
        print(f"{time.perf_counter() - begin:5.1f} s  {what}", file=sys.stderr, flush=True)

    inspection.check_folder(folder, inputs(source, spec))
    say("reading rows" if directory else "drawing rows")
    if directory:
        sample = inspection.stored(directory, n)
    else:
        inspection.check_sizes(spec, n, length)
        sample = draw(spec, n=n, length=length, seed=seed, split=inspection.SPLIT, threads=threads)
    found = inspection.inspect(sample, asked=n, dear=dear, threads=threads, say=say)
    made = circumstances(shlex.join(["nca-interp", *sys.argv[1:]])) | {"seconds": time.perf_counter() - begin}
    found.record.update(source=source, overrides=set_ or [], name=folder.name, provenance=made)
    found.write(folder)
    page = Inspection(folder).build().resolve()
    print(f"page: {page}\ntables: {folder / 'tables'}")
    if open_:
        import webbrowser

        webbrowser.open(page.as_uri())


@data.command()
def prepare(
    source: Source,
    out: Annotated[
        Path, typer.Option(help="Token directory to write; of text, the same command continues an interrupted one.")
    ],
    seq_len: Annotated[
        int, typer.Option(min=1, max=MAX_LENGTH, help="Inputs of a row; a row has one token more.")
    ] = 1024,
    tokens: Annotated[
        str | None, typer.Option(help="Training tokens, e.g. 164M, 1.6B; default for text: the whole corpus.")
    ] = None,
    val_tokens: Annotated[
        str | None, typer.Option(help="Validation tokens; default a twentieth of --tokens, at most 262144.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Text: a tokenizer's file, folder or hub name (gpt2), or the size of an own BPE (4096)."),
    ] = None,
    set_: Set = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Seed of the rules or strings; text does not depend on it.")
    ] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MAX_WORKERS, help="Processes (text) or threads; default one a core.")
    ] = None,
) -> None:
    """Write the tokens of a source: train.bin, val.bin, meta.json. Text: many processes, resumable, retried."""
    from nca_interp.data.text.prepare import Request, prepare_tokens

    request = Request(source, set_ or [], tokenizer, tokens, val_tokens, seq_len, seed)
    try:
        print(prepare_tokens(request, out, threads))
    except KeyboardInterrupt:
        kept = out.with_name(f".work-{out.name}").is_dir()
        how = "what is done is kept: the same command continues" if kept else "nothing was written"
        print(f"interrupted; {how}", file=sys.stderr)
        raise SystemExit(exit_code()) from None


def folder_name(source: str, settings: list[object]) -> str:
    """Folder of one source and setting: what was typed, and a hash of what it means."""
    import re

    from nca_interp.base import digest

    slug = re.sub(r"[^a-z0-9]+", "-", source.lower()).strip("-")[:40] or "source"
    return f"{slug}-{digest(settings, 8)}"
