"""Text at scale: the same bytes from any number of processes, after any kill, through any broken connection."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from nca_interp.base import RunFailed, UserError
from nca_interp.data.sources import parse_source
from nca_interp.data.specs import TextSpec, TokenizerSpec
from nca_interp.data.text import corpus, cuts, files, hub, inputs
from nca_interp.data.text import documents as text
from nca_interp.data.text.corpus import Corpus
from nca_interp.data.text.duplicates import Seen
from nca_interp.data.text.files import match_files
from nca_interp.data.text.raw import Stream
from nca_interp.data.text.records import records
from nca_interp.data.tokens import TokenFile, write_tokens

DOCUMENTS = [f"Document {i}, of {i * i}: naïve ☃ 字 {'la ' * (i % 17)}{'x' * (i % 7)}\n" * 3 for i in range(600)]
LINES = [json.dumps({"text": d, "n": i}) + "\n" for i, d in enumerate(DOCUMENTS)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Many ranges, chunks and lanes in little text; a head that is not everything."""
    monkeypatch.setattr(files, "RANGE_BYTES", 9000)
    monkeypatch.setattr(corpus, "CHUNK_CHARACTERS", 2500)
    monkeypatch.setattr(corpus, "LANES", 3)
    monkeypatch.setattr(text, "HEAD_BYTES", 5000)


def write(directory, source, threads=1, n_train=10_000, **fields):
    spec = TextSpec(source=source, **{"tokenizer": TokenizerSpec(vocab_size=300), **fields})
    return write_tokens(directory, spec, n_train=n_train, n_val=10_000, seq_len=32, seed=0, threads=threads)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """The same documents: one file of many ranges, five compressed files, parquet of many row groups, a dataset."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "one.jsonl").write_text("".join(LINES))
    for name in ("gz", "hub"):
        (folder / name).mkdir()
        for part in range(5):
            data = "".join(LINES[part * 100 : 600 if part == 4 else part * 100 + 100]).encode()
            (folder / name / f"{part}.json.gz").write_bytes(gzip.compress(data))
    table = pa.table({"text": DOCUMENTS, "n": list(range(600))})
    pq.write_table(table, folder / "a.parquet", row_group_size=90)
    return {
        "ranges": f"files:{folder}/one.jsonl", "compressed": f"files:{folder}/gz/*.json.gz",
        "parquet": f"files:{folder}/a.parquet", "hub": f"hf:{folder}/hub",
    }  # fmt: skip


def content(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(directory.iterdir())}


@pytest.mark.parametrize("kind", ["ranges", "compressed", "parquet", "hub"])
def test_any_number_of_processes_gives_the_canonical_order(tmp_path, sources, kind):
    meta = write(tmp_path / "1", sources[kind])
    write(tmp_path / "2", sources[kind], threads=2)
    assert content(tmp_path / "1") == content(tmp_path / "2")
    order = [d.text for d in Corpus(TextSpec(source=sources[kind]))]
    assert sorted(order) == sorted(DOCUMENTS)
    assert (order == DOCUMENTS) == (kind == "ranges")  # several lanes are read in turn, ranges one after the other
    opened = TokenFile.open(tmp_path / "1")
    coder = Tokenizer.from_file(str(tmp_path / "1" / "tokenizer.json"))
    found = coder.decode(opened.train.ravel().tolist(), skip_special_tokens=False)
    training = [d for d in order if d in found]
    assert found.startswith("<|endoftext|>".join(training))  # the row that is not full is left out
    assert meta.provenance["documents"] == 600
    assert len(training) >= meta.provenance["train_documents"] - 1


def test_a_budget_and_duplicates_do_not_depend_on_processes(tmp_path, sources):
    capped = [write(tmp_path / f"a{n}", sources["ranges"], n, max_bytes=30_000) for n in (1, 2)]
    assert capped[0] == capped[1]
    assert 30_000 <= capped[0].provenance["bytes"] < 31_000
    rows = [write(tmp_path / f"b{n}", sources["compressed"], n, n_train=60, val_fraction=0.3) for n in (1, 2)]
    assert rows[0] == rows[1]
    assert rows[0].n_train == 60
    twice = Path(sources["ranges"].removeprefix("files:"))
    shutil.copy(twice, tmp_path / "again.jsonl")
    double = write(tmp_path / "c", f"{sources['ranges']},{tmp_path}/again.jsonl", 2)
    assert double.provenance["duplicates_dropped"] == 600
    single = write(tmp_path / "d", sources["ranges"])
    assert single.sha256 == double.sha256


CHILD = """
import os, signal, sys
from pathlib import Path
from nca_interp.data.text import corpus, files, packing
from nca_interp.data.text import documents as text
from nca_interp.data.specs import TextSpec, TokenizerSpec
from nca_interp.data.tokens import write_tokens
files.RANGE_BYTES, corpus.CHUNK_CHARACTERS, corpus.LANES, text.HEAD_BYTES = 9000, 2500, 3, 5000
packing.COMMIT_SECONDS = 0.0
source, out, threads, where, after = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
whole, count = getattr(packing.Preparation, where), 0
def dying(self, *args):
    global count
    count += 1
    result = None if count == after and where == "commit" else whole(self, *args)
    if count == after:
        if where == "_merge":
            self.outputs["train"].file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(packing.Preparation, where, dying)
