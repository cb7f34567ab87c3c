"""Every kind of file gives the same documents; columns by path; nulls counted; what is not readable is one sentence."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nca_interp.base import UserError
from nca_interp.data.specs import TextSpec, TokenizerSpec
from nca_interp.data.text.columns import pick, root
from nca_interp.data.text.corpus import Corpus
from nca_interp.data.text.files import read_records
from nca_interp.data.text.raw import Stream
from nca_interp.data.text.records import records
from nca_interp.data.tokens import write_tokens

TEXTS = [f'Document {i}, "quoted"; tab\tand\nline, naïve ☃ {"la " * (i % 9)}' for i in range(60)]
ROWS = [{"text": text, "n": i} for i, text in enumerate(TEXTS)]
COMPRESS = {
    "": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".XZ": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}  # fmt: skip


def delimited(delimiter: str) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["n", "text"], delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


def arrow(stream: bool) -> bytes:
    table, out = pa.Table.from_pylist(ROWS), io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return out.getvalue()


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out, row_group_size=11)
    return out.getvalue()


LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
FORMS = {
    "x.jsonl": LINES, "x.JSONL": LINES, "x.ndjson": b"\xef\xbb\xbf" + LINES, "x.json": LINES,
    "array.json": json.dumps(ROWS).encode(), "pretty.Json": b"\xef\xbb\xbf" + json.dumps(ROWS, indent=3, ensure_ascii=False).encode(),
    "array.jsonl": json.dumps(ROWS).encode(), "x.csv": delimited(","), "bom.CSV": b"\xef\xbb\xbf" + delimited(","),
    "x.tsv": delimited("\t"), "x.arrow": arrow(True), "file.arrow": arrow(False), "x.parquet": parquet(),
}  # fmt: skip


def texts(source: str, **fields) -> list[str]:
    return [d.text for d in Corpus(TextSpec(source=source, **fields))]


@pytest.mark.parametrize("name", FORMS)
def test_every_kind_gives_the_same_documents(tmp_path, name):
    (tmp_path / name).write_bytes(FORMS[name])
    assert texts(f"files:{tmp_path / name}") == TEXTS
    assert [{"text": r["text"], "n": int(r["n"])} for r in read_records(tmp_path / name)] == ROWS


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", ["array.json", "x.ndjson", "x.csv", "x.tsv"])
def test_compressed_kinds(tmp_path, name, suffix):
    (tmp_path / f"{name}{suffix}").write_bytes(COMPRESS[suffix](FORMS[name]))
    assert texts(f"files:{tmp_path}/*") == TEXTS


def test_an_array_is_read_a_part_at_a_time(tmp_path):
    """A record, and a character, that lie across the parts; a record longer than several of them."""
    rows = [{"text": "☃字" * 300_000}, {"text": "a" * 5_000_000}, {"text": '\\\\"\u2028' * 9}, {"text": "end"}]
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False))
    assert [{"text": t} for t in texts(f"files:{tmp_path}/a.json")] == rows
    (tmp_path / "a.json").write_text(" \n[ ] \n")
    assert texts(f"files:{tmp_path}/a.json") == []


def test_columns_by_path(tmp_path):
    rows = [
        {"text": {"content": f"inner {i}"}, "messages": [{"content": f"said {i}"}] * (i % 3), "a.b": f"dotted {i}"}
        for i in range(6)
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    for name in ("x.jsonl", "x.parquet"):
        source = f"files:{tmp_path / name}"
        assert texts(source, column="text.content") == [f"inner {i}" for i in range(6)]
        assert texts(source, column="messages.0.content") == [f"said {i}" if i % 3 else "" for i in range(6)]
        assert texts(source, column="a.b") == [f"dotted {i}" for i in range(6)]
        with pytest.raises(UserError, match=r"no text in column 'text'; columns: text\.content"):
            texts(source)
    with pytest.raises(UserError, match="no text in column 'text.contents'"):
        texts(source, column="text.contents")
    assert pick({"a": None}, "a.b.c") is None
    assert (root(["a", "a.b", "c"], "a.b.0"), root(["a"], "ab"), root(["a"], "a")) == ("a.b", None, "a")


def test_datasets_saved_to_disk(tmp_path):
    import datasets

    from nca_interp.data.sources import parse_source

    part = datasets.Dataset.from_list(ROWS)
    part.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict({"train": part, "test": part.select(range(5))}).save_to_disk(tmp_path / "several")
    for name in ("one", "several"):
        assert sorted(texts(f"hf:{tmp_path / name}")) == sorted(TEXTS)
        assert parse_source(str(tmp_path / name)).source == f"hf:{tmp_path / name}"
    assert texts(f"hf:{tmp_path}/several", split="test") == TEXTS[:5]
    with pytest.raises(UserError, match=r"split: 'val' is not in .*several; legal: train, test"):
        texts(f"hf:{tmp_path}/several", split="val")


@pytest.mark.parametrize("threads", [1, 2])
def test_null_and_empty_texts_are_counted(tmp_path, threads):
    rows = [{"text": text if i % 3 else None if i % 2 else " "} for i, text in enumerate(TEXTS)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    spec = TextSpec(source=f"files:{tmp_path}/x.jsonl", tokenizer=TokenizerSpec(vocab_size=300))
    meta = write_tokens(tmp_path / "t", spec, n_train=10_000, n_val=10_000, seq_len=8, seed=0, threads=threads)
    assert (meta.provenance["without_text"], meta.provenance["documents"]) == (20, 40)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.json", b'[{"text": "a"}, {"text": 1}]', "record 2 has no text in column 'text'"),
        ("x.json", b'[{"text": "a"}, "b"]', "record 2 is not a JSON object; an array of objects"),
        ("x.json", b'[{"text": "a"}, {"text" "b"}]', "record 2 is not JSON"),
        ("x.json", b'[{"text": "a"} {"text": "b"}]', r"'\{', not a comma, follows behind record 1"),
        ("x.json", b'[{"text": "a"}', "the file ends, cut off, behind record 1"),
        ("x.json", b'[{"text": "a', "record 1 is not JSON"),
        ("x.json", b'[{"text": "a"}] 1', "something follows the JSON array, behind record 1"),
        ("x.json", b'[{"text": "a\xff"}]', "not UTF-8: byte 0xff at offset 12"),
        ("x.json", b'[{"text": "a", "n": ' + b"9" * 5000 + b"}]", "record 1 is not JSON .an integer of more than 4,300 digits"),
        ("x.jsonl", b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "line 1 is not JSON .an integer"),
        ("x.jsonl", b'{"text": ' + b"[" * 100_000, "line 1 is not JSON .nested too deep"),
        ("x.csv", b"text,n\na,1\nb\n", r"line 3 has 1 fields, the header 2 \(text, n\)"),
        ("x.csv", b'text,n\n"a,1\nb,2\n', "line 3 is not .csv .unexpected end of data"),
        ("x.csv", b"body,n\na,1\n", "line 2 has no text in column 'text'; columns: body, n"),
        ("x.arrow", b"nothing of the kind", "not readable as arrow"),
        ("x.txt", "müde".encode("utf-16"), "not UTF-8 but UTF-16 .* iconv -f UTF-16 -t UTF-8 x.txt"),
        ("x.jsonl", b"\xff\xfe{\x00", "not UTF-8 but UTF-16"),
        ("x.csv", "text\nmüde\n".encode("latin-1"), "byte 0xfc at offset 6; if it is Latin-1, .*iconv -f LATIN1"),
        ("x.txt", "wide".encode("utf-16-le"), "or UTF-16: NUL at offset 1"),
        ("x.parquet.gz", b"", "unpack it"),
        ("x.zip", b"", "unpack it"),
        ("x.log", b"", "plain text of another name: rename it to .txt"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        texts(f"files:{tmp_path / name}")


def test_records_inside_one_object_are_not_taken_for_one_document(tmp_path):
    file, items = tmp_path / "x.json", [{"text": "one"}, {"text": "two"}]
    for text, message in {
        json.dumps(
            {"version": 1, "data": items}
        ): r"x\.json: one JSON object, which holds its records in 'data'; .*jq '\.\[\"data\"\]' x\.json",
        json.dumps(
            items[0], indent=1
        ): r"line 1 is not JSON .*; a \.json holds an array of objects, or one object a line",
    }.items():
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            list(records(file, Stream(str(file), 0, 0)))
    chats = [{"messages": [{"text": "a"}, {"text": "b"}]}, {"messages": []}]
    file.write_text("\n".join(map(json.dumps, chats)))
    assert [record for _, record in records(file, Stream(str(file), 0, 0))] == chats
