"""Text preparation end to end beside `tokenizers` alone on the same documents and cores, and where the time goes.

`python benchmarks/text_preparation.py [--mb 300] [--peer-mb 100] [--vocab 16384] [--threads N] [--form jsonl]`
The corpus is made of the site corpora, repeated with a number in front of every document so that none is a duplicate.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from nca_interp.data.corpus import Corpus
from nca_interp.data.encode import document_key, flatten, rank
from nca_interp.data.nca_rows import available_cores
from nca_interp.data.specs import TextSpec, TokenizerSpec
from nca_interp.data.text import END, make_tokenizer
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


class Rate(NamedTuple):
    """MB of text a second, by the clock and by processor seconds (all cores together; firm where the machine is busy)."""

    clock: float
    processor: float


def peer_rate(tokenizer: Tokenizer, size: int, step: int, threads: int) -> Rate:
    """encode_batch_fast on all cores for every `step`-th document, in memory, its answers thrown away."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false" if threads == 1 else "true"
    stream, spent, done, processor = islice(documents(size), 0, None, step), 0.0, 0, 0.0
    while batch := list(islice(stream, 1000)):
        done += sum(len(t.encode()) for t in batch)
        begin, cpu = time.perf_counter(), time.process_time()
        tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        spent, processor = spent + time.perf_counter() - begin, processor + time.process_time() - cpu
    return Rate(done / spent / 1e6, done / processor / 1e6)


def peak_memory(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Largest resident bytes of a process, and of it with its children, until it ends."""
    own = together = 0
    while process.poll() is None:
        with suppress(psutil.Error):
            parent = psutil.Process(process.pid)
            now, others = parent.memory_info().rss, [p.memory_info().rss for p in parent.children(recursive=True)]
            own, together = max(own, now), max(together, now + sum(others))
        time.sleep(0.1)
    return own, together


def processor_seconds() -> float:
    """Of the children that have ended, and of their children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
    parser.add_argument("--peer-mb", type=int, default=100)
    parser.add_argument("--vocab", type=int, default=16_384)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--form", choices=("jsonl", "jsonl.gz", "parquet"), default="jsonl")
    args = parser.parse_args()
    step = max(round(2 * args.mb / args.peer_mb), 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder, args.mb * 1_000_000, args.form)
        tokenizer, end = make_tokenizer(TokenizerSpec(vocab_size=args.vocab), islice(documents(8_000_000), None))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END).save_pretrained(folder / "tokenizer")
        stages(tokenizer, end)
        peers = [peer_rate(tokenizer, args.mb * 1_000_000, step, args.threads)]
        command = [
            sys.executable, "-m", "nca_interp", "data", "prepare", f"files:{folder}/*.{args.form}", "--out", f"{folder}/out",
            "--tokenizer", f"{folder}/tokenizer", "--val-tokens", "1B", "--threads", str(args.threads),
        ]  # fmt: skip
        begin, used = time.perf_counter(), processor_seconds()
        process = subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        own, together = peak_memory(process)
        seconds, used = time.perf_counter() - begin, processor_seconds() - used
        meta = TokenFile.open(folder / "out").meta
        peers.append(peer_rate(tokenizer, args.mb * 1_000_000, step, args.threads))
    found, peer = meta.provenance, Rate(*np.mean(peers, axis=0))
    rate, processor = found["bytes"] / seconds / 1e6, found["bytes"] / used / 1e6
    tokens = (meta.n_train + meta.n_val) * (meta.seq_len + 1)
    print(
        f"\n{args.form}, {found['bytes'] / 1e6:.0f} MB, {found['documents']:,} documents, {tokens / 1e6:.0f} M tokens, "
        f"{args.threads} cores: {seconds:.1f} s, {rate:.2f} MB/s, {tokens / seconds / 1e6:.2f} M tokens/s\n"
        f"tokenizers alone before and after: {peers[0].clock:.2f}, {peers[1].clock:.2f} MB/s; ratio {rate / peer.clock:.2f}\n"
        f"by processor seconds: {processor:.2f} MB/s, tokenizers alone {peer.processor:.2f}; ratio {processor / peer.processor:.2f}\n"
        f"peak resident memory: {own / 2**20:.0f} MiB the process itself, {together / 2**20:.0f} MiB with its workers"
    )


if __name__ == "__main__":
    main()
