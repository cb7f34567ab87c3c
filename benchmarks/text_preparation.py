"""Text preparation end to end beside `tokenizers` alone on the same documents and cores, and where the time goes.

`python benchmarks/text_preparation.py [--mb 300] [--vocab 16384] [--threads N] [--form jsonl]`
The corpus is made of the site corpora, repeated with a number in front of every document so that none is a duplicate.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import count, cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from nca_interp.data.nca.rows import available_cores
from nca_interp.data.specs import END, TextSpec, TokenizerSpec
from nca_interp.data.text.corpus import Corpus
from nca_interp.data.text.documents import make_tokenizer
from nca_interp.data.text.encode import document_key, flatten, rank
from nca_interp.data.tokens import TokenFile

FILE_BYTES = 50_000_000


@lru_cache
def site_documents() -> list[str]:
    """Documents of all site corpora."""
    return [d.text for name in ("prose-a", "prose-b", "code") for d in Corpus(TextSpec(source=f"site:{name}"))]


def documents(size: int) -> Iterator[str]:
    """Documents of all site corpora, over and over, until they hold `size` bytes."""
    for copy in count():
        for text in site_documents():
            if size <= 0:
                return
            yield f"{copy}: {text}"
            size -= len(text.encode())


def write_corpus(folder: Path, size: int, form: str) -> None:
    """Files of about 50 MB of text in one of the formats."""
    stream, number = documents(size), 0
    while True:
        texts, held = [], 0
        for text in stream:
            texts.append(text)
            held += len(text)
            if held >= FILE_BYTES:
                break
        if not texts:
            return
        path = folder / f"{number:04}.{form}"
        number += 1
        if form == "parquet":
            pq.write_table(pa.table({"text": texts}), path, row_group_size=5000)
            continue
        data = "".join(json.dumps({"text": t}) + "\n" for t in texts).encode()
        path.write_bytes(gzip.compress(data, 4) if form.endswith(".gz") else data)


class Peer:
    """encode_batch_fast on all cores for a sample of the documents in memory, its answers thrown away."""

    def __init__(self, tokenizer: Tokenizer, texts: list[str], threads: int) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false" if threads == 1 else "true"
        self.tokenizer = tokenizer
        self.batches = cycle([texts[at : at + 1000] for at in range(0, len(texts), 1000)])
        self.bytes, self.seconds = 0, 0.0

    def run(self, seconds: float) -> None:
        """Encode batches for about so long."""
        until = self.seconds + seconds
        while self.seconds < until:
            batch = next(self.batches)
            begin = time.perf_counter()
            self.tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            self.seconds += time.perf_counter() - begin
            self.bytes += sum(len(t.encode()) for t in batch)


class Measured(NamedTuple):
    """A preparation that was paused while the peer ran."""

    seconds: float
    own: int
    """Largest resident bytes of the process."""
    together: int
    """Of it and its children."""


def take_turns(command: list[str], peer: Peer, slice_seconds: float = 3.0) -> Measured:
    """Run a command and the peer in turn, so that both meet the same noise of the machine."""
    process = subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    seconds, own, together = 0.0, 0, 0
    while process.poll() is None:
        begin = time.perf_counter()
        with suppress(subprocess.TimeoutExpired):
            process.wait(slice_seconds)
        seconds += time.perf_counter() - begin
        if process.poll() is None:
            with suppress(psutil.Error):
                parent = psutil.Process(process.pid)
                everyone = [parent, *parent.children(recursive=True)]
                sizes = [p.memory_info().rss for p in everyone]
                own, together = max(own, sizes[0]), max(together, sum(sizes))
                for one in everyone:
                    one.suspend()
                peer.run(slice_seconds)
                for one in everyone:
                    one.resume()
    assert process.returncode == 0
    return Measured(seconds, own, together)


def stages(tokenizer: Tokenizer, end: int) -> None:
    """Shares of one core's time on 10 MB."""
    lines = [json.dumps({"text": t}).encode() for t in documents(10_000_000)]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    marks = [time.perf_counter()]
    texts = [json.loads(line)["text"] for line in lines]
    marks.append(time.perf_counter())
    for text in texts:
        document_key(text)
    marks.append(time.perf_counter())
    for text in texts:
        rank(text), len(text.encode())
    marks.append(time.perf_counter())
    encoded = [
        tokenizer.encode_batch_fast(texts[at : at + 500], add_special_tokens=False) for at in range(0, len(texts), 500)
    ]
    marks.append(time.perf_counter())
    for group in encoded:
        flatten(group, end)
    marks.append(time.perf_counter())
    del encoded, group
    marks.append(time.perf_counter())
    names = ("JSON", "document hash", "split hash and bytes", "encode_batch_fast", "ids to arrays", "freeing them")
    shares = np.diff(marks) / (marks[-1] - marks[0])
    print(
        f"one core, {marks[-1] - marks[0]:.2f} s:",
        ", ".join(f"{n} {x:.1%}" for n, x in zip(names, shares, strict=True)),
    )


def main() -> None:
    """Print rates, their ratio, memory and shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=300)
    parser.add_argument("--vocab", type=int, default=16_384)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--form", choices=("jsonl", "jsonl.gz", "parquet"), default="jsonl")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder, args.mb * 1_000_000, args.form)
        tokenizer, end, _, _ = make_tokenizer(TokenizerSpec(vocab_size=args.vocab), islice(documents(8_000_000), None))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END).save_pretrained(folder / "tokenizer")
        stages(tokenizer, end)
        sample = list(islice(documents(args.mb * 1_000_000), 0, None, 8))
        peer = Peer(tokenizer, sample, args.threads)
        command = [
            sys.executable, "-m", "nca_interp", "data", "prepare", f"files:{folder}/*.{args.form}", "--out", f"{folder}/out",
            "--tokenizer", f"{folder}/tokenizer", "--val-tokens", "1B", "--threads", str(args.threads),
        ]  # fmt: skip
        found = take_turns(command, peer)
        meta = TokenFile.open(folder / "out").meta
    text, alone = meta.provenance["bytes"] / 1e6, peer.bytes / peer.seconds / 1e6
    tokens = (meta.n_train + meta.n_val) * (meta.seq_len + 1) / 1e6
    print(
        f"{args.form}, {text:.0f} MB, {meta.provenance['documents']:,} documents, {tokens:.0f} M tokens, {args.threads} cores: "
        f"{found.seconds:.1f} s, {text / found.seconds:.2f} MB/s, {tokens / found.seconds:.2f} M tokens/s\n"
        f"tokenizers alone, in turn with it: {alone:.2f} MB/s over {peer.seconds:.0f} s; ratio {text / found.seconds / alone:.2f}\n"
        f"peak resident memory: {found.own / 2**20:.0f} MiB the process itself, {found.together / 2**20:.0f} MiB with its workers"
    )


if __name__ == "__main__":
    main()
