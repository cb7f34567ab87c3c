"""Each kind of file: what is whole is read bit by bit, what is damaged is named with what is wrong and how to mend it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nca_interp.base import RunFailed, UserError
from nca_interp.files import commit_dir, damage, disk_errors, write_record
from nca_interp.metrics import last_rows, read_rows
from nca_interp.readers import SEAL, parse_json, read_arrays, read_cells, read_json, read_lines, read_object, to_numbers


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deep"),
        ("9" * 5000, "Exceeds the limit .* digits"),
        ("{", "Expecting property name"),
        (b'"\xff"', "not UTF-8 at byte 1"),
    ],
)
def test_json_that_python_cannot_hold_is_a_value_error_of_a_few_words(text: str | bytes, said: str):
    with pytest.raises(ValueError, match=said) as found:
        parse_json(text)
    assert len(str(found.value)) < 100
    assert "sys." not in str(found.value)


def test_a_record_is_read_as_it_was_written_and_any_change_is_seen(tmp_path: Path):
    path = tmp_path / "x.json"
    value = {"a": (1, 2.5, None), "ü": {3: "\u2028"}, "big": 2**70, "small": 1e-300}
    write_record(path, value)
    assert read_json(path) == json.loads(json.dumps(value))
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            found = read_json(path)
        except UserError:
            continue
        # white space, or the key of the hash, which then is none
        assert {k: v for k, v in found.items() if k in value} == json.loads(json.dumps(value)), at
    path.write_bytes(whole.replace(b"2.5", b"NaN"))
    with pytest.raises(UserError, match="altered since it was written .*; begin again"):
        read_json(path, "begin again")


def test_records_of_earlier_versions_are_read_as_they_are(tmp_path: Path):
    path = tmp_path / "x.json"
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
    assert SEAL not in read_json(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", r"a JSON object is expected, this is \[\]"),
        ("{}", "n is missing"),
        ('{"n": "1"}', 'n: "1", expected whole number'),
        ('{"n": true}', "n: true, expected whole number"),
        ('{"n": 1.5}', "n: 1.5, expected whole number"),
        ('{"n": 1, "x": []}', r"x: \[\], expected number or null"),
    ],
)
def test_an_object_says_which_key_is_wrong(tmp_path: Path, text: str, said: str):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as found:
        read_object(path, "mend it", n=int, **({"x": (float, type(None))} if "x" in text else {}))
    assert str(found.value).startswith(f"{path}: ")
    assert str(found.value).endswith("; mend it")
    path.write_text('{"n": 1, "x": 1}')
    assert read_object(path, n=int, x=(float, type(None))) == {"n": 1, "x": 1}


def test_a_torn_last_line_is_normal_and_any_other_is_named(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss": 1}\n{"step": 1, "loss": null}\n{"st')
    rows = [{"step": 0, "loss": 1}, {"step": 1, "loss": None}]
    assert read_rows(path, "") == last_rows(path, 5) == read_lines(path, torn=True) == rows
    with pytest.raises(UserError, match="line 3: not readable as JSON"):
        read_lines(path)
    for bad in (
        '{"step": 1, "lo',
        "7",
        '{"step": 1.5}',
        '{"loss": 1}',
        '{"step": 1, "loss": "1"}',
        '{"step": 1, "skipped": 0}',
    ):
        path.write_text(f'{{"step": 0}}\n{bad}\n{{"step": 2}}\n')
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: .*; train anew"):
            read_rows(path, "train anew")
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 from the end: .*; train anew"):
            last_rows(path, 5, "train anew")


def test_cells_are_text_and_numbers_come_back_bit_by_bit(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text("name,x\nnan,0.1\nnone,\n,1e-300\n")
    frame = read_cells(path, ["x", "name"])
    assert list(frame.name) == ["nan", "none", ""]
    assert to_numbers(path, "x", frame.x) == [0.1, None, 1e-300]
    for text, said in (
        ("", "not readable as a table"),
        ("name\na\n", "column x is missing"),
        ("a,b\n1,2\n1,2,3\n", "not read"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=rf"t\.csv: {said}.*; run it$"):
            read_cells(path, ["name", "x"], "run it")
    path.write_text("x\nfast\n")
    with pytest.raises(UserError, match=r"t\.csv: column x: could not convert"):
        to_numbers(path, "x", read_cells(path, ["x"]).x)


def test_arrays_are_never_unpickled_and_every_cut_is_named(tmp_path: Path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.arange(100), b=np.ones((3, 3), np.float16))
    assert {k: v.tolist() for k, v in read_arrays(path).items()} == {"a": list(range(100)), "b": [[1] * 3] * 3}
    whole = path.read_bytes()
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"a\.npz: not readable as arrays .*; analyse again"):
            read_arrays(path, "analyse again")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="o.npy"):
        read_arrays(tmp_path / "o.npy")


def full(folder: Path) -> None:
    """What tokenizers raises."""
    (folder / "half").write_text("x")
    raise Exception("No space left on device (os error 28)")


def test_a_rust_library_on_a_full_disk_is_one_sentence_with_the_space(tmp_path: Path):
    with pytest.raises(
        RunFailed, match=r"cannot write .*/o: No space left on device \(os error 28\) \(.* MB are free in .*\); "
    ) as found:
        commit_dir(tmp_path / "o", full)
    assert "\n" not in str(found.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), disk_errors(tmp_path):
        raise KeyError("none of the disk's")


def test_a_committed_folder_fills_an_empty_one_in_place(tmp_path: Path):
    place = tmp_path / "here"
    place.mkdir()
    before = place.stat().st_ino
    commit_dir(place, lambda folder: (folder / "a").write_text("x"))
    assert (place.stat().st_ino, (place / "a").read_text(), damage(place)) == (before, "x", None)
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_quick_looks_at_small_files_whole_and_at_the_manifest_itself(tmp_path: Path):
    folder = commit_dir(tmp_path / "c", lambda f: (f / "a").write_text("0123"))
    (folder / "a").write_text("0124")
    assert damage(folder, quick=True) == "a was altered (SHA-256 differs)"
    (folder / "a").write_text("0123")
    assert damage(folder, quick=True) is None
    manifest = folder / "MANIFEST.json"
    manifest.write_text(manifest.read_text().replace('"bytes": 4', '"bytes": 5'))
    assert "MANIFEST.json: altered since it was written" in (damage(folder, quick=True) or "")
