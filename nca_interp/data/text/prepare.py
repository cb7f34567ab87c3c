"""What `nca-interp data prepare` does: sizes as users write them, a check of the disk, a bar, a summary."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from nca_interp.base import RunFailed, UserError
from nca_interp.data.sources import Spec, inputs, parse_source
from nca_interp.data.specs import TextSpec, TokenizerSpec
from nca_interp.data.text.documents import token_dtype
from nca_interp.data.text.named_tokenizer import ASSUMED, known_vocabulary
from nca_interp.data.text.notes import notes
from nca_interp.data.tokens import TokenMeta, remarks, write_tokens
from nca_interp.files import held, sweep
from nca_interp.outputs import check_output, holds

WHOLE = 10**12
"""Rows asked for where a whole corpus is wanted."""
VAL_TOKENS, VAL_SHARE = 262_144, 20
"""Validation tokens where none are asked for: so many, or one for this many training tokens if that is less."""
PLAIN_SECONDS = 10.0
UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}


class Request(NamedTuple):
    """Arguments of the command."""

    source: str
    overrides: list[str]
    tokenizer: str | None
    tokens: str | None
    val_tokens: str | None
    seq_len: int
    seed: int


def prepare_tokens(request: Request, out: Path, threads: int | None) -> str:
    """Write (or check, or continue) a token directory and say what is in it."""
    spec = _spec(request)
    rows = _rows(request)
    if request.tokens is None and not _ends(spec):
        raise UserError("--tokens: needed, this source has no end; e.g. --tokens 10M")
    if out.resolve() == Path.cwd().resolve():
        raise UserError(
            f"--out {out}: this is the working folder itself, nothing was changed; name a folder in it, e.g. --out tokens"
        )
    tokens = holds("meta.json", "spec", "sha256")
    if out.name in ("", ".."):
        raise UserError(f"--out {out}: has no name of its own; give that of a folder to be made")
    check_output("--out", out, "token directory", tokens, reads=inputs(request.source, spec))
    with _alone(out):
        _check_disk(out, spec, rows, request.seq_len)
        with shown() as report:
            meta = write_tokens(
                out, spec, n_train=rows[0], n_val=rows[1], seq_len=request.seq_len, seed=request.seed, threads=threads,
                progress=report,
            )  # fmt: skip
    return _summary(out, meta, rows)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold a lock beside `out` and clear away what a killed process left there."""
    lock = out.with_name(f".lock-{out.name}")
    with held(lock, lambda: f"{out}: another process is writing these tokens"):
        sweep(out.parent, f"{out.name}-")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _spec(request: Request) -> Spec:
    spec = parse_source(request.source, request.overrides)
    name = request.tokenizer
    if name is None:
        return spec
    if not isinstance(spec, TextSpec):
        raise UserError(f"--tokenizer: {name!r} goes with text only; {request.source!r} has tokens of its own")
    chosen = {"kind": "bpe", "vocab_size": int(name)} if name.isdigit() else {"kind": "hf", "name": name}
    from nca_interp.overrides import parse

    return parse(TextSpec, spec.model_dump(mode="json") | {"tokenizer": chosen})


def _rows(request: Request) -> list[int]:
    """Rows of training and validation."""
    wanted = None if request.tokens is None else count("--tokens", request.tokens)
    default = VAL_TOKENS if wanted is None else min(VAL_TOKENS, wanted // VAL_SHARE)
    val = default if request.val_tokens is None else count("--val-tokens", request.val_tokens)
    train = WHOLE if wanted is None else -(-wanted // request.seq_len)
    return [train, max(-(-val // request.seq_len), 1)]


def _ends(spec: Spec) -> bool:
    return isinstance(spec, TextSpec) and (spec.source.partition(":")[0] != "arithmetic" or spec.max_bytes is not None)


def count(name: str, text: str) -> int:
    """A number of tokens: 5000, 5_000, 164M, 1.6B."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmbg]?)", text.replace("_", "").replace(",", "").lower())
    value = round(float(found[1]) * UNITS[found[2]]) if found else 0
    if value < 1:
        raise UserError(f"{name}: {text!r} is not a number of tokens; legal: e.g. 5000, 164M, 1.6B")
    return value


def _check_disk(out: Path, spec: Spec, rows: list[int], seq_len: int) -> None:
    if isinstance(spec, TextSpec) and not spec.source.startswith("hf:"):
        return  # what lies here already bounds it
    folder = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    vocab = _vocabulary(spec.tokenizer) if isinstance(spec, TextSpec) else spec.vocab_size
    need = sum(n for n in rows if n != WHOLE) * (seq_len + 1) * token_dtype(vocab).itemsize
    free = shutil.disk_usage(folder).free
    if need > free and not (out / "meta.json").exists():
        raise RunFailed(f"{out}: the tokens need {need / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free")


def _vocabulary(spec: TokenizerSpec) -> int:
    return spec.vocab_size if spec.name is None else known_vocabulary(spec.name) or ASSUMED


@contextmanager
def shown() -> Iterator[Callable[[str, float], None]]:
    """A bar on a terminal, elsewhere a line every ten seconds, both on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        begin = last = time.monotonic()

        def say(label: str, done: float) -> None:
            nonlocal last
            if time.monotonic() - last >= PLAIN_SECONDS:
                last = time.monotonic()
                console.print(
                    f"{last - begin:5.0f} s  {done:4.0%}  {label}", markup=False, highlight=False, soft_wrap=True
                )

        yield say
        return
    columns = (BarColumn(30), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        bar = progress.add_task("starting", total=1.0)
        yield lambda label, done: progress.update(bar, description=label, completed=done)


def _summary(out: Path, meta: TokenMeta, rows: list[int]) -> str:
    lines = [
        f"tokens: {out}",
        f"{meta.n_train:,} training and {meta.n_val:,} validation rows of {meta.seq_len:,} + 1 tokens, vocabulary {meta.vocab_size:,}",
    ]
    if meta.bytes_per_token is not None:
        found = meta.provenance
        lines.append(
            f"{found['documents']:,} documents, {found['duplicates_dropped']:,} duplicates dropped, "
            f"{found['bytes'] / 1e6:,.1f} MB of text, {meta.bytes_per_token:.3f} bytes a token"
        )
        lines += remarks(found)
    short = [
        f"{name}: {had:,} of {asked:,} rows"
        for name, had, asked in zip(("training", "validation"), (meta.n_train, meta.n_val), rows, strict=True)
        if had < asked < WHOLE
    ]
    if short:
        lines.append(f"the corpus ended before all rows were full ({'; '.join(short)})")
    lines += [f"note: {note}" for note in notes(meta)]
    return "\n".join([*lines, f"next: nca-interp data inspect {out}"])