write_tokens(out, TextSpec(source=source, tokenizer=TokenizerSpec(vocab_size=300)), n_train=10_000, n_val=10_000, seq_len=32, seed=0, threads=threads)
"""


# before the first state, inside a part, before a state, inside a part again, while finishing
@pytest.mark.parametrize(
    ("kind", "threads", "deaths"),
    [
        ("ranges", 1, [("_begin", 1), ("commit", 3), ("close", 1)]),
        ("ranges", 2, [("_merge", 4), ("commit", 3), ("_merge", 3)]),
        ("compressed", 2, [("_merge", 5), ("_merge", 4)]),
        ("hub", 1, [("_merge", 7)]),
    ],
)
def test_killed_at_any_moment_the_result_is_the_same(tmp_path, sources, kind, threads, deaths):
    out, work = tmp_path / "t", tmp_path / ".work-t"
    documents = [0]
    for where, after in deaths:
        command = [sys.executable, "-c", CHILD, sources[kind], str(out), str(threads), where, str(after)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not out.exists()
        documents.append(json.loads((work / "state.json").read_text())["documents"])
    assert documents == sorted(documents)  # every one went on where the one before was
    assert documents[-1] > 0
    write(out, sources[kind], threads)
    write(tmp_path / "whole", sources[kind])
    assert content(out) == content(tmp_path / "whole")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".work")]


def test_workers_end_with_a_killed_parent(tmp_path, sources):
    command = [sys.executable, "-c", CHILD, sources["ranges"], str(tmp_path / "t"), "2", "_merge", "2"]
    subprocess.run(command, capture_output=True)
    deadline = time.monotonic() + 60

    def orphans() -> list[psutil.Process]:
        found = psutil.process_iter(["cmdline", "ppid"])
        return [p for p in found if "nca_interp.data.text.encode" in (p.info["cmdline"] or []) and p.info["ppid"] == 1]

    while orphans() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not orphans()


@pytest.mark.parametrize("harm", ["cut", "flip", "state", "input"])
def test_a_working_folder_that_is_not_whole_is_started_again(tmp_path, sources, harm):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(LINES))
    command = [sys.executable, "-c", CHILD, f"files:{path}", str(tmp_path / "t"), "1", "_merge", "6"]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    work = tmp_path / ".work-t"
    if harm == "cut":
        (work / "train.bin").write_bytes(b"")
    elif harm == "flip":
        data = bytearray((work / "train.bin").read_bytes())
        data[3] ^= 1
        (work / "train.bin").write_bytes(data)
    elif harm == "state":
        (work / "state.json").write_text("{}")
    else:
        path.write_text("".join(LINES[1:]))
    write(tmp_path / "t", f"files:{path}")
    write(tmp_path / "whole", f"files:{path}")
    assert content(tmp_path / "t") == content(tmp_path / "whole")


def test_two_processes_do_not_prepare_the_same_tokens(tmp_path, sources):
    from filelock import FileLock

    with FileLock(tmp_path / ".work-t.lock"), pytest.raises(UserError, match="another process is preparing the same"):
        write(tmp_path / "t", sources["ranges"])
    write(tmp_path / "t", sources["ranges"])


class Broken:
    """open_rows that breaks off: with the given errors, one after each few rows, as long as there are some."""

    def __init__(self, errors: list[Exception], every: int) -> None:
        self.errors, self.every, self.whole = list(errors), every, hub.open_rows

    def __call__(self, *where):
        for number, row in enumerate(self.whole(*where)):
            if number == self.every and self.errors:
                raise self.errors.pop(0)
            yield row


def test_broken_connections_are_tried_again(tmp_path, sources, monkeypatch):
    import httpx

    whole = write(tmp_path / "whole", sources["hub"])
    waits: list[float] = []
    monkeypatch.setattr(hub.time, "sleep", waits.append)
    busy = httpx.HTTPStatusError("", request=httpx.Request("GET", "http://x"), response=httpx.Response(503))
    cut_short = type("ClientPayloadError", (Exception,), {"__module__": "aiohttp.client_exceptions"})
    errors = [cut_short(), ConnectionResetError(), TimeoutError(), httpx.ReadTimeout(""), busy]
    broken = Broken(errors * 3, 7)
    monkeypatch.setattr(hub, "open_rows", broken)
    assert write(tmp_path / "t", sources["hub"]).sha256 == whole.sha256
    assert not broken.errors
    assert set(waits) == {1.0}  # every new row starts the count of attempts again


def test_a_connection_that_stays_broken_keeps_what_was_done(tmp_path, sources, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(hub.time, "sleep", waits.append)
    good = hub.open_rows

    def dead(dataset, files, file, skip):
        for number, row in enumerate(good(dataset, files, file, skip), skip):
            if file == 1 and number == 60:
                raise ConnectionResetError("reset by peer")
            yield row

    monkeypatch.setattr(hub, "open_rows", dead)
    message = r"broke at row 61 of file 2 and 8 attempts failed \(reset by peer\).*the same command continues"
    with pytest.raises(RunFailed, match=message):
        write(tmp_path / "t", sources["hub"])
    assert waits == [1, 2, 4, 8, 16, 32, 60]
    documents = json.loads((tmp_path / ".work-t" / "state.json").read_text())["documents"]
    assert documents > 60
    met: list[int] = []
    monkeypatch.setattr(hub, "open_rows", lambda *where: met.append(where[-1]) or good(*where))
    again = write(tmp_path / "t", sources["hub"])
    assert max(met) > 0  # it did not begin at the first row
    monkeypatch.setattr(hub, "open_rows", good)
    assert again == write(tmp_path / "whole", sources["hub"])


def test_a_mistake_is_not_tried_again(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(hub.time, "sleep", lambda seconds: pytest.fail("waited"))
    for error in (FileNotFoundError("no such shard"), ValueError("bad config"), PermissionError("gated")):
        monkeypatch.setattr(hub, "open_rows", Broken([error], 150))
        with pytest.raises(UserError, match=f"cannot be read: {error}"):
            write(tmp_path / "t", sources["hub"])
        assert list(tmp_path.iterdir()) == []


def test_errors_of_workers_arrive_as_they_are(tmp_path):
    (tmp_path / "x.jsonl").write_text("".join(LINES) + '{"text": 3}\n')
    with pytest.raises(UserError, match=r"x\.jsonl: line 601 has no text in column 'text'"):
        write(tmp_path / "t", f"files:{tmp_path}/x.jsonl", 2)
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]


def test_inputs_are_recorded_and_checked(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(LINES))
    part = write(tmp_path / "part", f"files:{path}", max_bytes=10_000)
    whole = write(tmp_path / "whole", f"files:{path}")
    data = path.read_bytes()
    for meta in (part, whole):
        (entry,) = meta.provenance["files"]
        assert entry["sha256"] == inputs.sha256_start(path, entry["bytes"])
    assert 10_000 < part.provenance["files"][0]["bytes"] < len(data) == whole.provenance["files"][0]["bytes"]
    path.write_bytes(data[:-9] + b" " + data[-8:])
    assert write(tmp_path / "part", f"files:{path}", max_bytes=10_000) == part  # what it was made of is the same
    with pytest.raises(UserError, match=r"x\.jsonl: has changed since .*whole was made of it"):
        write(tmp_path / "whole", f"files:{path}")
    path.unlink()
    assert write(tmp_path / "whole", f"files:{path}") == whole


COMPRESS = {
    ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}  # fmt: skip


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files(tmp_path, suffix):
    halves = ["".join(LINES[:300]).encode(), "".join(LINES[300:]).encode()]
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes(
        b"".join(map(COMPRESS[suffix], halves))
    )  # several members in one file, as parallel compressors write
    assert [d.text for d in Corpus(TextSpec(source=f"files:{path}"))] == DOCUMENTS
    plain, packed = tmp_path / "a.txt", tmp_path / f"a.txt{suffix}"
    plain.write_text("\n".join(DOCUMENTS))
    packed.write_bytes(COMPRESS[suffix](plain.read_bytes()))
    assert "".join(d.text for d in Corpus(TextSpec(source=f"files:{packed}"))) == plain.read_text()
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=rf"x\.jsonl{suffix}: damaged, or not {suffix}"):
        list(Corpus(TextSpec(source=f"files:{path}")))
    path.write_bytes(b"plain text")
    with pytest.raises(UserError, match=rf"x\.jsonl{suffix}: damaged, or not {suffix}"):
        write(tmp_path / "t", f"files:{path}")


@settings(deadline=None, max_examples=150)
@given(
    data=st.lists(st.sampled_from(["a", "é", "字", " ", "\n", "\n\n", "\r\n\r\n", "wordwordword"]), max_size=400),
    size=st.integers(40, 300),
)
def test_ranges_of_a_text_hold_all_of_it_once(tmp_path_factory, data, size):
    path = tmp_path_factory.mktemp("r") / "x.txt"
    whole = "".join(data).encode()
    path.write_bytes(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "RANGE_BYTES", size)
        patch.setattr(cuts, "MIN_PIECE", 11)
        patch.setattr(cuts, "MAX_PIECE", 37)
        streams = files.file_streams([path], "text")
        found = [d for stream in streams for d in files.read_stream(stream, "text")]
        assert "".join(found).encode() == whole
        assert all(0 < len(d.encode()) <= 37 for d in found)
        direct = [piece for _, piece in files.pieces(io.BytesIO(whole))]
        assert b"".join(direct) == whole
        assert all(11 <= len(piece) <= 37 for piece in direct[:-1])


@settings(deadline=None, max_examples=60)
@given(lines=st.lists(st.text(max_size=30), max_size=60), size=st.integers(5, 200))
def test_ranges_of_lines_hold_each_once(tmp_path_factory, lines, size):
    path = tmp_path_factory.mktemp("r") / "x.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "RANGE_BYTES", size)
        streams = files.file_streams([path], "text")
        assert [d for stream in streams for d in files.read_stream(stream, "text")] == lines


@settings(deadline=None, max_examples=40)
@given(parts=st.lists(st.lists(st.integers(1, 50) | st.integers(2**62, 2**62 + 50), max_size=300), max_size=60))
def test_seen_is_a_set(parts):
    seen, plain = Seen(), set()
    for part in parts:
        fresh = [not (key in plain or plain.add(key)) for key in part]
        assert seen.add(np.array(part, np.uint64)).tolist() == fresh
    assert seen.count == len(plain)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.txt", b"ELF\0\1\2", r"x\.txt: a binary file, or UTF-16: NUL at offset 3"),
        ("x.jsonl", b"\x89PNG\r\n\x1a\n", r"x\.jsonl: not UTF-8: byte 0x89 at offset 0 \(line 1\)"),
        ("x.txt", "text".encode("utf-16"), r"x\.txt: not UTF-8 but UTF-16 .byte 0xff at offset 0.; convert it"),
        ("x.json", b'["a"]', r"x\.json: record 1 is not a JSON object; an array of objects is legal"),
    ],
)
def test_binary_files_are_named_before_anything_is_written(tmp_path, name, data, message):
    (tmp_path / "a.jsonl").write_text("".join(LINES))
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        write(tmp_path / "t", f"files:{tmp_path}/a.jsonl,{tmp_path}/{name}", n_train=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a.jsonl", name])


def test_a_folder_is_told_from_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"matches no file .*it is a folder: for text in it: files:.*/\*\*/\*\.txt$"):
        Corpus(TextSpec(source=f"files:{tmp_path}")).plan  # noqa: B018


@pytest.mark.parametrize(
    ("files", "way"),
    [
        ({"B.JSONL": '{"text": "x"}'}, r"/\*\*/\*\.JSONL$"),
        ({"sub/a.txt.gz": "", "b.csv": "text"}, r"/\*\*/\*\.csv \(there are \.csv, \.txt\.gz\)$"),
        ({"state.json": "{}", "data.arrow": ""}, r"saved there: hf:"),
    ],
)
def test_the_way_into_a_folder_is_that_of_what_lies_in_it(tmp_path, files, way):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=way):
        match_files(str(tmp_path))
    if "hf:" not in way:  # which is opened as it is
        with pytest.raises(UserError, match=way):
            parse_source(str(tmp_path), [])


def test_nothing_between_commas_is_no_file(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    for source in (f"{tmp_path}/a.txt,", f", {tmp_path}/a.txt", ","):
        with pytest.raises(UserError, match="names nothing on one side of a comma"):
            match_files(source)


def test_two_columns_of_one_name_are_refused_where_they_are_asked_for(tmp_path):
    (tmp_path / "x.csv").write_text("n,n,text\n1,2,some words\n")
    assert list(records(tmp_path / "x.csv", Stream("x.csv", 0, 0), "text")) == [(2, {"n": "2", "text": "some words"})]
    with pytest.raises(UserError, match="2 columns are called 'n'; rename"):
        list(records(tmp_path / "x.csv", Stream("x.csv", 0, 0), "n"))


def test_odd_texts(tmp_path):
    """A byte order mark, a lone surrogate, Windows line ends: read, and counted by the bytes that are trained on."""
    lines = ['{"text": "lone \\ud800 surrogate"}', *(json.dumps({"text": d}) for d in DOCUMENTS[:50])]
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    meta = write(tmp_path / "t", f"files:{tmp_path}/x.jsonl")
    assert meta.provenance["documents"] == 51
    coder = Tokenizer.from_file(str(tmp_path / "t" / "tokenizer.json"))
    opened = TokenFile.open(tmp_path / "t")
    assert "lone ? surrogate" in "".join(coder.decode(x.ravel().tolist()) for x in (opened.train, opened.val))


def test_progress_tells_rates_and_what_is_left(tmp_path, sources, monkeypatch):
    from nca_interp.data.text import packing

    clock = iter(range(10_000))
    monkeypatch.setattr(packing.time, "monotonic", lambda: float(next(clock)))
    seen: list[tuple[str, float]] = []
    spec = TextSpec(source=sources["ranges"], tokenizer=TokenizerSpec(vocab_size=300))
    write_tokens(
        tmp_path / "t", spec, n_train=10_000, n_val=10_000, seq_len=32, seed=0, threads=1,
        progress=lambda label, done: seen.append((label, done)),
    )  # fmt: skip
    shares = [done for label, done in seen if label.startswith("tokenising")]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    label = seen[len(seen) // 2][0]
    assert "rows, " in label
    assert " MB/s, " in label
    assert label.endswith(" left")
