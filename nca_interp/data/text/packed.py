"""From a finished preparation (packing.py) to train.bin, val.bin and what is known of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import __version__ as tokenizers_version

from nca_interp.base import UserError
from nca_interp.data.specs import TextSpec
from nca_interp.data.text.corpus import Cursor
from nca_interp.data.text.documents import (
    Report,
)
from nca_interp.data.text.packing import SPLITS, Preparation


class Packed(NamedTuple):
    """What packing gave; see `tokens.TokenMeta`."""

    n_train: int
    n_val: int
    dtype: str
    vocab_size: int
    val_bytes: int
    bytes_per_token: float
    end_id: int
    bos_id: int | None
    pad_id: int | None
    provenance: dict[str, Any]


def write_text(
    folder: Path, work: Path, spec: TextSpec, n_train: int, n_val: int, seq_len: int, request: dict[str, Any],
    threads: int | None, report: Report,
) -> tuple[Packed, str]:  # fmt: skip
    """Put train.bin, val.bin and tokenizer.json into `folder`; returns what was packed and the corpus's description.

    `work` is kept when the process is killed or the connection breaks, and removed by the caller when `folder` is in
    place. Raises UserError (and removes `work`) if the corpus is empty or gives less than one row of either split.
    """
    from filelock import FileLock, Timeout

    work.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work.with_name(work.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{work}: another process is preparing the same tokens; wait for it or choose another folder"
        ) from None
    preparation = Preparation(work, spec, (n_train, n_val), seq_len + 1, request)
    try:
        preparation.open(threads, report)
        preparation.run(threads, report)
        return _finish(preparation, folder, report), preparation.corpus.description
    except UserError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    except BaseException:
        preparation.stop()
        raise
    finally:
        preparation.close()
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _finish(preparation: Preparation, folder: Path, report: Report) -> Packed:
    state, setup, dtype, width = preparation.state, preparation.setup, preparation.dtype, preparation.width
    rows = [preparation.rows(name) for name in SPLITS]
    for index, (name, count) in enumerate(zip(("training", "validation"), rows, strict=True)):
        if count == 0:
            raise UserError(
                f"source: {preparation.spec.source!r} is too short: its {name} split holds {state.tokens[index]:,} tokens of "
                f"{state.split_documents[index]} documents ({state.bytes:,} bytes read in all), one row needs {width:,}; "
                f"{state.advice(width)}"
            )
    report("checking the files that were read", 1.0)
    if preparation.tokenizer_files() != setup.tokenizer_files:
        raise UserError(
            f"tokenizer.name: {preparation.spec.tokenizer.name} changed during the work; run the same command again"
        )
    files = preparation.corpus.inputs_read([Cursor(*c) for c in state.cursors])
    for name in ("train.bin", "val.bin", "tokenizer.json"):
        _place(preparation.work / name, folder / name)
    stored = np.memmap(folder / "val.bin", dtype, "r", shape=(rows[1], width))
    val_bytes = sum(preparation.counts.of_targets(block, setup.end) for block in _blocks(stored))
    counted, differing = state.counted
    if differing:
        val_bytes = round(val_bytes * state.split_bytes[1] / max(counted, 1))
    preparation.corpus.skipped = state.skipped
    provenance = {
        "documents": state.documents, "duplicates_dropped": state.duplicates, "bytes": state.bytes,
        "corpus_hash": state.files["seen"]["sha256"], "train_documents": state.split_documents[0],
        "val_documents": state.split_documents[1], "tokenizers": tokenizers_version,
        "bytes_per_token_exact": not differing, "val_documents_miscounted": differing, **preparation.corpus.provenance,
    }  # fmt: skip
    more = {
        "files": files,
        "tokenizer_files": setup.tokenizer_files,
        "without_text": state.empty,
        "cut_inside_words": state.inside,
    }
    provenance |= {name: value for name, value in more.items() if value}
    per_token = val_bytes / (rows[1] * (width - 1))
    return Packed(
        rows[0], rows[1], dtype.name, setup.vocab, val_bytes, per_token, setup.end, setup.bos, setup.pad, provenance
    )


def _blocks(rows: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
    return [rows[at : at + 1024] for at in range(0, len(rows), 1024)]


def _place(path: Path, target: Path) -> None:
    """Put a finished file of the working folder elsewhere, without copying it where the disk allows."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
