"""Token files: byte for byte reproducible, verified, reused for the same request only, complete or absent."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nca_interp.base import UserError
from nca_interp.data import tokens
from nca_interp.data.specs import DyckSpec, NcaSpec, TextSpec, TokenizerSpec
from nca_interp.data.tokens import TokenFile, write_tokens

SPECS = {
    "nca": NcaSpec(grid=4, n_states=3, band=None),
    "nca-uint32": NcaSpec(grid=4, n_states=20, band=None, burn_in=1),
    "dyck": DyckSpec(k=4),
    "text": TextSpec(source="arithmetic:", tokenizer=TokenizerSpec(vocab_size=280), max_bytes=60_000),
    "site": TextSpec(source="site:code", tokenizer=TokenizerSpec(vocab_size=280), max_bytes=60_000),
}
SIZES = {"n_train": 12, "n_val": 3, "seq_len": 20, "seed": 5}


@pytest.mark.parametrize("name", SPECS)
def test_two_writes_are_identical_and_meta_is_true(tmp_path, name):
    spec = SPECS[name]
    meta = write_tokens(tmp_path / "a", spec, **SIZES, threads=1)
    again = write_tokens(tmp_path / "b", spec, **SIZES, threads=2)
    assert meta == again
    assert set(meta.sha256) >= {"train.bin", "val.bin"}
    for file in [*meta.sha256, "meta.json"]:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    opened = TokenFile.open(tmp_path / "a")
    assert opened.train.shape == (12, 21)
    assert opened.val.shape == (3, 21)
    assert opened.train.max() < meta.vocab_size
    assert opened.train.dtype.name == meta.dtype == ("uint32" if name == "nca-uint32" else "uint16")
    assert not opened.train.flags.writeable
    assert opened.train_mask is None
    assert meta.unsupervised_prefix == (spec.tokens_per_frame if spec.kind == "nca" else 0)
    assert (meta.bytes_per_token is not None) == (spec.kind == "text")


def test_a_finished_directory_is_reused_for_the_same_request_only(tmp_path, monkeypatch):
    write_tokens(tmp_path / "a", SPECS["dyck"], **SIZES)
    before = (tmp_path / "a" / "train.bin").stat().st_mtime_ns
    monkeypatch.setattr(tokens, "_fill_synthetic", None)
    write_tokens(tmp_path / "a", SPECS["dyck"], **SIZES)
    for changed in ({"seed": 6}, {"n_train": 13}, {"seq_len": 19}):
        with pytest.raises(
            UserError, match=f"holds other tokens; nothing was changed\n  {next(iter(changed))}: the folder has"
        ):
            write_tokens(tmp_path / "a", SPECS["dyck"], **{**SIZES, **changed})
    with pytest.raises(UserError, match="spec: the folder has"):
        write_tokens(tmp_path / "a", DyckSpec(k=5), **SIZES)
    assert (tmp_path / "a" / "train.bin").stat().st_mtime_ns == before


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "meta", "no meta"])
def test_damage_is_named(tmp_path, harm):
    write_tokens(tmp_path / "a", SPECS["text"], **SIZES)
    file = tmp_path / "a" / "val.bin"
    if harm == "flip":
        data = bytearray(file.read_bytes())
        data[7] ^= 1
        file.write_bytes(data)
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-2])
    elif harm == "remove":
        file.unlink()
    elif harm == "meta":
        (tmp_path / "a" / "meta.json").write_text(json.dumps({"spec": {}}))
    else:
        (tmp_path / "a" / "meta.json").unlink()
    message = {"meta": "meta.json: not readable", "no meta": "not a token directory"}.get(
        harm, r"val\.bin (was altered|has|is missing)"
    )
    with pytest.raises(UserError, match=message):
        TokenFile.open(tmp_path / "a")
    with pytest.raises(UserError, match=message):
        write_tokens(tmp_path / "a", SPECS["text"], **SIZES)
    with pytest.raises(UserError, match=message):  # a small file is always looked at
        TokenFile.open(tmp_path / "a", verify=False)


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def stop(label, done):
        if done > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tokens(tmp_path / "a", SPECS["nca"], **SIZES, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_band_out_of_reach_leaves_nothing(tmp_path, monkeypatch):
    from nca_interp.data.nca import rows as nca_rows

    monkeypatch.setattr(nca_rows, "TRIES", 500)
    with pytest.raises(UserError, match="out of reach"):
        write_tokens(tmp_path / "a", NcaSpec(grid=4, n_states=2, band=(3, 4)), **SIZES)
    assert list(tmp_path.iterdir()) == []


def test_provenance_of_nca_and_progress(tmp_path):
    seen = []
    spec = NcaSpec(grid=8, n_states=4, band=(0.3, 0.9))
    meta = write_tokens(tmp_path / "a", spec, **SIZES, progress=lambda label, done: seen.append((label, done)))
    assert ("nca train", 1.0) in seen
    for split in ("train", "val"):
        found = meta.provenance[split]
        assert 0 < found["acceptance_rate"] <= 1
        assert 0.3 <= found["gzip_of_accepted"]["min"] <= found["gzip_of_accepted"]["max"] < 0.9
    assert meta.tokens_per_frame == 18
    assert meta.frame_offset == 0
    assert (TokenFile.open(tmp_path / "a").train[:, 0] == spec.vocab_size - 2).all()


@pytest.mark.parametrize("sizes", [{"n_train": 0}, {"n_val": 0}, {"seq_len": 0}])
def test_sizes_must_be_positive(tmp_path, sizes):
    with pytest.raises(UserError, match="legal: 1 or more"):
        write_tokens(tmp_path / "a", SPECS["dyck"], **{**SIZES, **sizes})


def test_train_and_val_differ(tmp_path):
    for name in ("nca", "dyck"):
        write_tokens(tmp_path / name, SPECS[name], **SIZES)
        opened = TokenFile.open(tmp_path / name)
        both = np.concatenate([opened.train, opened.val])
        assert len(np.unique(both, axis=0)) > 12
