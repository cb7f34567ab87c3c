"""What is tried before an analysis of checkpoints writes anything: do they open, and are text and tokenizer for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nca_interp.errors import UserError

if TYPE_CHECKING:
    from nca_interp.analysis.collection.collection import Collection, Listed

TRIED_BYTES = 4 * 2**30
"""A checkpoint of at most so many bytes is opened once before the work, to say at once what is wrong with it."""


def try_checkpoints(listed: Listed) -> None:
    """UserError unless the weights of every local checkpoint are whole by their headers, and the last of each run opens."""
    from nca_interp.analysis.probing.opened import forget, open_last
    from nca_interp.analysis.stimuli.source import Source
    from nca_interp.model.checkpoint import check_directory, load_config
    from nca_interp.model.tensors import read_headers
    from nca_interp.store import MANIFEST

    for directory in (Path(entry.path) for entry in listed.entries):
        if directory.is_dir() and not (directory / MANIFEST).is_file():  # those with a manifest were committed whole
            check_directory(directory)
            read_headers(directory)
    for entry in {entry.run: entry for entry in listed.entries}.values():
        directory = Source.find(entry.path).directory
        if sum(file.stat().st_size for file in directory.glob("*.safetensors")) <= TRIED_BYTES:
            open_last(directory, dtype=listed.settings.dtype)
        else:
            check_directory(directory)
            load_config(directory)
    forget()  # others work now


def try_text(collection: Collection) -> None:
    """UserError where the text or the tokenizer that was given opens for none of the runs; some may be of other tokens."""
    from nca_interp.analysis.stimuli.subject import describe
    from nca_interp.data.text.tokenizer import open_tokenizer
    from nca_interp.model.checkpoint import load_config, read_provenance

    tokens, tokenizer = (None if name is None else Path(name) for name in (collection.settings.tokens, collection.settings.tokenizer))  # fmt: skip
    if tokenizer is not None:
        open_tokenizer(tokenizer)
    if tokens is None:
        return
    if not (tokens.is_file() or (tokens / "meta.json").is_file()):
        what = "no such file or folder" if not tokens.exists() else "no meta.json in it"
        raise UserError(
            f"--tokens {tokens}: {what}; legal: a file of text in UTF-8, or a token directory of `nca-interp data prepare`"
        )
    faults: list[UserError] = []
    for run in (runs := [run for run in collection.runs if run.steps]):
        try:
            describe(run.last, load_config(run.last), read_provenance(run.last), tokens, tokenizer)
        except UserError as error:
            faults.append(error)
    if faults and len(faults) == len(runs):
        raise faults[0]
