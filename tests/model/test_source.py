"""The identity of weights: each file is read once a process, until it changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nca_interp.model import source
from nca_interp.model.source import weights_sha256


def test_a_file_of_weights_is_hashed_once_and_again_where_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read = []

    def hashed(path: Path) -> str:
        read.append(path.name)
        return real(path)

    real = source.sha256_file
    monkeypatch.setattr(source, "sha256_file", hashed)
    weights = tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_text("{}")
    weights.write_bytes(b"abc")
    first = weights_sha256(tmp_path)
    assert weights_sha256(tmp_path) == first
    assert read == ["config.json", "model.safetensors"]
    before = weights.stat()
    weights.write_bytes(b"abd")  # of the same size, and as old to the last nanosecond as files say
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = weights_sha256(tmp_path)
    assert second != first
    os.replace(weights, tmp_path / "model-00001.safetensors")
    assert weights_sha256(tmp_path) != second  # by name, too
