"""Records of runs are read once, and again where a file changed."""

from __future__ import annotations

import os

import pytest

from nca_interp.analysis.collection import collection
from nca_interp.base import UserError
from nca_interp.store import RunDir


def test_a_record_is_read_again_only_where_its_file_changed(tmp_path, monkeypatch):
    run, read = RunDir(tmp_path / "pt.scratch.web.s0"), []
    monkeypatch.setattr(collection, "read_run_config", lambda r: read.append(r) or "config")
    run.set_status("running", 3)
    assert [collection._records(run)[1]["step"] for _ in range(3)] == [3, 3, 3]
    assert len(read) == 1
    run.set_status("running", 4)
    assert collection._records(run)[1]["step"] == 4
    assert len(read) == 2


def test_an_alteration_that_keeps_size_and_time_is_seen(tmp_path, monkeypatch):
    run = RunDir(tmp_path / "pt.scratch.web.s0")
    monkeypatch.setattr(collection, "read_run_config", lambda r: "config")
    run.set_status("running", 4)
    collection._records(run)
    before, text = run.status_file.stat(), run.status_file.read_text()
    run.status_file.write_text(text.replace('"step": 4', '"step": 5'))
    os.utime(run.status_file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run.status_file.stat().st_size == before.st_size
    with pytest.raises(UserError, match=r"status\.json: altered since it was written"):
        collection._records(run)
