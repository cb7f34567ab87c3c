"""A text source to train.bin and val.bin: read and tokenised in parallel, merged in order, continued where it was killed.

A preparation that finds a working folder (`working`) of the same request goes on from its cursors, so the result is that
of an uninterrupted one, bit for bit.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers import __version__ as tokenizers_version

from nca_interp.base import RunFailed, UserError, digest
from nca_interp.data.nca.rows import available_cores
from nca_interp.data.specs import TextSpec
from nca_interp.data.text import inputs
from nca_interp.data.text.byte_counts import byte_counts
from nca_interp.data.text.corpus import Corpus, Cursor, start
from nca_interp.data.text.documents import (
    Reader,
    Report,
    make_tokenizer,
    parallel,
    read_head,
    split_limit,
    token_dtype,
)
from nca_interp.data.text.duplicates import Seen
from nca_interp.data.text.encode import Part, parts, rank
from nca_interp.data.text.working import Output, Setup, State
from nca_interp.store import read_json, write_record
from nca_interp.store import write_text as save_text

COMMIT_SECONDS = 10.0
"""Time between two states from which a killed preparation goes on."""
SPLITS = ("train", "val")


class Preparation:
    """One preparation in its working folder, from the start or continued."""

    def __init__(
        self, work: Path, spec: TextSpec, wanted: tuple[int, int], width: int, request: dict[str, Any]
    ) -> None:
        self.work, self.spec, self.wanted, self.width, self.request = work, spec, wanted, width, request
        self.began = time.monotonic()
        self.first_share: float | None = None
        self.whole = False
        """Whether `state` and the outputs stand between two parts."""
        self.fresh = {"bytes": 0, "tokens": 0}
        """Done by this process, for the rates."""

    def open(self, threads: int | None, report: Report) -> None:
        """Set `corpus`, `setup`, `state` and the outputs from what the folder holds, or from the source."""
        if not self._reopen():
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(parents=True)
            self._begin(threads, report)
        self.dtype = token_dtype(self.setup.vocab)
        self.counts = byte_counts(Tokenizer.from_file(str(self.work / "tokenizer.json")), self.setup.end)
        self.limits = [rows * self.width * self.dtype.itemsize for rows in self.wanted]

    def _identity(self, corpus: Corpus) -> str:
        return digest([self.request, corpus.plan["inputs"], self.tokenizer_files(), tokenizers_version])

    def tokenizer_files(self) -> inputs.State:
        """The local files of a named tokenizer as they are now."""
        return inputs.state(inputs.tokenizer_files(self.request["spec"]))

    def _reopen(self) -> bool:
        try:
            setup = Setup(**read_json(self.work / "setup.json"))
            # what a name on the hub means now does not matter to a preparation that has begun
            remote = self.spec.source.startswith("hf:") and not setup.plan["inputs"]
            now = Corpus(self.spec, setup.plan if remote else None)
            if setup.identity != self._identity(now):
                return False
            self.corpus, self.setup = Corpus(self.spec, setup.plan), setup
            self.state = State(**read_json(self.work / "state.json"))
            self._outputs(self.state.files)
        except (UserError, OSError, TypeError, KeyError):  # nothing there, or not whole
            return False
        self.corpus.skipped = self.state.skipped
        self.seen.add(np.fromfile(self.work / "seen.bin", "<u8"))
        return True

    def _begin(self, threads: int | None, report: Report) -> None:
        self.corpus = Corpus(self.spec)
        reader = Reader(self.corpus, self.spec.max_bytes)
        head = read_head(iter(reader), report)
        if not head:
            raise UserError(
                f"source: {self.spec.source!r} is empty: no document with any text in it (null texts count as empty)"
            )
        self.corpus.skipped = 0
        tokenizer_files = self.tokenizer_files()
        limit = split_limit(head, reader.exhausted, self.spec.val_fraction)
        with parallel(threads):
            texts = (d.text for d in head if rank(d.group) >= limit)
            coder = make_tokenizer(self.spec.tokenizer, texts)
        save_text(self.work / "tokenizer.json", coder.tokenizer.to_str(pretty=True))
        vocab = max(coder.tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.setup = Setup(
            self._identity(self.corpus),
            self.corpus.plan,
            limit,
            coder.end,
            vocab,
            reader.exhausted,
            tokenizer_files,
            coder.bos,
            coder.pad,
        )
        self.state = State([list(c) for c in start(self.corpus)], [0, 0])
        self._outputs({})
        write_record(self.work / "setup.json", self.setup._asdict())
        self.commit()

    def _outputs(self, committed: dict[str, dict[str, Any]]) -> None:
        self.seen = Seen()
        self.outputs = {n: Output(self.work / f"{n}.bin", committed.get(n)) for n in (*SPLITS, "seen")}

    def run(self, threads: int | None, report: Report) -> None:
        """Read and tokenise until all wanted rows, max_bytes or the corpus's end is reached."""
        if self.state.finished:
            return
        self.whole, self.began = True, time.monotonic()
        cores = threads or available_cores()
        streams = self.setup.plan["streams"]
        workers = min(cores, self.corpus.lanes or cores, cores if streams is None else len(streams))
        if cores == 1 or self.setup.small:
            workers = 0
        tokenizer, threads = self.work / "tokenizer.json", cores // max(workers, 1)
        cursors = [Cursor(*c) for c in self.state.cursors]
        committed = shown = time.monotonic()
        making = parts(self.corpus, cursors, tokenizer, self.setup.end, self.dtype, workers, threads)
        with parallel(cores), making as stream:
            for part in stream:
                self.whole = False
                done = part is not None and self._merge(part)
                self._move(part)
                self.whole = True
                now = time.monotonic()
                if now - shown > 0.5 or done:
                    report(*self.progress())
                    shown = now
                if done:
                    break
                if now - committed > COMMIT_SECONDS:
                    self.commit()
                    committed = time.monotonic()
        self.whole = False
        partial = [n for n in SPLITS if self.outputs[n].size % (self.width * self.dtype.itemsize)]
        for name in partial:
            self.outputs[name].cut(self.rows(name) * self.width * self.dtype.itemsize)
        self.state.finished = True
        self.commit()
        for name in partial:
            self.outputs[name].trim()

    def rows(self, name: str) -> int:
        """Whole rows of a split so far."""
        return self.outputs[name].size // (self.width * self.dtype.itemsize)

    def _move(self, part: Part | None) -> None:
        """Advance the cursors by one part: the lane whose turn it was goes to the back, or is left out at its end."""
        if self.corpus.lanes is None:
            self.state.cursors[0][0] += part is not None
            return
        self.state.cursors.pop(0)
        if part is not None:
            self.state.cursors.append(list(part.cursor))

    def _merge(self, part: Part) -> bool:
        """Add the new documents of a part to their splits; whether the text is complete."""
        state = self.state
        keep = self.seen.add(part.keys)
        state.skipped += part.skipped
        state.empty += part.empty
        state.inside += part.inside
        new = int(keep.sum())
        if self.spec.max_bytes is not None:
            read = np.cumsum(np.where(keep, part.sizes, 0))
            last = int(np.searchsorted(read, self.spec.max_bytes - state.bytes))
            keep[last + 1 :] = False
            state.duplicates += int((~keep[: last + 1]).sum())
        else:
            state.duplicates += len(keep) - new
        is_val = part.ranks < np.uint64(self.setup.limit)
        self.outputs["seen"].append(part.keys[keep])
        state.documents += int(keep.sum())
        state.bytes += int(part.sizes[keep].sum())
        self.fresh["bytes"] += int(part.sizes[keep].sum())
        self.fresh["tokens"] += int(part.lengths[keep].sum())
        for index, (name, chosen) in enumerate(zip(SPLITS, (keep & ~is_val, keep & is_val), strict=True)):
            state.split_documents[index] += int(chosen.sum())
            state.split_bytes[index] += int(part.sizes[chosen].sum())
            ids = part.ids[np.repeat(chosen, part.lengths)]
            state.tokens[index] += len(ids)
            if name == "val":
                found = self.counts.of_documents(ids, part.lengths[chosen], part.sizes[chosen])
                state.counted = [had + new for had, new in zip(state.counted, found, strict=True)]
            output = self.outputs[name]
            output.append(ids[: (self.limits[index] - output.size) // self.dtype.itemsize])
        full = all(self.outputs[n].size >= limit for n, limit in zip(SPLITS, self.limits, strict=True))
        return full or (self.spec.max_bytes is not None and state.bytes >= self.spec.max_bytes)

    def commit(self) -> None:
        """Record a state from which a killed process goes on."""
        self.state.files = {name: output.sync() for name, output in self.outputs.items()}
        write_record(self.work / "state.json", asdict(self.state))

    def progress(self) -> tuple[str, float]:
        """Label with rates and the time left, and the share that is done: of the rows, of max_bytes, or of the streams."""
        state, streams = self.state, self.setup.plan["streams"]
        share = min(self.outputs[n].size / limit for n, limit in zip(SPLITS, self.limits, strict=True))
        if self.spec.max_bytes is not None:
            share = max(share, state.bytes / self.spec.max_bytes)
        if streams:
            share = max(share, min((c[0] for c in state.cursors), default=len(streams)) / len(streams))
        share = min(share, 1.0)
        self.first_share = share if self.first_share is None else self.first_share
        seconds = max(time.monotonic() - self.began, 1e-9)
        gained = share - self.first_share
        left = f", {_duration((1 - share) * seconds / gained)} left" if gained > 0.01 else ""
        label = (
            f"tokenising: {self.rows('train') + self.rows('val'):,} rows, {state.documents:,} documents, "
            f"{self.fresh['bytes'] / seconds / 1e6:.1f} MB/s, {self.fresh['tokens'] / seconds / 1e6:.2f} M tokens/s{left}"
        )
        return label, share

    def stop(self) -> None:
        """Keep what is merged, as far as the disk lets it, when something breaks off."""
        if self.whole:
            with suppress(OSError, RunFailed):
                self.commit()

    def close(self) -> None:
        """Close the files."""
        for output in getattr(self, "outputs", {}).values():
            output.file.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes >= 3 else f"{60 * minutes + seconds} s"
