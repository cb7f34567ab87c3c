"""Documents to token ids, in this process or in several: the parts come in canonical order either way.

A worker (`python -m nca_interp.data.text.encode`) reads, hashes and tokenises the chunks of its lanes and writes them to its
standard output; what it is to do comes as one JSON line on its standard input. It ends when nobody reads it any more.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from nca_interp.base import RunFailed, UserError
from nca_interp.data.specs import TextSpec
from nca_interp.data.text.corpus import Corpus, Cursor, Document, Lane
from nca_interp.data.text.long import cut_long
from nca_interp.data.text.long import document_key as document_key

BATCH_CHARACTERS = 500_000
"""Texts handed to the tokenizer at a time; bounds the memory of its answers."""
U64, I64 = np.dtype("<u8"), np.dtype("<i8")
_ERRORS: dict[str, type[Exception]] = {"UserError": UserError, "RunFailed": RunFailed}


class Part(NamedTuple):
    """One chunk of documents, tokenised."""

    keys: npt.NDArray[np.uint64]
    """[documents] hash of the text, white space made equal."""
    ranks: npt.NDArray[np.uint64]
    """[documents] hash of the group, by which the split goes."""
    sizes: npt.NDArray[np.int64]
    """[documents] UTF-8 bytes."""
    lengths: npt.NDArray[np.int64]
    """[documents] tokens, the end token included; 0 for a repetition within the chunk."""
    ids: npt.NDArray[Any]
    """[sum of lengths] tokens."""
    cursor: Cursor
    """Place in the lane behind this chunk."""
    skipped: int
    """Files of the chunk that were passed over (`Corpus.skipped`)."""
    empty: int = 0
    """Documents without text, null ones included, which are left out."""
    inside: int = 0
    """Places inside words at which a long document was cut (`long.Pieces`)."""


def rank(group: str) -> int:
    """The number by which a group is chosen for validation: 64 bits of its hash."""
    return int.from_bytes(hashlib.sha256(f"split:{group}".encode()).digest()[:8], "big")


class Encoder:
    """Turns chunks of documents into parts."""

    def __init__(self, tokenizer: Tokenizer, end: int, dtype: np.dtype[Any]) -> None:
        self.tokenizer, self.end, self.dtype = tokenizer, end, dtype
        tokenizer.encode_special_tokens = True

    def part(self, chunk: Sequence[Document], cursor: Cursor, skipped: int) -> Part:
        """Hash and tokenise; documents without any text are left out."""
        keys: list[bytes] = []
        ranks, sizes, texts, new = [], [], [], []
        seen: set[bytes] = set()
        empty = 0
        for text, group in chunk:
            if not (key := document_key(text)):
                empty += 1
                continue
            if key not in seen:
                new.append(len(keys))
                texts.append(text)
            keys.append(key)
            ranks.append(rank(group))
            sizes.append(len(text.encode()))
            seen.add(key)
        lengths = np.zeros(len(keys), I64)
        ids, counts, inside = self.encode(texts)
        lengths[new] = counts
        return Part(
            np.frombuffer(b"".join(keys), U64),
            np.array(ranks, U64),
            np.array(sizes, I64),
            lengths,
            ids,
            cursor,
            skipped,
            empty,
            inside,
        )

    def encode(self, texts: list[str]) -> tuple[npt.NDArray[Any], list[int], int]:
        """Ids of all texts, the end token behind each; how many each gave; places inside words at which one was cut."""
        cuts = [cut_long(text, self.tokenizer) for text in texts]
        counts: list[int] = []
        found, begun = [], 0
        for batch in _batches([(p, n == len(cut.texts)) for cut in cuts for n, p in enumerate(cut.texts, 1)]):
            encoded = self.tokenizer.encode_batch_fast([piece for piece, _ in batch], add_special_tokens=False)
            flat = array("I")
            for encoding, (_, last) in zip(encoded, batch, strict=True):
                ids = encoding.ids
                flat.fromlist(ids)
                begun += len(ids)
                if last:
                    flat.append(self.end)
                    counts.append(begun + 1)
                    begun = 0
            found.append(np.frombuffer(flat, np.uint32).astype(self.dtype))
        return np.concatenate([*found, np.empty(0, self.dtype)]), counts, sum(cut.inside for cut in cuts)


def _batches(pieces: list[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    batch: list[tuple[str, bool]] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[0])
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def local_parts(corpus: Corpus, cursors: Sequence[Cursor], encoder: Encoder, step: int) -> Iterator[Part | None]:
    """Parts of the lanes in turn, None where a lane ends."""
    turn = deque(Lane(corpus, cursor, step) for cursor in cursors)
    while turn:
        lane = turn.popleft()
        before = corpus.skipped
        chunk = lane.take()
        if chunk is not None:
            turn.append(lane)
            yield encoder.part(chunk, lane.cursor, corpus.skipped - before)
        else:
            yield None


@contextmanager
def parts(
    corpus: Corpus, cursors: Sequence[Cursor], tokenizer: Path, end: int, dtype: np.dtype[Any], workers: int, threads: int
) -> Iterator[Iterator[Part | None]]:  # fmt: skip
    """An iterator of parts in canonical order, None where a lane ends, made by `workers` processes of `threads` threads
    (0: in this process)."""
    if not workers:
        encoder = Encoder(Tokenizer.from_file(str(tokenizer)), end, dtype)
        yield local_parts(corpus, cursors, encoder, corpus.lanes or 1)
        return
    step = corpus.lanes or workers
    if corpus.lanes is None:  # whole streams, one after the other, are the same in any number of lanes
        cursors = [Cursor(c.stream + lane, 0) for c in cursors for lane in range(workers)]
    job = {
        "spec": corpus.spec.model_dump(mode="json"), "plan": corpus.plan, "tokenizer": str(tokenizer), "end": end,
        "dtype": dtype.str, "step": step,
    }  # fmt: skip
    started = [_Worker(job | {"cursors": cursors[number::workers]}, threads) for number in range(workers)]
    try:
        with ThreadPoolExecutor(workers) as pool:
            try:
                yield _collect(started, len(cursors), pool)
            finally:
                for worker in started:
                    worker.process.kill()  # ends the reads that the pool would wait for
    finally:
        for worker in started:
            worker.close()


def _collect(workers: list[_Worker], lanes: int, pool: ThreadPoolExecutor) -> Iterator[Part | None]:
    """Take from the worker whose lane has its turn; each has its next part read while others are waited for."""
    ahead: dict[int, Future[Part | None]] = {i: pool.submit(w.read) for i, w in enumerate(workers) if i < lanes}
    turn = deque(lane % len(workers) for lane in range(lanes))
    while turn:
        number = turn.popleft()
        part = ahead[number].result()
        if part is not None:
            turn.append(number)
        if number in turn:
            ahead[number] = pool.submit(workers[number].read)
        yield part


class _Worker:
    """A process that encodes some lanes."""

    def __init__(self, job: dict[str, Any], threads: int) -> None:
        environment = os.environ | {
            "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false", "RAYON_NUM_THREADS": str(threads),
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "nca_interp.data.text.encode"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
        )  # fmt: skip
        self.dtype = np.dtype(job["dtype"])
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()

    def read(self) -> Part | None:
        """The next part; None where a lane ends. Raises what the worker raised."""
        assert self.process.stdout is not None
        prefix = self.process.stdout.read(8)
        if len(prefix) < 8:
            raise RunFailed(f"a process that tokenises text ended by itself (exit code {self.process.wait()})")
        header = json.loads(self.process.stdout.read(struct.unpack("<q", prefix)[0]))
        if "error" in header:
            raise _ERRORS[header["error"]](header["message"])
        if "cursor" not in header:
            return None
        n = header["documents"]
        kinds = ((U64, n), (U64, n), (I64, n), (I64, n), (self.dtype, header["tokens"]))
        arrays = [np.frombuffer(self.process.stdout.read(k.itemsize * size), k) for k, size in kinds]
        keys, ranks, sizes, lengths, ids = arrays
        return Part(keys, ranks, sizes, lengths, ids, Cursor(*header["cursor"]), *header["counts"])

    def close(self) -> None:
        """Wait for the process and close its pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def _send(out: BinaryIO, header: dict[str, Any], arrays: Sequence[npt.NDArray[Any]] = ()) -> None:
    text = json.dumps(header).encode()
    out.write(struct.pack("<q", len(text)) + text)
    for values in arrays:
        out.write(values.data)
    out.flush()


def _work() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that reads this one ends it
    stream = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    os.dup2(2, 1)  # whatever prints must not print between the parts
    job = json.loads(sys.stdin.buffer.readline())
    try:
        corpus = Corpus(TextSpec.model_validate(job["spec"]), job["plan"])
        encoder = Encoder(Tokenizer.from_file(job["tokenizer"]), job["end"], np.dtype(job["dtype"]))
        for part in local_parts(corpus, [Cursor(*c) for c in job["cursors"]], encoder, job["step"]):
            if part is None:
                _send(stream, {})
                continue
            header = {
                "cursor": part.cursor, "documents": len(part.keys), "tokens": len(part.ids), "counts": part[6:]
            }  # fmt: skip
            _send(stream, header, part[:5])
        sys.stdin.buffer.read()  # the other end closes
    except BrokenPipeError:
        os._exit(0)
    except (UserError, RunFailed) as error:
        _send(stream, {"error": type(error).__name__, "message": str(error)})


if __name__ == "__main__":
    _work()
